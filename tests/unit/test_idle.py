"""Idle servers: warned, kept, stopped by profile; never while something works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from maestro_core.idle import WARNING, IdleQuestion, Verdict, judge, warning_time
from maestro_core.launches import LaunchPlan, LaunchStatus
from maestro_hub_services.store import LaunchRow
from maestro_hub_services.store.tables import launch as launch_table
from maestro_hub_services.workspaces.domain import idle
from tests.workspaces_kit import World, running_world

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class TestTheRule:
    def test_a_server_in_use_is_left_alone(self) -> None:
        assert judge(START, START, HOUR, None) == Verdict(None)
        assert judge(START + 49 * MINUTE, START, HOUR, None) == Verdict(None)

    def test_ten_minutes_before_its_user_is_told(self) -> None:
        assert judge(START + 50 * MINUTE, START, HOUR, None) == Verdict(START + HOUR)

    def test_then_it_ends(self) -> None:
        assert judge(START + 59 * MINUTE, START, HOUR, START + HOUR) == Verdict(START + HOUR)
        assert judge(START + HOUR, START, HOUR, START + HOUR) == Verdict(START + HOUR, stop=True)

    def test_a_late_warning_gives_the_whole_time(self) -> None:
        """The culler was away for a day."""
        day = START + timedelta(days=1)
        assert judge(day, START, HOUR, None) == Verdict(day + WARNING)

    def test_what_is_used_again_is_told_so(self) -> None:
        assert judge(START + 56 * MINUTE, START + 55 * MINUTE, HOUR, START + HOUR) == Verdict(None)

    def test_without_a_limit_nothing_ends(self) -> None:
        assert judge(START + timedelta(days=300), START, None, None) == Verdict(None)

    def test_a_short_limit_has_a_short_warning(self) -> None:
        assert warning_time(MINUTE) == timedelta(seconds=30)

    @given(
        limit=st.integers(1, 100_000),
        uses=st.lists(st.integers(0, 200_000), max_size=6),
        looks=st.lists(st.integers(0, 300_000), min_size=1, max_size=40),
    )
    def test_nothing_is_stopped_unwarned_or_in_use(self, limit: int, uses: list[int], looks: list[int]) -> None:
        """Whenever the culler looks: a stopped server idled for its limit, and was warned for the whole time."""
        ends_at, warned = None, None
        seconds = timedelta(seconds=1)
        allowed = limit * seconds
        for look in sorted(looks):
            active = max((use for use in uses if use <= look), default=0)
            moment = START + look * seconds
            verdict = judge(moment, START + active * seconds, allowed, ends_at)
            if verdict.ends_at is not None and ends_at is None:
                warned = moment
            ends_at = verdict.ends_at
            if verdict.stop:
                assert warned is not None and moment - warned >= warning_time(allowed)
                assert moment - (START + active * seconds) >= allowed
                return


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        yield made


async def launched(world: World, **columns: Any) -> LaunchPlan:
    async with world.client("ann") as client:
        await client.post("/workspaces", json={"name": "demo"})
        assert (await client.post("/launches", json={"workspace": "demo"})).status_code == 201
    plan = world.hub.servers["ann", "demo"].plan
    assert plan is not None
    # it has run for a day, and its profile allows an hour
    await change(world, plan, started_at=datetime.now(UTC) - timedelta(days=1), idle_minutes=60, **columns)
    return plan


async def change(world: World, plan: LaunchPlan, **columns: Any) -> None:
    async with world.authority.store.write() as unit:
        query = update(launch_table).where(launch_table.c.id == plan.launch_id)
        await unit.launches._db.execute(query.values(**columns))


async def row(world: World, plan: LaunchPlan) -> LaunchRow:
    async with world.authority.store.read() as unit:
        found = await unit.launches.get(plan.launch_id)
    assert found is not None
    return found


async def ask(world: World, minutes: float, **more: Any) -> bool:
    """The culler's question: the Hub has seen nobody for so long."""
    body = {"user": "ann", "server_name": "demo", "inactive": minutes * 60, **more}
    async with world.client("maestro-idle-culler") as client:
        answer = await client.post("/plan/idle", json=body)
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["stop"])


