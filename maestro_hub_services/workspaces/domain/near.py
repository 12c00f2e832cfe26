"""Who is near a limit: persons, workspaces and pools of whose limits most is in use, for admins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from maestro_core.allowance import InUse, Left, left_of
from maestro_core.budget import Month, month_of
from maestro_core.figures import NearList, NearView
from maestro_core.quota import (
    LIMITS,
    WORKSPACES,
    Figures,
    Limit,
    Override,
    PoolQuota,
    Quotas,
    storage_limit,
    with_disk,
)
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_hub_services.store import Place, Unit, WorkspaceRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.counts import pool

from ..authority import Authority
from ..identity import Caller
from .limits import use_of

#: from which share of a limit on somebody is near it
SHARE = 0.8
#: how many are listed
MOST = 100
_ADDING_UP = [name for name in LIMITS if name in PoolQuota.model_fields]


async def list_near(authority: Authority, caller: Caller) -> NearList:
    """Who has 80 % of a limit in use or more, the nearest first, a hundred at most.

    A person's groups are those that were noted with what they run; who runs nothing now is looked at without groups.

    Raises:
        MaestroError: ``invalid_policy`` while no policy is in force.
    """
    quotas, month = authority.policy.current.quotas, month_of(now())
    async with authority.store.read() as unit:
        rows = await unit.quotas.every()
        found = [
            *await _persons(unit, quotas, rows, month),
            *await _workspaces(unit, quotas, rows, month),
            *await _pools(unit, quotas, rows, month),
        ]
    near = sorted((one for one in found if one[1].share >= SHARE), key=lambda one: -one[1].share)
    return NearList(near=tuple(_view(who, left) for who, left in near[:MOST]))


Rows = list[tuple[Place, Override]]
Near = tuple[str, Left]


async def _persons(unit: Unit, quotas: Quotas, rows: Rows, month: Month) -> list[Near]:
    held = await unit.launches.held_by_user()
    hours = await unit.charges.by_user(month)
    made = await unit.workspaces.made()
    groups = await unit.launches.groups_by_user()
    found: list[Near] = []
    for user in {*held, *hours, *made}:
        own = [row for place, row in rows if place.level != "user" or (place.name, place.stamp) == user]
        figures = Figures(quotas, own)
        limits = [figures.person(name, user[0], groups.get(user, ())) for name in (*_ADDING_UP, WORKSPACES)]
        use = replace(use_of(held.get(user), hours.get(user)), workspaces=made.get(user, 0))
        found += _near(user[0], limits, InUse(user=use))
    return found


async def _workspaces(unit: Unit, quotas: Quotas, rows: Rows, month: Month) -> list[Near]:
    held = await unit.launches.held_by_workspace()
    hours = await unit.charges.by_workspace(month)
    found: list[Near] = []
    for workspace in await unit.workspaces.every():
        own = [row for place, row in rows if place.level != "workspace" or place.stamp == workspace.id]
        figures = Figures(quotas, own)
        limits = [figures.limit("workspace", workspace.name, name) for name in _ADDING_UP]
        used = InUse(workspace=use_of(held.get(workspace.id), hours.get(workspace.id)), storage=workspace.storage_used)
        found += _near(f"workspace {workspace.name}", [*limits, _storage(figures, workspace)], used)
    return found


async def _pools(unit: Unit, quotas: Quotas, rows: Rows, month: Month) -> list[Near]:
    figures = Figures(quotas, (row for _, row in rows))
    names = {*quotas.pools.groups, *(row.name for place, row in rows if place.level == "group-pool")}
    scopes = [pool(name) for name in ("", *sorted(names))]
    counted = await unit.counts.count(month, held=scopes, hours=scopes)
    found: list[Near] = []
    for scope, name in scopes:
        limits = [figures.limit("group-pool" if name else "pool", name, limit) for limit in _ADDING_UP]
        use = use_of(counted.held.get((scope, name)), counted.hours.get((scope, name)))
        found += _near(f"group {name} together" if name else "everyone together", limits, InUse(pools={name: use}))
    return found


def _storage(figures: Figures, workspace: WorkspaceRow) -> Limit | None:
    owner = (workspace.personal_user, ()) if workspace.personal_user is not None else None
    disk = WorkspaceSettings.read(workspace.settings).disk
    return with_disk(storage_limit(figures, workspace.name, owner), workspace.name, disk)


def _near(who: str, limits: list[Limit | None], used: InUse) -> Iterator[Near]:
    # a limit of nothing is a closed door, not one that somebody is near
    known = [limit for limit in limits if limit is not None and limit.value > 0]
    return ((who, left) for left in left_of(known, used))


def _view(who: str, left: Left) -> NearView:
    limit = left.limit
    return NearView(
        who=who,
        limit=limit.name,
        title=LIMITS[limit.name].title,
        in_use_shown=limit.shown(left.used),
        shown=limit.shown(limit.value),
        set_for=limit.source,
        origin=limit.origin,
        share=round(left.share, 3),
    )
