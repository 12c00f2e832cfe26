"""A refusal leaves its event, and a script that asks in a loop fills no disk: what repeats is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from maestro_core.errors import MaestroError
from maestro_hub_services.store import clock
from maestro_hub_services.store.events import DIFFERENT, EventRow
from maestro_hub_services.workspaces.app import open_authority
from maestro_hub_services.workspaces.authority import Authority
from maestro_hub_services.workspaces.domain import admission
from tests.workspaces_kit import ask, settings_for, user

ANN, BOB = user("ann"), user("bob")
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the test's own, that stands at noon."""
    monkeypatch.setattr(clock, "read_wall", lambda: clocks.now)  # type: ignore[attr-defined]
    monkeypatch.setattr(clock, "read_steady", lambda: clocks.now)  # type: ignore[attr-defined]
    clocks.now = NOON  # type: ignore[attr-defined]


@pytest.fixture
async def authority(tmp_path: Path, database_url: str) -> AsyncIterator[Authority]:
    async with open_authority(settings_for(tmp_path / "state", store_db=database_url)) as made:
        yield made


async def refuse(authority: Authority, who: str = "ann", server: str = "", cpu: float = 64) -> str:
    """Ask for more than there is; the refusal's sentence."""
    with pytest.raises(MaestroError) as caught:
        request = ask(user(who), server, workspace="personal", resources={"cpu": cpu})
        await admission.plan(authority, request)
    return caught.value.message


async def refusals(authority: Authority) -> list[EventRow]:
    """The events, oldest first."""
    async with authority.store.read() as unit:
        return (await unit.events.latest(kinds=["launch_refused"], limit=1000))[::-1]


def at(event: EventRow) -> tuple[int, int | None]:
    """Minutes after noon at which it happened first and last."""
    first, last = event.at.timestamp(), event.last_at and event.last_at.timestamp()
    return round((first - NOON) / 60), last and round((last - NOON) / 60)


async def test_the_same_one_again_is_counted_with_the_time_of_the_last(authority: Authority) -> None:
    for minute in range(5):
        clocks.now = NOON + 60 * minute  # type: ignore[attr-defined]
        said = await refuse(authority)
    (event,) = await refusals(authority)
    assert (event.count, at(event), event.user) == (5, (0, 4), "ann")
    assert (event.fields["code"], event.fields["message"]) == ("profile_closed", said)


async def test_one_alone_has_no_last_time(authority: Authority) -> None:
    await refuse(authority)
    (event,) = await refusals(authority)
    assert (event.count, event.last_at) == (1, None)


async def test_another_person_and_another_ask_are_other_events(authority: Authority) -> None:
    await refuse(authority)
    await refuse(authority, "bob")
    await refuse(authority, server="more")
    await refuse(authority, cpu=63)
    await refuse(authority)
    assert [(event.user, event.count) for event in await refusals(authority)] == [
        ("ann", 2), ("bob", 1), ("ann", 1), ("ann", 1),
    ]  # fmt: skip


async def test_after_an_hour_another_event_begins_and_the_first_stays_as_it_is(authority: Authority) -> None:
    for minute in (0, 59, 60, 61):
        clocks.now = NOON + 60 * minute  # type: ignore[attr-defined]
        await refuse(authority)
    assert [(event.count, at(event)) for event in await refusals(authority)] == [(2, (0, 59)), (2, (60, 61))]


async def test_a_script_that_asks_for_something_else_each_time_leaves_a_few_events(authority: Authority) -> None:
    for number in range(3 * DIFFERENT):
        said = await refuse(authority, server=f"s{number}")
    await refuse(authority, "bob")
    events = await refusals(authority)
    *apart, others, bobs = events
    assert [event.count for event in apart] == [1] * DIFFERENT
    assert (others.count, others.fields["message"]) == (2 * DIFFERENT, said)
    assert (bobs.user, bobs.count) == ("bob", 1)
