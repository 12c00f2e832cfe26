"""What a reviewer needs to decide: the facts that the index's service found, with the policy's word on each package."""

from __future__ import annotations

from maestro_core.packages import PYPI, Action, CompiledPolicy, decide
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

from ..authority import Authority
from .packages import compiled

#: requests that the index's service is told of at a time
_AT_A_TIME = 5


async def review_of(authority: Authority, unit: Unit, row: RequestRow) -> Review:
    """All of it for one request."""
    policy = await compiled(authority, unit, await unit.workspaces.get(row.workspace_id))
    facts = None if row.facts is None else Facts.model_validate(row.facts)
    closure = tuple(_verdict(policy, item) for item in facts.closure) if facts else ()
    known = exact_version(row.version) or (facts.version if facts else None)
    places = [one.workspace_id for one in await unit.rules.about(row.package) if one.action is Action.ALLOW]
    asked: list[str | None] = [
        one.workspace_id for one in await unit.requests.all_pending() if one.package == row.package
    ]
    return Review(
        facts=facts,
        closure=closure,
        held_back=tuple(item.name for item in held_back(policy, row, facts)),
        blocked=tuple(item.name for item in closure if item.action is Action.BLOCK),
        proposed=approved_versions(Approval(), row.version, known) if known or row.version else "",
        elsewhere=await _names(unit, places, row.workspace_id),
        asked_elsewhere=await _names(unit, asked, row.workspace_id),
    )


def held_back(policy: CompiledPolicy, row: RequestRow, facts: Facts | None) -> list[ClosureItem]:
    """What comes with the package and is a question of its own."""
    found = [item for item in facts.closure if item.name != row.package] if facts else []
    return [item for item in found if decide(policy, item.name, item.version).action is Action.ASK]


def _verdict(policy: CompiledPolicy, item: ClosureItem) -> ClosureVerdict:
    verdict = decide(policy, item.name, item.version)
    return ClosureVerdict(**item.model_dump(), action=verdict.action, sentence=verdict.reason)


async def _names(unit: Unit, places: list[str | None], own: str) -> tuple[str, ...]:
    found = set()
    for place in set(places) - {own}:
        found.add("everywhere" if place is None else (await unit.workspaces.get(place)).shown_name)
    return tuple(sorted(found))


# -- the index's service finds the facts -------------------------------------------------------------------------------


async def wanted(authority: Authority) -> WantedList:
    """The requests into which nobody has looked."""
    async with authority.store.read() as unit:
        rows = [row for row in await unit.requests.without_facts(_AT_A_TIME) if row.channel == PYPI]
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


async def keep_facts(authority: Authority, report: FactsReport) -> None:
    """What the index's service found. A request that is gone meanwhile is no mistake."""
    async with authority.store.write() as unit:
        row = await unit.requests.get(report.request_id)
        if row is not None and row.status == "pending":
            await unit.requests.keep_facts(row.id, report.facts.model_dump(mode="json"))
