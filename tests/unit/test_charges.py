"""Charges in the store, on sqlite and on Postgres: the SQL says what the rule says, whatever the clock does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from random import Random

import pytest

from maestro_core.budget import Interval, Month, hours, month_of
from maestro_core.launches import LaunchStatus
from maestro_core.resources import Resources
from maestro_core.roles import Role
from maestro_hub_services.store import LaunchRow, Store, clock
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.counts import EVERYONE, USER, WORKSPACE, pool

NOVEMBER = month_of(datetime(2026, 11, 15, tzinfo=UTC))
DECEMBER = month_of(datetime(2026, 12, 15, tzinfo=UTC))


class Clocks:
    """The wall clock and the steady one of a test: time passes on both, but only one can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
        self.wall, self.steady = at(start), 1000.0
        monkeypatch.setattr(clock, "read_wall", lambda: self.wall)
        monkeypatch.setattr(clock, "read_steady", lambda: self.steady)

    def passes(self, hours: float) -> None:
        self.wall += hours * 3600
        self.steady += hours * 3600

    def is_set_by(self, hours: float) -> None:
        self.wall += hours * 3600


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch, "2026-11-10 12:00")


@pytest.fixture
async def store(clocks: Clocks, database_url: str) -> AsyncIterator[Store]:
    store = await Store.open(database_url)
    yield store
    await store.close()


class Lab:
    """One workspace in which launches begin and end."""

    def __init__(self, store: Store, workspace_id: str) -> None:
        self.store, self.workspace_id = store, workspace_id
        self.made = 0

    async def reserve(self, user: str = "ann", cpu: float = 1, gpu: int = 1, groups: tuple[str, ...] = ()) -> str:
        self.made += 1
        row = LaunchRow(
            id=f"l-{self.made}", kind="server", workspace_id=self.workspace_id, user=user, user_created="c",
            server_name=f"s{self.made}", role=Role.OWNER, profile="gpu",
            resources=Resources(cpu=cpu, memory="1Gi", gpu=gpu), experiment="e", default_url="/lab",
            status=LaunchStatus.RESERVED, token_mac=f"m{self.made}", created_at=now(),
        )  # fmt: skip
        async with self.store.write() as unit:
            await unit.launches.add(row)
            await unit.launches.note_groups(row.id, groups)
        return row.id

    async def start(self, *arguments: object, **named: object) -> str:
        launch_id = await self.reserve(*arguments, **named)  # type: ignore[arg-type]
        async with self.store.write() as unit:
            assert await unit.launches.confirm(launch_id)
        return launch_id

    async def end(self, launch_id: str) -> None:
        async with self.store.write() as unit:
            await unit.launches.end(launch_id, "stopped")

    async def gpu_hours(self, month: Month = NOVEMBER, user: str = "ann") -> float:
        async with self.store.write() as unit:
            counted = await unit.counts.count(
                month, hours=[USER, WORKSPACE, EVERYONE], user=(user, "c"), workspace_id=self.workspace_id
            )
        assert counted.hours[WORKSPACE] == counted.hours[EVERYONE]
        return counted.hours[USER].gpu


@pytest.fixture
async def lab(store: Store) -> Lab:
    async with store.write() as unit:
        return Lab(store, (await unit.workspaces.add("demo", "ann")).id)


class TestWhatIsCharged:
    async def test_from_the_confirmation_until_the_end(self, lab: Lab, clocks: Clocks) -> None:
        launch_id = await lab.reserve()
        clocks.passes(1)  # the image is pulled: that is not the person's doing
        assert await lab.gpu_hours() == 0
        async with lab.store.write() as unit:
            await unit.launches.confirm(launch_id)
            assert not await unit.launches.confirm(launch_id), "twice is once"
        clocks.passes(2)
        assert await lab.gpu_hours() == pytest.approx(2)
        await lab.end(launch_id)
        clocks.passes(5)
        await lab.end(launch_id)
        assert await lab.gpu_hours() == pytest.approx(2)

    async def test_a_start_that_fails_costs_nothing(self, lab: Lab, clocks: Clocks) -> None:
        launch_id = await lab.reserve()
        clocks.passes(1)
        await lab.end(launch_id)
        assert await lab.gpu_hours() == 0

    async def test_cores_and_gpus_for_themselves(self, lab: Lab, clocks: Clocks) -> None:
        await lab.start(cpu=4, gpu=0)
        await lab.start("bob", cpu=0.5, gpu=2)
        clocks.passes(3)
        async with lab.store.read() as unit:
            ann = (await unit.counts.count(NOVEMBER, hours=[USER, EVERYONE], user=("ann", "c"))).hours
            bob = (await unit.counts.count(NOVEMBER, hours=[USER], user=("bob", "c"))).hours
        assert [(one.cpu, one.gpu) for one in (ann[USER], bob[USER], ann[EVERYONE])] == [
            pytest.approx(pair) for pair in ((12, 0), (1.5, 6), (13.5, 6))
        ]

    async def test_a_group_has_the_hours_of_its_members_and_keeps_them(self, lab: Lab, clocks: Clocks) -> None:
        first = await lab.start("ann", groups=("ml", "all"))
        await lab.start("bob", groups=("all",))
        clocks.passes(2)
        await lab.end(first)
        async with lab.store.read() as unit:
            found = await unit.counts.count(NOVEMBER, hours=[pool("ml"), pool("all"), pool("none")])
        gpu_hours = {name: one.gpu for (_, name), one in found.hours.items()}
        assert gpu_hours == {"ml": pytest.approx(2), "all": pytest.approx(4)}

    async def test_somebody_of_the_same_name_has_none_of_it(self, lab: Lab, clocks: Clocks) -> None:
        await lab.start()
        clocks.passes(2)
        async with lab.store.read() as unit:
            counted = await unit.counts.count(NOVEMBER, hours=[USER], user=("ann", "another"))
        assert counted.hours[USER].gpu == 0


