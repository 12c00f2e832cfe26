"""Reconcile: what leaked is taken back, what lives is left alone, whatever was killed between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from maestro_core.budget import month_of
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan, LaunchStatus
from maestro_core.roles import Role
from maestro_hub_services.store import LaunchRow, clock, counts
from maestro_hub_services.workspaces.domain import admission, reconcile
from tests.workspaces_kit import CREATED, Server, World, ask, running_world, until


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(reconcile, "GRACE", timedelta(0))
    async with running_world(tmp_path / "state") as made:
        yield made


async def reserved(world: World, name: str = "ann", server: str = "") -> LaunchPlan:
    """A launch that the spawner has asked for; the Hub shows it as starting."""
    options = {"workspace": "personal"} if server else {}
    made = await admission.plan(world.authority, ask(world.hub.users[name], server, **options))
    world.hub.servers[name, server] = Server(server, pending="spawn", plan=made)
    return made


async def running(world: World, name: str = "ann", server: str = "") -> LaunchPlan:
    made = await reserved(world, name, server)
    await admission.confirm(world.authority, made.launch_id)
    world.hub.servers[name, server] = Server(server, ready=True, started=CREATED, plan=made)
    return made


async def row(world: World, made: LaunchPlan) -> LaunchRow:
    async with world.authority.store.read() as unit:
        found = await unit.launches.get(made.launch_id)
    assert found is not None
    return found


async def status(world: World, made: LaunchPlan) -> LaunchStatus:
    return (await row(world, made)).status


class TestWhatLives:
    @pytest.mark.parametrize("pending", ["spawn", "check", "stop"])
    async def test_a_server_on_its_way_is_left_alone(self, world: World, pending: str) -> None:
        made = await reserved(world)
        world.hub.servers["ann", ""].pending = pending
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.RESERVED

    async def test_a_running_one_is_left_alone(self, world: World) -> None:
        made = await running(world)
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.RUNNING

    async def test_a_lost_confirmation_is_made_up_for(self, world: World) -> None:
        made = await reserved(world)
        world.hub.servers["ann", ""] = Server("", ready=True, started=CREATED)
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.RUNNING

    async def test_a_hub_that_does_not_answer_ends_nothing(self, world: World) -> None:
        made = await running(world)
        world.hub.servers.clear()
        world.hub.down = True
        with pytest.raises(MaestroError):
            await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.RUNNING

    async def test_what_a_page_of_the_list_misses_is_asked_for_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = await running(world)

        async def nobody(*, active: bool) -> AsyncIterator[None]:
            return
            yield

        monkeypatch.setattr(world.authority.hub, "users", nobody)
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.RUNNING

    async def test_all_pages_of_the_list_are_read(self, world: World) -> None:
        for number in range(7):  # the Hub of the tests gives three at a time
            world.hub.add(f"p{number}")
        plans = [await running(world, f"p{number}") for number in range(7)]
        world.hub.asked.clear()
        await reconcile.release_leaked(world.authority)
        assert {await status(world, made) for made in plans} == {LaunchStatus.RUNNING}
        assert [path for _, path in world.hub.asked] == ["/hub/api/users"] * 3

    async def test_without_launches_the_hub_is_not_bothered(self, world: World) -> None:
        await reconcile.release_leaked(world.authority)
        assert world.hub.asked == []


class TestWhatLeaked:
    async def test_a_reservation_that_nothing_starts_for(self, world: World) -> None:
        """kill -9 of the Hub between the plan and the start: the next Hub knows of no such server."""
        made = await reserved(world)
        del world.hub.servers["ann", ""]
        await reconcile.release_leaked(world.authority)
        ended = await row(world, made)
        assert (ended.status, ended.ended_reason) == (LaunchStatus.ENDED, "the start was not finished")
        async with world.authority.store.read() as unit:
            (event,) = await unit.events.latest(limit=1)
        assert (event.kind, event.actor, event.user) == ("launch_ended", "reconcile", "ann")

    async def test_a_young_reservation_has_its_grace(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reconcile, "GRACE", timedelta(seconds=10))
        made = await reserved(world)
        del world.hub.servers["ann", ""]
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.RESERVED

    async def test_a_running_one_whose_server_is_gone(self, world: World) -> None:
        made, other = await running(world, server="a"), await running(world, server="b")
        world.hub.crash("ann", "a")
        await reconcile.release_leaked(world.authority)
        assert (await row(world, made)).ended_reason == "the server is gone"
        assert await status(world, other) is LaunchStatus.RUNNING

    async def test_one_of_a_user_who_was_deleted(self, world: World) -> None:
        made = await running(world)
        del world.hub.users["ann"]
        world.authority.hub._users.clear()
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.ENDED

    async def test_one_whose_name_is_somebody_elses_now(self, world: World) -> None:
        made = await running(world)
        world.hub.add("ann", created="2026-07-01T00:00:00.000000Z")  # and their own server runs under that name
        world.authority.hub._users.clear()
        await reconcile.release_leaked(world.authority)
        assert await status(world, made) is LaunchStatus.ENDED


class TestLeftovers:
    async def demo(self, world: World) -> None:
        async with world.authority.store.write() as unit:
            made = await unit.workspaces.add("demo", "ann")
            await unit.members.put(made.id, "user", "ann", CREATED, Role.OWNER, "ann")

    async def test_a_refused_name_leaves_no_row_at_the_hub(self, world: World) -> None:
        world.hub.servers["eve", "secret"] = Server("secret")  # the Hub makes it when the form is opened
        with pytest.raises(MaestroError):
            await admission.plan(world.authority, ask(world.hub.users["eve"], "secret"))
        await reconcile.remove_leftovers(world.authority)
        assert ("eve", "secret") not in world.hub.servers

    async def test_what_the_hub_kept_from_before_is_swept(self, world: World) -> None:
        await self.demo(world)
        rows = {
            ("ann", "demo"): Server("demo"),  # hers to start
            ("eve", "demo"): Server("demo"),  # closed to eve
            ("eve", "nothing"): Server("nothing"),
            ("eve", "more"): Server("more", options={"workspace": "personal"}),
            ("eve", "odd"): Server("odd", options={"workspace": ["x"]}),
            ("eve", "old"): Server("old", started=CREATED),  # was once started
            ("eve", ""): Server(""),
            ("bob", "nothing"): Server("nothing", pending="spawn"),
        }
        world.hub.servers.update(rows)
        await reconcile.sweep(world.authority)
        gone = {("eve", "demo"), ("eve", "nothing"), ("eve", "odd")}
        assert set(world.hub.servers) == set(rows) - gone

    async def test_a_name_that_was_opened_meanwhile_stays(self, world: World) -> None:
        world.hub.servers["ann", "demo"] = Server("demo")
        world.authority.leftovers.add("ann", "demo")
        await self.demo(world)
        await reconcile.remove_leftovers(world.authority)
        assert ("ann", "demo") in world.hub.servers

    async def test_they_are_not_without_bound(self, world: World) -> None:
        for number in range(3000):
            world.authority.leftovers.add("eve", f"s{number}")
        assert len(world.authority.leftovers.take()) == 1000
        assert world.authority.leftovers.take() == []


async def test_the_loop_goes_on_after_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "INTERVAL", 0.01)
    made = await running(world)
    world.hub.down = True
    loop = asyncio.create_task(reconcile.reconcile_for_ever(world.authority))
    try:
        await until(lambda: len(world.hub.asked) > 2, "nobody looked")
        world.hub.down = False
        world.hub.servers.clear()

        async def ended() -> bool:
            return await status(world, made) is LaunchStatus.ENDED

        await until(ended, "the leaked launch is still there")
    finally:
        loop.cancel()


class TestGroups:
    async def test_who_joins_or_leaves_a_group_counts_in_its_pool_at_the_next_look(self, world: World) -> None:
        """And an ended launch keeps the groups of its time."""
        world.hub.add("ann", "ml")
        async with world.client("ann") as client:
            session = (await client.post("/launches", json={})).json()["session_id"]

        async def held() -> dict[str, int]:
            async with world.authority.store.read() as unit:
                pools = [counts.pool("ml"), counts.pool("new")]
                counted = await unit.counts.count(month_of(clock.now()), held=pools)
                return {name: one.servers for (_, name), one in counted.held.items()}

        assert await held() == {"ml": 1}
        world.hub.add("ann", "new")
        await reconcile.release_leaked(world.authority)
        assert await held() == {"new": 1}
        async with world.client("ann") as client:
            await client.delete(f"/launches/{session}")
        world.hub.add("ann", "ml")
        await reconcile.release_leaked(world.authority)
        async with world.authority.store.read() as unit:
            assert await unit.launches.noted_groups() == {}