async def notices(world: World, plan: LaunchPlan, what: str = "heartbeat", **more: Any) -> list[dict[str, Any]]:
    body = {"cpu_seconds": 1, "memory": 1, "busy": False, "kernels": 1, **more}
    async with world.client(token=world.hub.server_token("ann", "demo")) as client:
        answer = await client.post(f"/launches/{plan.launch_id}/{what}", json=body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["notices"])


class TestTheCuller:
    async def test_warns_and_then_stops(self, world: World) -> None:
        plan = await launched(world)
        assert not await ask(world, 40)
        assert await notices(world, plan) == []
        assert not await ask(world, 55)
        (notice,) = await notices(world, plan)
        assert (notice["kind"], notice["action"], notice["level"]) == ("cull", "keep", "warning")
        assert not await ask(world, 59)
        await change(world, plan, ends_at=datetime.now(UTC))
        assert await ask(world, 65)
        async with world.client("maestro-spawner") as spawner:  # the culler stops it, as it stops any other
            await spawner.post(f"/plan/launches/{plan.launch_id}/release", json={"reason": "stopped"})
        ended = await row(world, plan)
        assert (ended.status, ended.ended_reason) == (LaunchStatus.ENDED, "nobody used it for 65 minutes")

    async def test_keep_it_running_gives_it_its_time_again(self, world: World) -> None:
        plan = await launched(world)
        assert not await ask(world, 55)
        assert await notices(world, plan, "keep") == []
        assert not await ask(world, 600)
        assert (await row(world, plan)).ends_at is None

    async def test_its_user_keeps_it_from_elsewhere_too_and_nobody_else(self, world: World) -> None:
        plan = await launched(world)
        await ask(world, 55)
        async with world.client("eve") as eve:
            assert (await eve.post(f"/launches/{plan.launch_id}/keep", json={})).status_code == 404
        async with world.client("ann") as ann:
            assert (await ann.post(f"/launches/{plan.launch_id}/keep")).json() == {"notices": []}

    async def test_a_busy_kernel_is_not_idle(self, world: World) -> None:
        plan = await launched(world)
        await notices(world, plan, busy=True)
        assert not await ask(world, 600)
        assert (await row(world, plan)).ends_at is None

    async def test_a_busy_kernel_is_remembered_through_a_restart(self, tmp_path: Path) -> None:
        async with running_world(tmp_path / "state") as world:
            plan = await launched(world)
            await notices(world, plan, busy=True)
            from maestro_hub_services.workspaces.domain import usage

            await usage.flush(world.authority)
            servers = world.hub.servers
        async with running_world(tmp_path / "state") as world:
            world.hub.servers = servers
            assert not await ask(world, 600)

    async def test_what_is_used_again_is_spared(self, world: World) -> None:
        plan = await launched(world)
        await ask(world, 55)
        await ask(world, 1)
        assert await notices(world, plan) == []
        async with world.authority.store.read() as unit:
            (event,) = await unit.events.latest(limit=1)
        assert (event.kind, event.actor, event.fields["reason"]) == ("launch_spared", "idle-culler", "it is used again")

    async def test_a_profile_that_does_not_say_has_the_cullers_time(self, world: World) -> None:
        plan = await launched(world)
        await change(world, plan, idle_minutes=None)
        await ask(world, 600, limit=0)
        assert (await row(world, plan)).ends_at is None, "0 is for ever"
        await ask(world, 600, limit=7200)
        assert (await row(world, plan)).ends_kind == "idle"

    async def test_a_role_that_is_gone_comes_first(self, world: World) -> None:
        plan = await launched(world)
        async with world.authority.store.write() as unit:
            await unit.launches.will_end(plan.launch_id, "role", datetime.now(UTC) + MINUTE, "ann is no member")
            assert not await unit.launches.will_end(plan.launch_id, "idle", datetime.now(UTC), "idle")
        assert not await ask(world, 600)
        assert (await row(world, plan)).ends_kind == "role"

    async def test_servers_that_are_none_of_ours_are_left_alone(self, world: World) -> None:
        question = IdleQuestion(user="ann", server_name="elsewhere", inactive=1e6, limit=60)
        assert not (await idle.may_stop(world.authority, question)).stop
