"""What servers use: heartbeats come in, figures are kept and thinned, and nobody's word counts for another's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from maestro_core.budget import month_of
from maestro_core.launches import LaunchPlan, LaunchStatus
from maestro_core.resources import Resources
from maestro_core.roles import Role
from maestro_core.usage import Heartbeat
from maestro_hub_services.store import LaunchRow, Store, UsageRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.tables import charge, workspace
from maestro_hub_services.workspaces.domain import usage
from maestro_hub_services.workspaces.samples import Samples
from tests.workspaces_kit import CREATED, World, running_world, until

GI = 1024**3
NOW = 1_800_000_000


def beat(**values: Any) -> dict[str, Any]:
    return {"cpu_seconds": 1.0, "memory": GI, "busy": False, "kernels": 1, **values}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        yield made


async def call(world: World, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
    async with world.client(who) as client:
        return await client.request(method, path, json=body)


async def launched(world: World, who: str = "ann", role: str = "editor") -> tuple[LaunchPlan, str]:
    """A running server in demo, and its token."""
    await call(world, "ann", "POST", "/workspaces", {"name": "demo"})
    if who != "ann":
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": who, "role": role})
    answer = await call(world, who, "POST", "/launches", {"workspace": "demo"})
    assert answer.status_code == 201, answer.text
    plan = world.hub.servers[who, "demo"].plan
    assert plan is not None
    return plan, world.hub.server_token(who, "demo")


async def tell(world: World, plan: LaunchPlan, token: str, **values: Any) -> httpx.Response:
    async with world.client(token=token) as client:
        return await client.post(f"/launches/{plan.launch_id}/heartbeat", json=beat(**values))


class TestHeartbeats:
    async def test_come_back_as_usage(self, world: World) -> None:
        plan, token = await launched(world)
        gpus = [{"name": "V100", "utilization": 50, "memory": GI}, {"name": "V100", "utilization": 100, "memory": GI}]
        answer = await tell(world, plan, token, memory=3 * GI, busy=True, gpus=gpus)
        assert (answer.status_code, answer.json()) == (200, {"notices": []})
        shown = (await call(world, "ann", "GET", f"/launches/{plan.launch_id}/usage")).json()
        assert shown["latest"]["memory"] == 3 * GI
        assert (shown["latest"]["gpu"], shown["latest"]["gpu_memory"]) == (75, 2 * GI)
        assert (shown["latest"]["busy"], len(shown["points"])) == (1, 1)

    async def test_only_the_launchs_own_server_is_heard(self, world: World) -> None:
        plan, token = await launched(world)
        other = world.hub.server_token("ann", "other")
        eve = world.hub.server_token("eve", "demo")
        for wrong in (other, eve, "token-of-ann", "token-of-root"):
            answer = await tell(world, plan, wrong)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_launch"), wrong
        assert (await tell(world, plan, token)).status_code == 200

    async def test_end_with_the_launch(self, world: World) -> None:
        plan, token = await launched(world)
        await call(world, "ann", "DELETE", f"/launches/{plan.launch_id}")
        assert (await tell(world, plan, token)).status_code == 404

    @pytest.mark.parametrize("wrong", [{"memory": -1}, {"cpu_seconds": "much"}, {"busy": "perhaps"}])
    async def test_nonsense_is_refused(self, world: World, wrong: dict[str, Any]) -> None:
        plan, token = await launched(world)
        answer = await tell(world, plan, token, **wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")

    async def test_fields_of_a_newer_image_are_left_out(self, world: World) -> None:
        plan, token = await launched(world)
        assert (await tell(world, plan, token, mood="good")).status_code == 200

    async def test_storage_is_measured_by_those_who_may_write(self, world: World) -> None:
        plan, token = await launched(world)
        await tell(world, plan, token, workspace_bytes=5 * GI)
        bobs, bobs_token = await launched(world, "bob", "viewer")
        await tell(world, bobs, bobs_token, workspace_bytes=500 * GI)
        shown = (await call(world, "bob", "GET", "/workspaces/demo/usage")).json()
        assert shown["storage_used"] == 5 * GI
        assert shown["storage_measured_at"]

    async def test_a_workspaces_usage_is_its_members_to_see(self, world: World) -> None:
        plan, token = await launched(world)
        await tell(world, plan, token, memory=2 * GI)
        shown = (await call(world, "ann", "GET", "/workspaces/demo/usage")).json()
        (launch,) = shown["launches"]
        assert (launch["user"], launch["latest"]["memory"], launch["resources"]["cpu"]) == ("ann", 2 * GI, 1)
        assert (await call(world, "eve", "GET", "/workspaces/demo/usage")).status_code == 404
        assert (await call(world, "eve", "GET", f"/launches/{plan.launch_id}/usage")).status_code == 404

    async def test_hours_are_told_month_by_month(self, world: World) -> None:
        """Back to the month in which the workspace was made; without being asked, this month alone."""
        await launched(world)
        this = month_of(now())
        before = month_of(this.start - timedelta(days=1))
        made = month_of(before.start - timedelta(days=1))
        async with world.authority.store.write() as unit:
            database = unit.charges._db
            began = before.end.timestamp() - 3 * 3600
            await database.execute(update(charge).values(began=began, cpu=2.0))
            await database.execute(update(workspace).values(created_at=made.start + timedelta(days=3)))
        shown = (await call(world, "ann", "GET", "/workspaces/demo/usage?months=24")).json()
        assert [(one["month"], one["cpu"]) for one in shown["months"]] == [
            (f"{made.start:%Y-%m}", 0),
            (f"{before.start:%Y-%m}", pytest.approx(6)),
        ]
        assert len((await call(world, "ann", "GET", "/workspaces/demo/usage?months=1")).json()["months"]) == 1
        assert (await call(world, "ann", "GET", "/workspaces/demo/usage")).json()["months"] == []

    async def test_cost_no_transaction_each(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        plan, token = await launched(world)

        def no_writing(*_: Any) -> None:
            raise AssertionError("a heartbeat wrote to the store")

        monkeypatch.setattr(world.authority.store, "write", no_writing)
        assert (await tell(world, plan, token, workspace_bytes=1)).status_code == 200


class TestNoticesAtOnce:
    async def test_whoever_waits_is_woken(self, world: World) -> None:
        plan, token = await launched(world, "bob")
        async with world.client(token=token) as client:
            path = f"/launches/{plan.launch_id}/notices"
            known = await client.get(path)
            seen = known.headers["ETag"].strip('"')
            waiting = asyncio.create_task(client.get(path, params={"wait": 30, "seen": seen}))
            await until(lambda: world.authority.bell._waiting, "nobody waits")
            assert not waiting.done()
            await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
            answer = await asyncio.wait_for(waiting, 5)
        assert [notice["kind"] for notice in answer.json()["notices"]] == ["role"]
        await until(lambda: not world.authority.bell._waiting, "somebody waits still")

    async def test_without_a_change_the_answer_is_the_same(self, world: World) -> None:
        plan, token = await launched(world)
        async with world.client(token=token) as client:
            answer = await client.get(f"/launches/{plan.launch_id}/notices", params={"wait": 0.01, "seen": "x"})
        assert answer.json() == {"notices": []}


class TestSamples:
    def note(self, samples: Samples, at: float, **values: Any) -> None:
        samples.note("l-1", Heartbeat(**beat(**values)), at)

    def test_cpu_is_what_was_used_between_two(self) -> None:
        samples = Samples()
        self.note(samples, NOW, cpu_seconds=100)
        self.note(samples, NOW + 30, cpu_seconds=145)
        rows, _ = samples.take()
        assert [(row.seconds, row.cpu_seconds) for row in rows] == [(0, 0), (30, 45)]

    def test_a_counter_or_a_clock_that_goes_back_counts_nothing(self) -> None:
        samples = Samples()
        self.note(samples, NOW, cpu_seconds=100)
        self.note(samples, NOW + 30, cpu_seconds=5)
        self.note(samples, NOW - 3600, cpu_seconds=50)
        rows, _ = samples.take()
        assert [(row.seconds, row.cpu_seconds) for row in rows] == [(0, 0), (30, 0), (0, 0)]

    def test_a_flood_of_heartbeats_is_not_kept(self) -> None:
        samples = Samples()
        for number in range(1000):
            self.note(samples, NOW + number * 0.01)
        rows, _ = samples.take()
        assert len(rows) == 2
        assert samples.take() == ([], {})

    def test_what_has_ended_is_forgotten(self) -> None:
        samples = Samples()
        self.note(samples, NOW, busy=True)
        assert samples.busy_at("l-1") == NOW
        samples.keep_only(set())
        assert samples.busy_at("l-1") is None


def sample(at: int, **values: Any) -> UsageRow:
    known = {"samples": 1, "seconds": 30.0, "cpu_seconds": 15.0, "memory": GI, "memory_peak": GI, "gpu": None}
    more = {"gpu_memory": 0, "busy": 0.0}
    return UsageRow(launch_id="l-1", span=0, at=at, **(known | more | values))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """With a launch ``l-1``, on sqlite and on Postgres."""
    opened = await Store.open(database_url)
    async with opened.write() as unit:
        workspace = await unit.workspaces.add("demo", "ann")
        await unit.launches.add(
            LaunchRow(
                id="l-1", kind="server", workspace_id=workspace.id, user="ann", user_created=CREATED,
                server_name="demo", role=Role.OWNER, profile="small", resources=Resources(), experiment="demo",
                default_url="/lab", status=LaunchStatus.RESERVED, token_mac=None, created_at=now(),
            )
        )  # fmt: skip
    yield opened
    await opened.close()


class TestThinning:
    async def test_samples_become_minutes_and_then_hours(self, store: Store) -> None:
        begin = NOW // 3600 * 3600
        rows = [
            sample(begin + second, memory=GI * (1 + second // 60), busy=1.0 if second < 60 else 0.0)
            for second in range(0, 3600, 30)
        ]
        async with store.write() as unit:
            await unit.usage.add(rows)
            await unit.usage.thin(begin + 3600 + 1800, 90 * 86400)
            kept = await unit.usage.of_launch("l-1")
            assert [row.span for row in kept].count(60) == 30, "what is older than an hour"
            assert [row.span for row in kept].count(0) == 60
            first = kept[0]
            assert (first.at, first.samples, first.seconds, first.cpu_seconds) == (begin, 2, 60, 30)
            assert (first.memory, first.busy) == (GI, 1.0)

            await unit.usage.thin(begin + 3 * 86400, 90 * 86400)
            (hour,) = await unit.usage.of_launch("l-1")
            assert (hour.span, hour.samples, hour.seconds, hour.cpu_seconds) == (3600, 120, 3600, 1800)
            assert hour.memory == sum(range(1, 61)) * GI // 60
            assert hour.memory_peak == GI
            assert hour.busy == pytest.approx(1 / 60)
            assert hour.gpu is None

            await unit.usage.thin(begin + 91 * 86400, 90 * 86400)
            assert await unit.usage.of_launch("l-1") == []

    async def test_no_hour_is_counted_twice(self, store: Store) -> None:
        begin = NOW // 3600 * 3600
        async with store.write() as unit:
            await unit.usage.add([sample(begin + second) for second in range(0, 7200, 30)])
            for moment in range(begin, begin + 3 * 86400, 1234):
                await unit.usage.thin(moment, 90 * 86400)
            kept = await unit.usage.of_launch("l-1")
        assert sum(row.cpu_seconds for row in kept) == pytest.approx(240 * 15)
        assert [row.span for row in kept] == [3600, 3600]

    async def test_a_gpus_load_is_a_mean_of_those_that_say_it(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.usage.add([sample(NOW, gpu=20.0, gpu_memory=GI), sample(NOW + 30, gpu=40.0, gpu_memory=3 * GI)])
            await unit.usage.thin(NOW + 2 * 86400, 90 * 86400)
            (hour,) = await unit.usage.of_launch("l-1")
        assert (hour.gpu, hour.gpu_memory) == (30, 2 * GI)

    async def test_the_last_sample_of_each_launch(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.usage.add([sample(NOW, busy=1.0), sample(NOW + 30, memory=2 * GI)])
            latest = await unit.usage.latest(["l-1", "l-2"])
            assert {name: row.memory for name, row in latest.items()} == {"l-1": 2 * GI}
            assert await unit.usage.last_busy("l-1") == NOW
            assert await unit.usage.last_busy("l-2") is None


async def test_figures_that_wait_are_written_at_the_end(tmp_path: Path) -> None:
    async with running_world(tmp_path / "state") as world:
        plan, token = await launched(world)
        await tell(world, plan, token, busy=True)
        await usage.flush(world.authority)
        async with world.authority.store.read() as unit:
            assert len(await unit.usage.of_launch(plan.launch_id)) == 1
        await usage.tidy(world.authority)
        assert world.authority.samples.busy_at(plan.launch_id) is not None
