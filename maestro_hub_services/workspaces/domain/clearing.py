"""Clearing the package cache: the index asks upstream anew what there is.

Files are kept: each is known by its hash. The index's pages are everybody's, so one clearing counts for all workspaces.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from maestro_core.requests import CacheCleared, Facts
from maestro_hub_services.store import RequestRow, Unit
from maestro_hub_services.store.clock import now

from ..authority import Authority
from ..identity import Caller
from .access import opened

KIND = "package_cache_cleared"
#: a clearing within that time of another one is the same; what was looked into since then is not looked into again
_APART = timedelta(minutes=1)


async def clear(authority: Authority, caller: Caller, workspace: str) -> CacheCleared:
    """Have upstream asked anew, for installs and for what reviewers of this workspace see.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden`` for viewers.
    """
    async with opened(authority, caller, workspace, "install_packages", write=True) as (unit, standing):
        place, last = standing.workspace, await cleared_at(unit)
        for row in await unit.requests.of_workspace(place.id):
            looked = looked_at(row)
            if row.status == "pending" and looked is not None and now() - looked > _APART:
                await unit.requests.keep_facts(row.id, None)
        if last is None or now() - last > _APART:
            await unit.events.append(KIND, caller.name, workspace_id=place.id)
            last = await cleared_at(unit)
        return CacheCleared(workspace=place.name, at=last or now())


async def cleared_at(unit: Unit) -> datetime | None:
    """When that was last; None: never."""
    found = await unit.events.latest(kinds=(KIND,), limit=1)
    return found[0].at if found else None


def looked_at(row: RequestRow) -> datetime | None:
    """When the index's service last looked into it; None: not yet."""
    return None if row.facts is None else Facts.model_validate(row.facts).checked_at
