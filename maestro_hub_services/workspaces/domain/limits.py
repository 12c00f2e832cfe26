"""Limits of a person in a workspace: which hold, what is in use of each, and who set them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maestro_core.allowance import InUse, Left, Use, check_workspaces, left_of, used
from maestro_core.budget import month_of
from maestro_core.policy import Policy
from maestro_core.quota import (
    BUDGETS,
    STORAGE,
    WORKSPACES,
    Figures,
    Limit,
    PoolQuota,
    limits_for,
    storage_limit,
    with_disk,
)
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_core.workspaces import LimitList, LimitView, UserRef
from maestro_hub_services.store import Held, LaunchRow, Unit, WorkspaceRow
from maestro_hub_services.store.charges import Hours
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.counts import USER, WORKSPACE, Scope

from ..authority import Authority
from ..identity import Caller
from .access import opened


async def view_limits(authority: Authority, caller: Caller, name: str) -> LimitList:
    """The limits of the caller in a workspace.

    Raises:
        MaestroError: ``unknown_workspace``; ``invalid_policy`` while none is in force.
    """
    user, policy = caller.person, authority.policy.current
    async with opened(authority, caller, name, "read") as (unit, standing):
        limits, in_use = await standing_limits(authority, unit, policy, user, standing.workspace)
        made = await unit.workspaces.made_by(user.name, user.created)
        in_use = replace(in_use, user=replace(in_use.user, workspaces=made))
        return LimitList(workspace=standing.workspace.name, limits=tuple(_view(limit, in_use) for limit in limits))


async def standing_limits(
    authority: Authority,
    unit: Unit,
    policy: Policy,
    user: UserRef,
    workspace: WorkspaceRow,
    running: list[LaunchRow] | None = None,
) -> tuple[list[Limit], InUse]:
    """The limits that hold for a launch of this person in this workspace, and what counts against them now.

    Args:
        running: the person's reserved and running launches, where they are known already.
    """
    overrides = await unit.quotas.holding((user.name, user.created), user.groups, (workspace.name, workspace.id))
    owner = is_own(workspace, user)
    limits = limits_for(policy.quotas, user.name, user.groups, workspace.name, overrides, owner)
    limits = _own_disk(limits, workspace)
    if running is None:
        running = await unit.launches.active_of(user.name, user.created)
    return limits, await _in_use(authority, unit, user, workspace, limits, running)


def _own_disk(limits: list[Limit], workspace: WorkspaceRow) -> list[Limit]:
    """The same, the storage no more than the disk that the workspace is set up with."""
    disk = WorkspaceSettings.read(workspace.settings).disk if workspace.settings else None
    if disk is None:
        return limits
    others = [limit for limit in limits if limit.name != STORAGE]
    size = with_disk(next((limit for limit in limits if limit.name == STORAGE), None), workspace.name, disk)
    return others if size is None else [*others, size]


async def _in_use(
    authority: Authority,
    unit: Unit,
    user: UserRef,
    workspace: WorkspaceRow,
    limits: list[Limit],
    running: list[LaunchRow],
) -> InUse:
    """What counts against these limits: all that is reserved or running, and this month's hours for a budget.

    Only what a limit in force asks for is looked up: this is part of every decision.
    """
    month = month_of(now())
    shared = {_counted(limit) for limit in limits if limit.name in PoolQuota.model_fields}
    counted = await unit.counts.count(
        month,
        held=shared - {USER},
        hours={_counted(limit) for limit in limits if limit.name in BUDGETS},
        user=(user.name, user.created),
        workspace_id=workspace.id,
    )
    return InUse(
        user=use_of(Held.of(running), counted.hours.get(USER)),
        workspace=use_of(counted.held.get(WORKSPACE), counted.hours.get(WORKSPACE)),
        pools={
            key: use_of(counted.held.get((scope, key)), counted.hours.get((scope, key)))
            for scope, key in shared
            if scope == "pool"
        },
        user_servers=tuple(sorted(server_shown(launch) for launch in running)),
        month=month,
        storage=None if authority.volumes.holds_size else workspace.storage_used,
        storage_measured_at=workspace.storage_measured_at,
    )


def _counted(limit: Limit) -> Scope:
    return (limit.scope, limit.key if limit.scope == "pool" else "")


def use_of(held: Held | None, hours: Hours | None) -> Use:
    """What is held and what was used, as the rules count it; None: nothing."""
    held, hours = held or Held(0, 0.0, 0, 0), hours or Hours()
    return Use(held.servers, held.cpu, held.memory, held.gpu, hours.cpu, hours.gpu)


def without(in_use: InUse, launch: LaunchRow, workspace: WorkspaceRow, groups: Iterable[str]) -> InUse:
    """The same when one of the person's launches has ended: its place is free again when that server starts anew."""
    held = launch.resources
    here = in_use.workspace.without(held) if launch.workspace_id == workspace.id else in_use.workspace
    counted = {"", *groups}
    pools = {name: use.without(held) if name in counted else use for name, use in in_use.pools.items()}
    servers = tuple(name for name in in_use.user_servers if name != server_shown(launch))
    return InUse(
        in_use.user.without(held), here, pools, servers, in_use.month, in_use.storage, in_use.storage_measured_at
    )


def server_shown(launch: LaunchRow) -> str:
    """A server or job in a sentence: its name, or what the unnamed one is."""
    if launch.kind == "job":
        return f"the job {launch.server_name.removeprefix('job:')}"
    return launch.server_name or "your personal server"


def is_own(workspace: WorkspaceRow, user: UserRef) -> bool:
    """Whether it is the personal workspace of this user."""
    return (workspace.personal_user, workspace.personal_created) == (user.name, user.created)


def storage_size(limits: Iterable[Limit]) -> int | None:
    """The size of a workspace's volume in bytes by its limits, or None when no limit is set."""
    return next((int(limit.value) for limit in limits if limit.name == STORAGE), None)


async def size_of_new(unit: Unit, policy: Policy, workspace: str) -> int | None:
    """The size of a new workspace's volume in bytes, or None when no limit is set."""
    overrides = await unit.quotas.holding(("", ""), (), None)  # nothing of its own is set for what does not exist
    found = storage_limit(Figures(policy.quotas, overrides), workspace)
    return None if found is None else int(found.value)


async def check_may_make(unit: Unit, policy: Policy, user: UserRef) -> None:
    """See that a person may make one more workspace. What counts is the look in the transaction that makes it.

    Raises:
        MaestroError: ``quota_exceeded``.
    """
    overrides = await unit.quotas.holding((user.name, user.created), user.groups, None)
    limit = Figures(policy.quotas, overrides).person(WORKSPACES, user.name, user.groups)
    check_workspaces(limit, await unit.workspaces.made_by(user.name, user.created))


def _view(limit: Limit, in_use: InUse) -> LimitView:
    amount = used(limit, in_use)
    left = next(iter(left_of([limit], in_use)), None)
    return LimitView(
        **limit.as_json(),
        in_use=amount,
        in_use_shown=None if amount is None else limit.shown(amount),
        left=None if left is None else left.left,
        left_shown=None if left is None else limit.shown(left.left),
    )


def left_sentences(limits: Iterable[Limit], in_use: InUse) -> tuple[str, ...]:
    """What is left, one sentence a limit: of each kind the one of which the least is left."""
    least: dict[str, Left] = {}
    for left in left_of((limit for limit in limits if limit.name != WORKSPACES), in_use):  # a start makes none
        known = least.get(left.limit.name)
        if known is None or left.left < known.left:
            least[left.limit.name] = left
    return tuple(left.sentence for left in least.values())
