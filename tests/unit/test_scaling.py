"""Scaling: other amounts for a server that runs, in place or by a restart; nothing is left changed when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maestro_core.budget import month_of
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchView, ScaleRequest
from maestro_core.models import read_model
from maestro_core.resources import Resources
from maestro_hub_services.store import Place, clock
from maestro_hub_services.store.clock import now
from maestro_hub_services.workspaces.app import open_authority
from maestro_hub_services.workspaces.authority import Authority
from maestro_hub_services.workspaces.domain import admission, scaling
from maestro_hub_services.workspaces.resizing import CannotResize
from maestro_hub_services.workspaces.resizing.kubernetes import State, read_state
from tests.workspaces_kit import CREATED, World, ask, notebook, person, running_world, settings_for, until, user

GIB = 1024**3
ANN, BOB = user("ann"), user("bob")
POLICY = """
profiles:
  - {name: small, cpu: 1, memory: 2Gi, allow: {cpu: 4, memory: 8Gi}}
  - {name: large, cpu: 8, memory: 32Gi}
"""


@dataclass
class Resizing:
    """Pods of a test: what each has, and whether it can be changed."""

    never: str | None = None
    has: dict[str, Resources] = field(default_factory=dict)
    refuses: str = ""
    silent: bool = False
    asked: int = 0
    gate: asyncio.Event | None = None

    async def resize(self, launch_id: str, after: Resources) -> None:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.refuses:
            raise CannotResize(self.refuses)
        self.has[launch_id] = after
        if self.silent:
            raise MaestroError("timeout", "The cluster does not say.")

    async def settle(self, launch_id: str, *, give_up: bool) -> Resources | None:
        return self.has.get(launch_id)

    async def close(self) -> None: ...


Opened = Callable[..., Awaitable[Authority]]


@pytest.fixture
def pods() -> Resizing:
    return Resizing()


@pytest.fixture
async def opened(tmp_path: Path, database_url: str, pods: Resizing) -> AsyncIterator[Opened]:
    """The service's domain on a cluster that can resize, under the quotas that a test writes."""
    async with AsyncExitStack() as stack:

        async def open_with(quotas: str = "") -> Authority:
            made = open_authority(settings_for(tmp_path / "state", policy=POLICY + quotas, store_db=database_url))
            return replace(await stack.enter_async_context(made), resizer=pods)

        yield open_with


async def running(authority: Authority, who: Any = ANN, server: str = "", **options: Any) -> str:
    """The launch of a server that runs."""
    plan = await admission.plan(authority, ask(who, server, workspace="personal", **options))
    await admission.confirm(authority, plan.launch_id)
    return plan.launch_id


async def scale(authority: Authority, launch_id: str, who: Any = ANN, **amounts: Any) -> LaunchView:
    return await scaling.scale_launch(authority, person(who), launch_id, read_model(ScaleRequest, amounts))


async def refused(authority: Authority, launch_id: str, who: Any = ANN, **amounts: Any) -> MaestroError:
    with pytest.raises(MaestroError) as caught:
        await scale(authority, launch_id, who, **amounts)
    return caught.value


async def held(authority: Authority, launch_id: str) -> tuple[float, int]:
    async with authority.store.read() as unit:
        row = await unit.launches.get(launch_id)
    assert row is not None
    return row.resources.cpu, row.resources.memory // GIB


async def hours(authority: Authority) -> float:
    async with authority.store.read() as unit:
        counted = await unit.counts.count(month_of(now()), hours={("pool", "")})
    return counted.hours[("pool", "")].cpu


async def last_event(authority: Authority) -> Any:
    async with authority.store.read() as unit:
        (event,) = await unit.events.latest(limit=1)
    return event


