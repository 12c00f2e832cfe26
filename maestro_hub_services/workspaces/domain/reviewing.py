"""What a reviewer needs to decide: the facts that the index's service found, with the policy's word on each package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from maestro_core.advisories import Advisory
from maestro_core.near_miss import near_miss
from maestro_core.packages import PYPI, Action, CompiledPolicy, Verdict, decide_file
from maestro_core.requests import (
    Approval,
    ClosureItem,
    ClosureVerdict,
    Facts,
    FactsReport,
    Review,
    Wanted,
    WantedList,
    approved_versions,
    exact_version,
)
from maestro_hub_services.store import RequestRow, Unit
from maestro_hub_services.store.clock import now

from ..authority import Authority
from .clearing import looked_at
from .packages import compiled

_NOT_YET = "The package index has not looked into it yet; look again in a moment."
_CONDA = "What a package of a conda channel brings with it is not looked into; its solver is conda's."
#: requests that the index's service is told of at a time
_AT_A_TIME = 5
_NEVER = datetime.min.replace(tzinfo=UTC)
#: facts are looked for again when they are older than that; where something could not be found, sooner
_FRESH, _AGAIN = timedelta(days=1), timedelta(minutes=10)


async def review_of(authority: Authority, unit: Unit, row: RequestRow) -> Review:
    """All of it for one request."""
    policy = await compiled(authority, unit, await unit.workspaces.get(row.workspace_id))
    facts = None if row.facts is None else Facts.model_validate(row.facts)
    items = facts.closure if facts else ()
    advisories = await unit.advisories.about([item.name for item in items])
    closure = tuple(_verdict(policy, item, advisories) for item in items)
    known = exact_version(row.version) or (facts.version if facts else None)
    places = [one.workspace_id for one in await unit.rules.about(row.package) if one.action is Action.ALLOW]
    asked: list[str | None] = [
        one.workspace_id for one in await unit.requests.all_pending() if one.package == row.package
    ]
    return Review(
        facts=facts,
        unknown="" if facts else _NOT_YET if row.channel == PYPI else _CONDA,
        closure=closure,
        held_back=tuple(item.name for item in held_back(policy, row, facts)),
        blocked=tuple(item.name for item in closure if item.action is Action.BLOCK),
        proposed=approved_versions(Approval(), row.version, known) if known else "",
        near=tuple(near_miss(row.package)),
        advisories_known=(await unit.advisories.status()).count,
        used_in=await _names(unit, await unit.environments.using(row.package), row.workspace_id),
        elsewhere=await _names(unit, places, row.workspace_id),
        asked_elsewhere=await _names(unit, asked, row.workspace_id),
    )


def held_back(policy: CompiledPolicy, row: RequestRow, facts: Facts | None) -> list[ClosureItem]:
    """What comes with the package and is a question of its own."""
    found = [item for item in facts.closure if item.name != row.package] if facts else []
    return [item for item in found if _word(policy, item).action is Action.ASK]


def _word(policy: CompiledPolicy, item: ClosureItem) -> Verdict:
    """What the policy says to the file that would be installed."""
    return decide_file(policy, item.name, item.version, source=not item.wheel)


def _verdict(policy: CompiledPolicy, item: ClosureItem, advisories: Sequence[Advisory]) -> ClosureVerdict:
    verdict = _word(policy, item)
    return ClosureVerdict(
        **item.model_dump(),
        action=verdict.action,
        sentence=verdict.reason,
        advisories=tuple(one.id for one in advisories if one.package == item.name and one.affects(item.version)),
        near=tuple(near_miss(item.name)),
    )


async def _names(unit: Unit, places: Iterable[str | None], own: str) -> tuple[str, ...]:
    found = set()
    for place in set(places) - {own}:
        found.add("everywhere" if place is None else (await unit.workspaces.get(place)).shown_name)
    return tuple(sorted(found))


# -- the index's service finds the facts -------------------------------------------------------------------------------


async def wanted(authority: Authority) -> WantedList:
    """The requests into which nobody has looked, then those where it is longest ago."""
    async with authority.store.read() as unit:
        pending = reversed(await unit.requests.all_pending())
        due = [row for row in pending if row.channel == PYPI and _due(row.facts)]
        rows = sorted(due, key=lambda row: looked_at(row) or _NEVER)[:_AT_A_TIME]
        found = [
            Wanted(
                request_id=row.id,
                workspace=(await unit.workspaces.get(row.workspace_id)).name,
                package=row.package,
                version=row.version,
                channel=row.channel,
            )
            for row in rows
        ]
    return WantedList(wanted=tuple(found))


def _due(stored: dict[str, Any] | None) -> bool:
    if stored is None:
        return True
    facts = Facts.model_validate(stored)
    return now() - facts.checked_at > (_AGAIN if facts.problem else _FRESH)


async def keep_facts(authority: Authority, report: FactsReport) -> None:
    """What the index's service found. A request that is gone meanwhile is no mistake."""
    async with authority.store.write() as unit:
        row = await unit.requests.get(report.request_id)
        if row is not None and row.status == "pending":
            await unit.requests.keep_facts(row.id, report.facts.model_dump(mode="json"))
