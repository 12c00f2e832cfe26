"""What the user of a running server is told: a list of kinds, each a function that gives a notice or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from maestro_core.roles import Role, may
from maestro_core.usage import Notice, Notices
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import LaunchRow, Unit

from ..authority import Authority
from .access import role_in
from .answers import answered


async def notices_of(authority: Authority, unit: Unit, launch: LaunchRow, user: UserRef) -> Notices:
    """All that is to be told now about one launch of this user."""
    found = [await kind(authority, unit, launch, user) for kind in KINDS]
    return Notices(notices=tuple(notice for notice in found if notice is not None))


async def _role_gone(authority: Authority, unit: Unit, launch: LaunchRow, user: UserRef) -> Notice | None:
    """Its user was removed, or may not change files any more."""
    if launch.ends_kind != "role" or launch.ends_at is None:
        return None
    return Notice(
        id="role",
        kind="role",
        level="error",
        message=f"This server will be stopped: {launch.ends_reason}. Save what is open; the workspace keeps its files.",
        until=launch.ends_at,
    )


async def _role_higher(authority: Authority, unit: Unit, launch: LaunchRow, user: UserRef) -> Notice | None:
    """Its user may change files now, and the mount is still read-only."""
    if may(launch.role, "write_files"):
        return None
    role = await role_in(unit, launch.workspace_id, user)
    if role is None or not role.covers(Role.EDITOR):
        return None
    workspace = await unit.workspaces.get(launch.workspace_id)
    return Notice(
        id="role",
        kind="role",
        level="info",
        message=f"You are {role.value} of {workspace.shown_name} now: start this server again to change files.",
    )


async def _idle(authority: Authority, unit: Unit, launch: LaunchRow, user: UserRef) -> Notice | None:
    """Nobody uses it."""
    if launch.ends_kind != "idle" or launch.ends_at is None:
        return None
    return Notice(
        id="cull",
        kind="cull",
        level="warning",
        message=(
            "Nobody uses this server, so it will be stopped to free what it holds. Files are kept, what is only in "
            "memory is lost; keep it running if you still need it."
        ),
        until=launch.ends_at,
        action="keep",
    )


KINDS: tuple[Callable[[Authority, Unit, LaunchRow, UserRef], Awaitable[Notice | None]], ...] = (
    _role_gone,
    _role_higher,
    _idle,
    answered,
)
