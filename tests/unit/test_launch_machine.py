"""Asks, confirmations, failures, stops, crashes and reconcile in any order, against a model that counts by hand."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from maestro_core.errors import MaestroError
from maestro_core.roles import Role
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import clock
from maestro_hub_services.workspaces.app import open_authority
from maestro_hub_services.workspaces.domain import admission, reconcile
from maestro_hub_services.workspaces.hub import HubServer, HubUser
from tests.workspaces_kit import CREATED, ask, settings_for, user

POLICY = """
profiles:
  - {name: plain, cpu: 1, memory: 2Gi}
  - {name: gpu, cpu: 2, memory: 4Gi, gpu: 2}
quotas:
  everyone: {max_concurrent_notebooks: 3, max_cpu_total: 5, max_gpu_hours_per_month: 3}
  workspaces: {demo: {max_concurrent_notebooks: 4}}
  pools:
    everyone: {max_memory_total: 20Gi}
    groups: {ml: {max_gpu_total: 4}}
"""
PEOPLE = [user("u1", "ml"), user("u2", "ml"), user("u3")]
HELD = {"plain": (1, 2, 0), "gpu": (2, 4, 2)}  # cpu, GiB, gpu
T = TypeVar("T")


@dataclass
class Launch:
    """What the model knows of a launch that was admitted."""

    user: str
    server: str
    demo: bool
    profile: str
    groups: tuple[str, ...]
    made: float
    confirmed: bool = False
    ended: bool = False
    gpu_seconds: float = 0.0

    @property
    def cpu(self) -> int:
        return HELD[self.profile][0]

    @property
    def memory(self) -> int:
        return HELD[self.profile][1]

    @property
    def gpu(self) -> int:
        return HELD[self.profile][2]


class Hub:
    """The Hub's servers as reconcile asks for them; ``alive`` is changed by the machine."""

    def __init__(self) -> None:
        self.alive: dict[tuple[str, str], bool] = {}  # ready?

    def _server(self, name: str, server: str) -> HubServer | None:
        ready = self.alive.get((name, server))
        return None if ready is None else HubServer(server, ready, None if ready else "spawn", False)

    async def users(self, *, active: bool) -> AsyncIterator[HubUser]:
        for person in PEOPLE:
            found = {name: self._server(person.name, name) for who, name in self.alive if who == person.name}
            yield HubUser(person, {name: server for name, server in found.items() if server is not None})

    async def user(self, name: str) -> UserRef:
        return next(person for person in PEOPLE if person.name == name)

    async def server(self, name: str, server: str) -> HubServer | None:
        return self._server(name, server)

    async def close(self) -> None:
        """Nothing is open."""


