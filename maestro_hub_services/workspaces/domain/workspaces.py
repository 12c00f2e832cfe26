"""Workspaces: create, list, view, change. How they end is in ``lifecycle.py``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from maestro_core.allowance import InUse, Use, shown_servers
from maestro_core.errors import MaestroError
from maestro_core.profiles import choose
from maestro_core.quota import limits_for
from maestro_core.roles import Role, may
from maestro_core.workspace_settings import SECTIONS, WorkspaceSettings, check_disk
from maestro_core.workspaces import (
    ExperimentLink,
    MemberSpec,
    ServersShown,
    UserRef,
    WorkspaceChange,
    WorkspaceList,
    WorkspaceSpec,
    WorkspaceView,
)
from maestro_hub_services.store import Unit, WorkspaceRow
from maestro_hub_services.store.clock import new_id

from ..authority import Authority
from ..identity import Caller
from .access import Standing, opened, own_workspaces, personal_workspace
from .environments import follow_settings
from .lifecycle import may_purge_from
from .limits import check_may_make, is_own, size_of_new
from .members import known_to_hub, put


async def list_workspaces(
    authority: Authority, caller: Caller, *, everything: bool = False, archived: bool = False
) -> WorkspaceList:
    """The workspaces of the caller, the personal one first; for an admin with ``everything`` all.

    A notebook server's token sees its own workspace.

    Args:
        archived: the archived ones of which the caller is owner, in the place of the open ones.

    Raises:
        MaestroError: ``forbidden`` for ``everything`` without ``custom:maestro:admin``.
    """
    user = caller.person
    if everything and not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees every workspace; leave 'all' out to see your own.")
    await personal_workspace(authority, user)
    async with authority.store.read() as unit:
        rows = await unit.workspaces.of_member(user.name, user.created, user.groups, archived=archived)
        found = [Standing(row, role) for row, role in rows if not archived or may(role, "restore")]
        if everything:
            roles = {standing.workspace.id: standing.role for standing in found}
            every = [row for row in await unit.workspaces.every(archived=archived) if row.open is not archived]
            found = [Standing(row, roles.get(row.id)) for row in every]
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
        MaestroError: ``name_taken``, ``unknown_user``, ``unknown_group``, ``unknown_template``; ``profile_closed`` and
            ``quota_exceeded`` for amounts and a disk that it cannot have, and for one workspace too many; of the volume
            ``conflict`` or ``start_failed``, and then nothing was created.
    """
    user = caller.person
    _check_offered(authority, user, spec)
    members = [await known_to_hub(authority, member) for member in spec.members]
    async with authority.store.read() as unit:
        await _check_free(unit, spec.name)
        await check_may_make(unit, authority.policy.current, user)
        size = check_disk(spec, await size_of_new(unit, authority.policy.current, spec.name), spec.name)
    workspace_id = new_id("w")
    # The volume first: a workspace without one would be half-made. A lost race for the name takes it away again.
    await authority.volumes.ensure(workspace_id, spec.name, size)
    try:
        async with authority.store.write() as unit:
            await _check_free(unit, spec.name)
            await check_may_make(unit, authority.policy.current, user)
            made = await unit.workspaces.add(
                spec.name,
                user.name,
                workspace_id=workspace_id,
                description=spec.description,
                template=spec.template,
                settings=spec.stored() or None,
                creator_created=user.created,
            )
            await unit.events.append("workspace_created", user.name, workspace_id=made.id, name=made.name)
            await put(unit, made, user.name, MemberSpec(user=user.name, role=Role.OWNER), user.created)
            await follow_settings(unit, made, user.name, WorkspaceSettings(), spec)
            for member, created in members:
                if member.kind == "group" or member.name != user.name:  # the creator stays owner
                    await put(unit, made, user.name, member, created)
            return (await _views(authority, unit, user, [Standing(made, Role.OWNER)]))[0]
    except BaseException:
        await authority.volumes.discard(workspace_id, spec.name)
        raise


async def change_workspace(authority: Authority, caller: Caller, name: str, change: WorkspaceChange) -> WorkspaceView:
    """Change what is named: the description, the template, sections of the settings. Counts for the next launch.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``, ``unknown_template``, ``profile_closed``,
            ``quota_exceeded``; ``conflict`` for another disk where a volume keeps the size that it was made with.
    """
    named = change.model_fields_set
    async with opened(authority, caller, name, "change", write=True) as (unit, standing):
        workspace = standing.workspace
        _check_offered(authority, caller.person, change)
        before = WorkspaceSettings.read(workspace.settings)
        after = before.changed({section: getattr(change, section) for section in SECTIONS if section in named})
        if after.disk != before.disk:
            await _check_new_disk(authority, unit, workspace, after)
        values: dict[str, Any] = {"settings": after.stored() or None}
        if change.description is not None:
            values["description"] = change.description
        if "template" in named:
            values["template"] = change.template
        await unit.workspaces.change(workspace.id, **values)
        await follow_settings(unit, workspace, caller.name, before, after)
        await unit.events.append("workspace_changed", caller.name, workspace_id=workspace.id, fields=sorted(named))
    return await view_workspace(authority, caller, name)


async def link_experiment(authority: Authority, caller: Caller, name: str, link: ExperimentLink) -> WorkspaceView:
    """Have the runs of launches that name no experiment go to this one. Counts for the next launch.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``.
    """
    return await change_workspace(authority, caller, name, WorkspaceChange(experiment=link.experiment_id))


def _check_offered(authority: Authority, user: UserRef, spec: WorkspaceSpec | WorkspaceChange) -> None:
    """The template and the amounts are there to be had: better said now than at every start."""
    if spec.template is not None:
        authority.templates.check(spec.template)
    if spec.amounts is not None:
        choose(authority.policy.current.profiles, user.groups, None, spec.amounts)


async def _check_new_disk(authority: Authority, unit: Unit, workspace: WorkspaceRow, after: WorkspaceSettings) -> None:
    if authority.volumes.holds_size:
        raise MaestroError(
            "conflict",
            f"The volume of {workspace.name} keeps the size that it was made with; leave the disk as it is, or ask an "
            "admin to let it grow.",
            {"workspace": workspace.name, "field": "resources.disk"},
        )
    check_disk(after, await size_of_new(unit, authority.policy.current, workspace.name), workspace.name)


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
            launches=tuple(
                launch.id
                for launch in launches
                if launch.workspace_id == standing.workspace.id and launch.kind == "server"
            ),
            template=standing.workspace.template,
            settings=WorkspaceSettings.read(standing.workspace.settings),
            archived_at=standing.workspace.archived_at,
            purge_from=may_purge_from(authority, standing.workspace),
            purging=standing.workspace.purge_at is not None,
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
