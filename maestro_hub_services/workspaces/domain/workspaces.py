"""Workspaces: create, list, view, change, archive."""

from __future__ import annotations

from collections.abc import Iterable

from maestro_core.allowance import InUse, Use, shown_servers
from maestro_core.errors import MaestroError
from maestro_core.quota import limits_for
from maestro_core.roles import Role
from maestro_core.workspaces import (
    MemberSpec,
    ServersShown,
    UserRef,
    WorkspaceChange,
    WorkspaceList,
    WorkspaceSpec,
    WorkspaceView,
)
from maestro_hub_services.store import Unit
from maestro_hub_services.store.clock import new_id

from ..authority import Authority
from ..identity import Caller
from .access import Standing, opened, own_workspaces, personal_workspace
from .limits import is_own, size_of_new
from .members import known_to_hub, put


async def list_workspaces(authority: Authority, caller: Caller, *, everything: bool = False) -> WorkspaceList:
    """The workspaces of the caller, the personal one first; for an admin with ``everything`` all open ones.

    A notebook server's token sees its own workspace.

    Raises:
        MaestroError: ``forbidden`` for ``everything`` without ``custom:maestro:admin``.
    """
    user = caller.person
    if everything and not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees every workspace; leave 'all' out to see your own.")
    await personal_workspace(authority, user)
    async with authority.store.read() as unit:
        found = [
            Standing(row, role) for row, role in await unit.workspaces.of_member(user.name, user.created, user.groups)
        ]
        if everything:
            roles = {standing.workspace.id: standing.role for standing in found}
            found = [Standing(row, roles.get(row.id)) for row in await unit.workspaces.every()]
        if caller.notebook:
            own = await own_workspaces(unit, caller)
            found = [_capped(standing) for standing in found if standing.workspace.id in own]
        found.sort(key=lambda standing: (not is_own(standing.workspace, user), standing.workspace.name))
        return WorkspaceList(workspaces=tuple(await _views(authority, unit, user, found)))


async def view_workspace(authority: Authority, caller: Caller, name: str) -> WorkspaceView:
    """One workspace.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        return (await _views(authority, unit, caller.person, [standing]))[0]


async def create_workspace(authority: Authority, caller: Caller, spec: WorkspaceSpec) -> WorkspaceView:
    """Create a workspace with its volume; the caller is an owner.

    Raises:
        MaestroError: ``name_taken``, ``unknown_user``, ``unknown_group``, ``unknown_template``; of the volume
            ``conflict`` or ``start_failed``, and then nothing was created.
    """
    user = caller.person
    if spec.template is not None:
        authority.templates.check(spec.template)
    members = [await known_to_hub(authority, member) for member in spec.members]
    async with authority.store.read() as unit:
        await _check_free(unit, spec.name)
        size = await size_of_new(unit, authority.policy.current, spec.name)
    workspace_id = new_id("w")
    # The volume first: a workspace without one would be half-made. A lost race for the name takes it away again.
    await authority.volumes.ensure(workspace_id, spec.name, size)
    try:
        async with authority.store.write() as unit:
            await _check_free(unit, spec.name)
            made = await unit.workspaces.add(
                spec.name,
                user.name,
                workspace_id=workspace_id,
                description=spec.description,
                template=spec.template,
            )
            await unit.events.append("workspace_created", user.name, workspace_id=made.id, name=made.name)
            await put(unit, made, user.name, MemberSpec(user=user.name, role=Role.OWNER), user.created)
            for member, created in members:
                if member.kind == "group" or member.name != user.name:  # the creator stays owner
                    await put(unit, made, user.name, member, created)
            return (await _views(authority, unit, user, [Standing(made, Role.OWNER)]))[0]
    except BaseException:
        await authority.volumes.discard(workspace_id, spec.name)
        raise


async def change_workspace(authority: Authority, caller: Caller, name: str, change: WorkspaceChange) -> WorkspaceView:
    """Change the description.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``.
    """
    async with opened(authority, caller, name, "change", write=True) as (unit, standing):
        workspace = standing.workspace
        await unit.workspaces.change(workspace.id, description=change.description)
        await unit.events.append(
            "workspace_changed", caller.name, workspace_id=workspace.id, fields=sorted(change.model_fields_set)
        )
    return await view_workspace(authority, caller, name)


async def archive_workspace(authority: Authority, caller: Caller, name: str) -> None:
    """Archive a workspace: it takes no launches and leaves everyone's lists; its files and its name stay.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``conflict`` while servers run in it, or for a personal one.
    """
    async with opened(authority, caller, name, "archive", write=True) as (unit, standing):
        workspace = standing.workspace
        if workspace.personal:
            raise MaestroError("conflict", "A personal workspace cannot be archived; it stays as long as its user.")
        if not workspace.open:
            return
        running = await unit.launches.count_in(workspace.id)
        if running:
            raise MaestroError(
                "conflict",
                f"{running} server{'s run' if running > 1 else ' runs'} in {workspace.name}; stop them first, then "
                "archive it.",
                {"workspace": workspace.name, "in_use": running},
            )
        await unit.workspaces.archive(workspace.id, caller.name)
        await unit.events.append("workspace_archived", caller.name, workspace_id=workspace.id, name=workspace.name)


async def _check_free(unit: Unit, name: str) -> None:
    if await unit.workspaces.by_name(name) is not None:
        raise MaestroError(
            "name_taken", f"The name {name!r} is taken; choose another one for the workspace.", {"name": name}
        )


def _capped(standing: Standing) -> Standing:
    return Standing(standing.workspace, Role.EDITOR) if standing.role is Role.OWNER else standing


async def _views(authority: Authority, unit: Unit, user: UserRef, found: Iterable[Standing]) -> list[WorkspaceView]:
    found = list(found)
    launches = await unit.launches.active_of(user.name, user.created)
    counts = await unit.members.counts([standing.workspace.id for standing in found])
    servers = await servers_shown(authority, unit, user, len(launches))
    return [
        WorkspaceView(
            workspace_id=standing.workspace.id,
            name=standing.workspace.name,
            description=standing.workspace.description,
            personal=standing.workspace.personal,
            role=standing.role,
            created_by=standing.workspace.created_by,
            created_at=standing.workspace.created_at,
            members=counts.get(standing.workspace.id, 0),
            servers=servers,
            launches=tuple(launch.id for launch in launches if launch.workspace_id == standing.workspace.id),
        )
        for standing in found
    ]


async def servers_shown(authority: Authority, unit: Unit, user: UserRef, used: int) -> ServersShown:
    """How many of a person's servers run or start, and their limit; none is shown while no policy is in force."""
    try:
        quotas = authority.policy.current.quotas
    except MaestroError:
        return ServersShown(used=used, limit=None)
    overrides = await unit.quotas.holding((user.name, user.created), user.groups, None)
    limits = limits_for(quotas, user.name, user.groups, None, overrides)
    return ServersShown.model_validate(shown_servers(limits, InUse(Use(servers=used))))