class LaunchMachine(RuleBasedStateMachine):
    """The service's domain on a store of its own, beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.wall, self.steady = datetime(2026, 11, 29, 20, tzinfo=UTC).timestamp(), 0.0
        self.patches = [
            mock.patch.object(clock, "read_wall", lambda: self.wall),
            mock.patch.object(clock, "read_steady", lambda: self.steady),
        ]
        for patch in self.patches:
            patch.start()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.launches: dict[str, Launch] = {}

    @initialize()
    def open(self) -> None:
        self.context = open_authority(settings_for(Path(self.folder.name) / "state", policy=POLICY))
        opened = self.run(self.context.__aenter__())
        self.run(opened.hub.close())
        self.hub = Hub()
        self.authority = replace(opened, hub=self.hub)
        self.run(self._demo())

    async def _demo(self) -> None:
        async with self.authority.store.write() as unit:
            row = await unit.workspaces.add("demo", "root")
            for person in PEOPLE:
                await unit.members.put(row.id, "user", person.name, CREATED, Role.EDITOR, "root")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.run(self.context.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()
        for patch in self.patches:
            patch.stop()

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[Launch]:
        return [launch for launch in self.launches.values() if not launch.ended]

    def fits(self, person: UserRef, server: str, demo: bool, profile: str) -> bool:
        """Whether the limits of POLICY admit it, said plainly; an earlier launch of this server has ended by then."""
        others = [one for one in self.alive if (one.user, one.server) != (person.name, server)]
        own = [one for one in others if one.user == person.name]
        cpu, memory, gpu = HELD[profile]
        budget = sum(one.gpu_seconds for one in self.launches.values() if one.user == person.name)
        in_pool = sum(one.gpu for one in others if "ml" in one.groups)
        return (
            len(own) < 3
            and sum(one.cpu for one in own) + cpu <= 5
            and not (gpu and budget >= 3 * 3600 - 0.001)
            and not (demo and sum(one.demo for one in others) >= 4)
            and sum(one.memory for one in others) + memory <= 20
            and not (gpu and "ml" in person.groups and in_pool + gpu > 4)
        )

    def find(self, number: int) -> tuple[str, Launch]:
        return sorted(self.launches.items())[number % len(self.launches)]

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 2), server=st.sampled_from("abcd"), demo=st.booleans(), profile=st.sampled_from(list(HELD))
    )
    def ask(self, who: int, server: str, demo: bool, profile: str) -> None:
        """The Hub asks for a plan only when it has nothing under this name any more."""
        person = PEOPLE[who]
        self.hub.alive.pop((person.name, server), None)
        fits = self.fits(person, server, demo, profile)
        workspace = "demo" if demo else "personal"
        request = ask(person, server, workspace=workspace, profile=profile)
        try:
            plan = self.run(admission.plan(self.authority, request))
        except MaestroError as error:
            assert error.code == "quota_exceeded" and not fits, error.message
            # the refusal rolls nothing back: what was left of this server's earlier launch has ended
        else:
            assert fits, f"{profile} was admitted beside {self.alive}"
        for launch in self.alive:
            if (launch.user, launch.server) == (person.name, server):
                launch.ended = True
        if fits:
            self.launches[plan.launch_id] = Launch(person.name, server, demo, profile, person.groups, self.wall)
            self.hub.alive[person.name, server] = False

    @rule(who=st.integers(0, 2), server=st.sampled_from("abcd"), hours=st.sampled_from([0.5, 2, 5]))
    def work(self, who: int, server: str, hours: float) -> None:
        """What people do: start a server, work, and stop it."""
        self.ask(who, server, False, "gpu")
        for launch_id, launch in list(self.launches.items()):
            if not launch.ended and (launch.user, launch.server) == (PEOPLE[who].name, server):
                self.confirmed(launch_id, launch)
                self.passes(hours)
                self.ended(launch_id, launch, "stopped")

    @precondition(lambda self: self.launches)
    @rule(number=st.integers(0, 99))
    def confirm(self, number: int) -> None:
        self.confirmed(*self.find(number))

    def confirmed(self, launch_id: str, launch: Launch) -> None:
        try:
            self.run(admission.confirm(self.authority, launch_id))
        except MaestroError as error:
            assert error.code == "conflict" and launch.ended
        else:
            assert not launch.ended
            launch.confirmed = True
            if (launch.user, launch.server) in self.hub.alive:
                self.hub.alive[launch.user, launch.server] = True

    @precondition(lambda self: self.launches)
    @rule(number=st.integers(0, 99), reason=st.sampled_from(["stopped", "the image cannot be pulled"]))
    def end(self, number: int, reason: str) -> None:
        """A failure or a stop, once or again."""
        self.ended(*self.find(number), reason)

    def ended(self, launch_id: str, launch: Launch, reason: str) -> None:
        self.run(admission.release(self.authority, launch_id, reason))
        if not launch.ended:
            self.hub.alive.pop((launch.user, launch.server), None)
        launch.ended = True

    @precondition(lambda self: self.launches)
    @rule(number=st.integers(0, 99))
    def crash(self, number: int) -> None:
        """The server, its pod or the Hub is killed, and nobody tells the service."""
        _, launch = self.find(number)
        if not launch.ended:
            self.hub.alive.pop((launch.user, launch.server), None)

    @rule()
    def reconcile(self) -> None:
        """What leaked goes, what came up unseen is confirmed, what lives stays."""
        self.run(reconcile.release_leaked(self.authority))
        for launch in self.alive:
            ready = self.hub.alive.get((launch.user, launch.server))
            if ready is None and self.wall - launch.made > reconcile.GRACE.total_seconds():
                launch.ended = True
            elif ready:
                launch.confirmed = True

    @rule(hours=st.sampled_from([0.01, 1, 2, 5]))
    def time_passes(self, hours: float) -> None:
        """A month's end lies a day ahead: hours of before it do not count after it."""
        self.passes(hours)

    def passes(self, hours: float) -> None:
        december = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
        before, self.wall, self.steady = self.wall, self.wall + hours * 3600, self.steady + hours * 3600
        crossed = before < december <= self.wall
        for launch in self.launches.values():
            if crossed:
                launch.gpu_seconds = 0.0
            if launch.confirmed and not launch.ended:
                launch.gpu_seconds += launch.gpu * (self.wall - max(before, december if crossed else before))

    @rule(hours=st.sampled_from([-3, -0.5, 0.5, 3]))
    def the_clock_is_set(self, hours: float) -> None:
        """Not over the month's end, where hours would change the month with the clock."""
        december = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
        if (self.wall < december) == (self.wall + hours * 3600 < december):
            self.wall += hours * 3600
            self.run(self._change())

    async def _change(self) -> None:
        async with self.authority.store.write():
            pass  # any change sees the step

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        if not hasattr(self, "authority"):
            return
        rows = self.run(self._rows())
        assert {row.id for row in rows} == {key for key, launch in self.launches.items() if not launch.ended}
        assert all((row.started_at is not None) == self.launches[row.id].confirmed for row in rows)

    async def _rows(self) -> list[Any]:
        async with self.authority.store.read() as unit:
            return await unit.launches.active()


LaunchMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLaunches = LaunchMachine.TestCase