class TestInPlace:
    async def test_a_running_server_has_other_amounts_and_keeps_its_session(
        self, opened: Opened, pods: Resizing
    ) -> None:
        authority = await opened()
        session = await running(authority)
        view = await scale(authority, session, cpu="4", memory="8Gi")
        assert (view.session_id, view.status) == (session, "running")
        assert (view.resources.cpu, view.resources.memory) == (4, 8 * GIB)
        assert pods.has[session] == view.resources
        event = await last_event(authority)
        assert event.kind == "launch_scaled" and event.actor == "ann" and event.fields["was"]["cpu"] == 1

    async def test_what_is_left_out_stays_and_the_same_again_asks_nobody(self, opened: Opened, pods: Resizing) -> None:
        authority = await opened()
        session = await running(authority)
        assert (await scale(authority, session, memory="4Gi")).resources.show() == "1 cpu, 4 GiB"
        assert (await scale(authority, session, cpu=1, memory="4Gi")).resources.show() == "1 cpu, 4 GiB"
        assert pods.asked == 1
        assert (await refused(authority, session)).code == "invalid_request"

    async def test_hours_are_charged_for_what_was_held_when(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = await opened()
        at, steady = 1_794_000_000.0, [0.0]  # far from a month's end
        monkeypatch.setattr(clock, "read_wall", lambda: at + steady[0])
        monkeypatch.setattr(clock, "read_steady", lambda: steady[0])
        session = await running(authority)
        steady[0] += 3600
        await scale(authority, session, cpu=4)
        steady[0] += 1800
        await scale(authority, session, memory="4Gi")
        steady[0] += 1800
        await admission.release(authority, session, "stopped")
        steady[0] += 3600
        assert await hours(authority) == pytest.approx(1 * 1 + 4 * 1)

    @pytest.mark.parametrize(
        ("what", "says"),
        [("starting", "is still starting"), ("ended", "has ended"), ("closing", "is being stopped, because")],
    )
    async def test_only_what_runs_and_goes_on_is_scaled(self, opened: Opened, what: str, says: str) -> None:
        authority = await opened()
        plan = await admission.plan(authority, ask(ANN, "", workspace="personal"))
        session = plan.launch_id
        if what != "starting":
            await admission.confirm(authority, session)
        if what == "ended":
            await admission.release(authority, session, "stopped")
        if what == "closing":
            async with authority.store.write() as unit:
                await unit.launches.will_end(session, "role", now(), "ann is no member any more")
        error = await refused(authority, session, cpu=2)
        assert error.code == "conflict" and says in error.message

    async def test_nobody_scales_the_server_of_somebody_else(self, opened: Opened) -> None:
        authority = await opened()
        session = await running(authority)
        assert (await refused(authority, session, BOB, cpu=2)).code == "unknown_launch"
        elsewhere = notebook(ANN, "another")
        with pytest.raises(MaestroError) as caught:
            await scaling.scale_launch(authority, elsewhere, session, ScaleRequest(cpu=2))
        assert caught.value.code == "unknown_launch"


class TestQuota:
    async def test_growing_is_decided_as_a_start_is(self, opened: Opened, pods: Resizing) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_total: 4}}")
        await running(authority, ANN, "other")
        session = await running(authority)
        error = await refused(authority, session, cpu=4)
        assert error.code == "quota_exceeded" and "You have 1 of 4 cpu in use (other)" in error.message
        event = await last_event(authority)
        assert (event.kind, event.fields["limit"]) == ("launch_refused", "max_cpu_total")
        assert pods.asked == 0 and await held(authority, session) == (1, 2)
        assert (await scale(authority, session, cpu=3)).resources.cpu == 3

    async def test_its_own_place_and_what_it_gives_back_pass_no_limit(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_concurrent_notebooks: 1, max_cpu_per_notebook: 4}}")
        session = await running(authority, resources={"cpu": 4, "memory": "8Gi"})
        async with authority.store.write() as unit:
            await unit.quotas.put(Place("user", "ann", CREATED), "max_cpu_per_notebook", 2, "root")
        assert (await scale(authority, session, cpu=3)).resources.cpu == 3  # still over it, but less
        assert (await refused(authority, session, cpu=4)).details["limit"] == "max_cpu_per_notebook"

    async def test_a_used_up_budget_lets_nothing_grow(self, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_hours_per_month: 1}}")
        at, steady = 1_794_000_000.0, [0.0]
        monkeypatch.setattr(clock, "read_wall", lambda: at + steady[0])
        monkeypatch.setattr(clock, "read_steady", lambda: steady[0])
        session = await running(authority)
        steady[0] += 7200
        assert (await refused(authority, session, cpu=2)).details["limit"] == "max_cpu_hours_per_month"
        assert (await scale(authority, session, cpu=0.5, memory="4Gi")).resources.show() == "0.5 cpu, 4 GiB"

    async def test_two_that_grow_at_the_same_moment_share_what_is_left(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_total: 6, max_concurrent_notebooks: 9}}")
        sessions = [await running(authority, ANN, f"s{number}") for number in range(4)]
        outcomes = await asyncio.gather(
            *(scale(authority, session, cpu=3) for session in sessions), return_exceptions=True
        )
        assert sum(isinstance(one, LaunchView) for one in outcomes) == 1
        assert {one.code for one in outcomes if isinstance(one, MaestroError)} == {"quota_exceeded"}

    async def test_the_higher_figure_is_held_until_it_is_settled(self, opened: Opened, pods: Resizing) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_total: 5}}")
        session, pods.gate, pods.refuses = await running(authority), asyncio.Event(), "its node is full"
        growing = asyncio.create_task(scale(authority, session, cpu=4, memory="1Gi"))
        await until(lambda: pods.asked, "nobody asked the pods")
        assert await held(authority, session) == (4, 2)
        with pytest.raises(MaestroError, match="max_cpu_total"):
            await running(authority, ANN, "more", resources={"cpu": 2})
        assert "being resized" in (await refused(authority, session, cpu=1)).message
        pods.gate.set()
        with pytest.raises(MaestroError):
            await growing
        assert await held(authority, session) == (1, 2)
        await running(authority, ANN, "more", resources={"cpu": 2})


