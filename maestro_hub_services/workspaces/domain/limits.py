"""Limits of a person in a workspace: each figure, what is in use, which level set it."""

from __future__ import annotations

from maestro_core.policy import Policy
from maestro_core.quota import LIMITS, InUse, Limit, limits_for
from maestro_core.workspaces import LimitList, LimitView, UserRef
from maestro_hub_services.store import LaunchRow, Unit, WorkspaceRow

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
        workspace = standing.workspace
        used = await in_use(unit, user, workspace)
        limits = limits_for(policy.quotas, user.name, user.groups, workspace.name)
        return LimitList(workspace=workspace.name, limits=tuple(_view(limit, used) for limit in limits))


async def in_use(unit: Unit, user: UserRef, workspace: WorkspaceRow) -> InUse:
    """What counts against a new launch of this person in this workspace: everything reserved or running."""
    own = await unit.launches.active_of(user.name, user.created)
    return InUse(
        user_launches=len(own),
        workspace_launches=await unit.launches.count_in(workspace.id),
        user_servers=tuple(sorted(server_shown(launch) for launch in own)),
    )


def server_shown(launch: LaunchRow) -> str:
    """A server in a sentence: its name, or what the unnamed one is."""
    return launch.server_name or "your personal server"


def storage_limit(policy: Policy, workspace: str) -> int | None:
    """The size of a workspace's volume in bytes, or None when no limit is set."""
    own = policy.quotas.workspaces.get(workspace)
    if own is not None and own.max_storage_per_workspace is not None:
        return own.max_storage_per_workspace
    return policy.quotas.everyone.max_storage_per_workspace


def _view(limit: Limit, used: InUse) -> LimitView:
    kind = LIMITS[limit.name]
    count = None
    if kind.counted:
        count = used.user_launches if limit.scope == "user" else used.workspace_launches
    return LimitView(**limit.as_json(), in_use=count, in_use_shown=None if count is None else kind.show(count))
