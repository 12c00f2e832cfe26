"""Which workspace somebody means, with which role they stand in it, and what they may do there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from maestro_core.errors import MaestroError
from maestro_core.names import PERSONAL, is_workspace_id, personal_workspace_name
from maestro_core.roles import ACTIONS, Role, may
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import Unit, WorkspaceRow

from ..authority import Authority
from ..identity import Caller


@dataclass(frozen=True)
class Standing:
    """A workspace, and the caller's role there; None for an admin who is no member."""

    workspace: WorkspaceRow
    role: Role | None


def unknown_workspace(name: str) -> MaestroError:
    """The one sentence for a workspace that does not exist and for one of others: which it is, nobody learns."""
    return MaestroError(
        "unknown_workspace",
        f"There is no workspace {name[:40]!r} that you belong to; check the name, or ask an owner to add you.",
        {"workspace": name[:40]},
    )


def not_of_this_server(name: str) -> MaestroError:
    """What a notebook server's token is told of every workspace but its own."""
    return MaestroError(
        "unknown_workspace",
        f"A notebook server acts in its own workspace only, and that is not {name[:40]!r}; use the browser or "
        "'maestro login' for others.",
        {"workspace": name[:40]},
    )


@asynccontextmanager
async def opened(
    authority: Authority, caller: Caller, name: str, action: str, *, write: bool = False, archived: bool = False
) -> AsyncIterator[tuple[Unit, Standing]]:
    """A transaction in which the caller may do ``action`` (a key of ACTIONS) in the workspace of that name.

    Args:
        archived: an archived one is found by its members too.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``.
    """
    if name == PERSONAL:
        await personal_workspace(authority, caller.person)
    async with authority.store.write() if write else authority.store.read() as unit:
        standing = await find(unit, caller, name, archived=archived)
        check(caller, standing, action)
        yield unit, standing


async def find(unit: Unit, caller: Caller, name: str, *, archived: bool = False) -> Standing:
    """The workspace of that name or id (or ``personal``) with the caller's role.

    A notebook server's token sees the workspace of its own launch only, at most as an editor.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    user = caller.person
    if name == PERSONAL:
        workspace = await unit.workspaces.personal_of(user.name, user.created)
    elif is_workspace_id(name):
        workspace = await unit.workspaces.by_id(name)
    else:
        workspace = await unit.workspaces.by_name(name)
    if caller.notebook and (workspace is None or workspace.id not in await own_workspaces(unit, caller)):
        raise not_of_this_server(name)
    if workspace is None:
        raise unknown_workspace(name)
    role = await role_in(unit, workspace.id, user)
    if (role is None or not (workspace.open or archived)) and not caller.admin:
        raise unknown_workspace(name)
    return Standing(workspace, Role.EDITOR if caller.notebook and role is Role.OWNER else role)


async def role_in(unit: Unit, workspace_id: str, user: UserRef) -> Role | None:
    """The highest role of a user in a workspace, by themselves and by their groups."""
    return await unit.members.role_of(workspace_id, user.name, user.created, user.groups)


async def own_workspaces(unit: Unit, caller: Caller) -> set[str]:
    """The ids of the workspaces in which the notebook servers of a token run or start."""
    user = caller.person
    launches = [await unit.launches.of_server(user.name, user.created, server) for server in caller.servers or ()]
    return {launch.workspace_id for launch in launches if launch is not None}


def check(caller: Caller, standing: Standing, action: str) -> None:
    """See that the role (or being an admin) allows the action.

    Raises:
        MaestroError: ``forbidden``.
    """
    if may(standing.role, action) or (caller.admin and action != "launch"):
        return
    needed, name = ACTIONS[action].value, standing.workspace.name
    have = standing.role.value if standing.role else "no member"
    raise MaestroError(
        "forbidden",
        f"You are {have} of {name}, and this needs the role {needed}; ask an owner of the workspace.",
        {"workspace": name, "role": have, "needed": needed},
    )


async def personal_workspace(authority: Authority, user: UserRef) -> WorkspaceRow:
    """The personal workspace of a user, made on first use."""
    async with authority.store.read() as unit:
        found = await unit.workspaces.personal_of(user.name, user.created)
    if found is not None:
        return found
    async with authority.store.write() as unit:
        return await ensure_personal(unit, user)


async def ensure_personal(unit: Unit, user: UserRef) -> WorkspaceRow:
    """The same inside a write transaction."""
    found = await unit.workspaces.personal_of(user.name, user.created)
    if found is not None:
        return found
    name = personal_workspace_name(user.name, user.created)
    made = await unit.workspaces.add(
        name,
        user.name,
        description=f"The personal workspace of {user.name}",
        personal_of=(user.name, user.created),
    )
    await unit.members.put(made.id, "user", user.name, user.created, Role.OWNER, user.name)
    await unit.events.append("workspace_created", user.name, workspace_id=made.id, user=user.name, name=name)
    return made