class TestFailure:
    async def test_a_resize_that_fails_leaves_nothing_changed_and_offers_the_restart(
        self, opened: Opened, pods: Resizing
    ) -> None:
        authority = await opened()
        session, pods.refuses = await running(authority), "its node has no room for it now"
        error = await refused(authority, session, cpu=2)
        assert error.code == "restart_needed" and error.details["profile"] == "small"
        assert "because its node has no room for it now; ask again with restart" in error.message
        assert await held(authority, session) == (1, 2)
        assert (await last_event(authority)).kind == "launch_running"

    async def test_what_was_cut_off_is_settled_by_what_the_server_has(
        self, opened: Opened, pods: Resizing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The service was killed, or heard nothing, between the two transactions."""
        authority = await opened()
        at, steady = 1_794_000_000.0, [0.0]
        monkeypatch.setattr(clock, "read_wall", lambda: at + steady[0])
        monkeypatch.setattr(clock, "read_steady", lambda: steady[0])
        session, pods.silent = await running(authority), True
        assert (await refused(authority, session, cpu=4, memory="1Gi")).code == "timeout"
        assert await held(authority, session) == (4, 2)
        nothing_known = replace(authority, resizer=Resizing())
        await scaling.settle_cut_off(nothing_known)
        assert await held(authority, session) == (4, 2)
        await scaling.settle_cut_off(authority)
        assert await held(authority, session) == (4, 1)
        event = await last_event(authority)
        assert (event.kind, event.fields["resources"]["cpu"]) == ("launch_scaled", 4)
        steady[0] += 3600
        assert await hours(authority) == pytest.approx(4)
        await scaling.settle_cut_off(authority)
        pods.silent = False
        assert (await scale(authority, session, cpu=1)).resources.cpu == 1

    async def test_a_launch_that_ends_meanwhile_stays_ended(self, opened: Opened, pods: Resizing) -> None:
        authority = await opened()
        session, pods.gate = await running(authority), asyncio.Event()
        growing = asyncio.create_task(scale(authority, session, cpu=4))
        await until(lambda: pods.asked, "nobody asked the pods")
        await admission.release(authority, session, "stopped")
        pods.gate.set()
        with pytest.raises(MaestroError, match="ended meanwhile"):
            await growing
        async with authority.store.read() as unit:
            assert not await unit.launches.active()
            assert not await unit.launches.resizing()


class TestProfiles:
    async def test_what_its_profile_does_not_cover_takes_a_restart_into_one_that_does(self, opened: Opened) -> None:
        authority = await opened()
        session = await running(authority)
        error = await refused(authority, session, cpu=6)
        assert error.code == "restart_needed" and error.details["profile"] == "large"
        assert "the profile large instead of small (6 cpu of 4)" in error.message

    async def test_what_no_profile_covers_is_refused(self, opened: Opened) -> None:
        authority = await opened()
        assert (await refused(authority, await running(authority), cpu=64)).code == "profile_closed"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The service on one machine, over a Hub."""
    async with running_world(tmp_path / "state", POLICY) as world:
        yield world


class TestOnOneMachine:
    async def test_the_restart_is_offered_and_done_when_asked_for(self, world: World) -> None:
        async with world.client("ann") as client:
            started = (await client.post("/launches", json={"template": "start-here"})).json()
            path = f"/launches/{started['session_id']}/scale"
            answer = await client.post(path, json={"cpu": 2})
            assert answer.status_code == 409 and answer.json()["error"]["code"] == "restart_needed"
            assert "one machine" in answer.json()["error"]["message"]
            assert (await client.get(f"/launches/{started['session_id']}")).json()["status"] == "running"
            again = (await client.post(path, json={"cpu": 2, "restart": True})).json()
            assert again["session_id"] != started["session_id"]
            assert (again["status"], again["resources"]["cpu"]) == ("running", 2)
            assert again["notebook_url"] == started["notebook_url"]
            assert (await client.get(f"/launches/{started['session_id']}")).json()["status"] == "ended"
        assert world.hub.servers["ann", ""].options["template"] == "start-here"

    async def test_the_server_goes_on_when_the_new_amounts_are_refused(self, world: World) -> None:
        async with world.client("ann") as client:
            session = (await client.post("/launches", json={})).json()["session_id"]
            answer = await client.post(f"/launches/{session}/scale", json={"cpu": 64, "restart": True})
            assert answer.json()["error"]["code"] == "profile_closed"
            assert (await client.get(f"/launches/{session}")).json()["status"] == "running"

    async def test_an_admin_scales_for_others(self, world: World) -> None:
        async with world.client("ann") as ann, world.client("root") as root, world.client("bob") as bob:
            session = (await ann.post("/launches", json={})).json()["session_id"]
            body = {"memory": "4Gi", "restart": True}
            assert (await bob.post(f"/launches/{session}/scale", json=body)).status_code == 404
            assert (await root.post(f"/launches/{session}/scale", json=body)).json()["user"] == "ann"


def pod(
    limits: tuple[str, str], has: tuple[str, str] | None, *conditions: tuple[str, str], seen: tuple[int, int | None]
) -> Any:
    """The API's object as far as it is looked at; ``seen``: generation, and the one that the kubelet saw."""

    def amounts(pair: tuple[str, str]) -> Any:
        return SimpleNamespace(limits={"cpu": pair[0], "memory": pair[1], "nvidia.com/gpu": "1"})

    resources = None if has is None else amounts(has)
    return SimpleNamespace(
        metadata=SimpleNamespace(generation=seen[0]),
        spec=SimpleNamespace(containers=[SimpleNamespace(name="notebook", resources=amounts(limits))]),
        status=SimpleNamespace(
            observed_generation=seen[1],
            conditions=[SimpleNamespace(type=kind, status="True", reason=why) for kind, why in conditions],
            container_statuses=[
                SimpleNamespace(name="other", resources=None), SimpleNamespace(name="notebook", resources=resources)
            ],
        ),
    )  # fmt: skip


BIG, SMALL = (2.0, 4.0 * GIB), (0.5, 1.0 * GIB)


@pytest.mark.parametrize(
    ("seen", "state", "done"),
    [
        (pod(("2", "4Gi"), ("2", "4Gi"), seen=(2, 2)), State(BIG, BIG, None, False), True),
        (pod(("2", "4Gi"), ("2", "4Gi"), seen=(2, None)), State(BIG, BIG, None, False), True),
        (pod(("2", "4Gi"), ("500m", "1Gi"), seen=(2, 1)), State(BIG, None, None, True), False),
        (pod(("2", "4Gi"), None, seen=(2, 2)), State(BIG, None, None, False), False),
        (
            pod(("500m", "1Gi"), ("2", "4Gi"), ("PodResizeInProgress", ""), seen=(3, 3)),
            State(SMALL, BIG, None, True),
            False,
        ),
        (
            pod(("2", "4Gi"), ("500m", "1Gi"), ("PodResizePending", "Infeasible"), seen=(3, 3)),
            State(BIG, SMALL, "Infeasible", False),
            False,
        ),
    ],
)
def test_a_pods_status_says_how_far_the_kubelet_is(seen: Any, state: State, done: bool) -> None:
    assert read_state(seen) == state and state.done is done