class TestClocks:
    async def test_a_months_end_gives_each_month_its_part(self, lab: Lab, clocks: Clocks) -> None:
        clocks.wall = at("2026-11-30 22:00")
        await lab.start()
        clocks.passes(5)
        assert await lab.gpu_hours(NOVEMBER) == pytest.approx(2)
        assert await lab.gpu_hours(DECEMBER) == pytest.approx(3)

    @pytest.mark.parametrize("by", [1, -1, 24 * 7, -24 * 7, 0.001])
    async def test_a_step_costs_and_gives_nobody_an_hour(self, lab: Lab, clocks: Clocks, by: float) -> None:
        launch_id = await lab.start()
        clocks.passes(2)
        clocks.is_set_by(by)
        assert await lab.gpu_hours() == pytest.approx(2)
        clocks.passes(1)
        await lab.end(launch_id)
        later = await lab.start()
        clocks.passes(0.5)
        await lab.end(later)
        assert await lab.gpu_hours() == pytest.approx(3.5)

    async def test_a_step_there_and_back(self, lab: Lab, clocks: Clocks) -> None:
        await lab.start()
        for by in (5, -5, -30, 30):
            clocks.passes(1)
            clocks.is_set_by(by)
        assert await lab.gpu_hours() == pytest.approx(4)

    async def test_a_step_over_a_months_end_moves_hours_and_makes_none(self, lab: Lab, clocks: Clocks) -> None:
        clocks.wall = at("2026-11-30 22:00")
        await lab.start()
        clocks.passes(1)
        clocks.is_set_by(6)  # 5:00 of December
        await lab.reserve("bob")  # any change sees it
        clocks.passes(2)
        assert (await lab.gpu_hours(NOVEMBER), await lab.gpu_hours(DECEMBER)) == (pytest.approx(1), pytest.approx(2))

    async def test_a_step_that_two_changes_see_is_dealt_with_once(self, lab: Lab, clocks: Clocks) -> None:
        await lab.start()
        clocks.passes(2)
        clocks.is_set_by(-1)
        await asyncio.gather(*(lab.reserve(f"u{number}") for number in range(10)))
        assert await lab.gpu_hours() == pytest.approx(2)


async def test_the_sql_says_what_the_rule_says(lab: Lab, clocks: Clocks) -> None:
    """Launches at random around a month's end, summed by the store and by the core."""
    dice = Random(4)
    clocks.wall = at("2026-11-28 00:00")
    known: dict[str, list[Interval]] = {"ann": [], "bob": []}
    running: dict[str, tuple[str, int, float]] = {}
    for _ in range(60):
        clocks.passes(dice.uniform(0, 4))
        if running and dice.random() < 0.5:
            launch_id = dice.choice(sorted(running))
            who, gpu, began = running.pop(launch_id)
            await lab.end(launch_id)
            known[who].append(Interval(gpu, began, clocks.wall))
        else:
            who, gpu = dice.choice(["ann", "bob"]), dice.randint(0, 4)
            running[await lab.start(who, gpu=gpu)] = (who, gpu, clocks.wall)
    clocks.passes(1)
    for who, gpu, began in running.values():
        known[who].append(Interval(gpu, began, None))
    for month in (NOVEMBER, DECEMBER):
        for who, intervals in known.items():
            assert await lab.gpu_hours(month, who) == pytest.approx(hours(intervals, month, clocks.wall))
