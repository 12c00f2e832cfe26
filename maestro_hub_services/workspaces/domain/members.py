"""Members: users that the Hub knows and groups that the Hub has, each with a role."""

from __future__ import annotations

import logging
from collections.abc import Collection

from maestro_core.errors import MaestroError
from maestro_core.names import check_group_name, check_user_name
from maestro_core.roles import Role, may
from maestro_core.workspaces import Member, MemberList, MemberSpec, UserRef
from maestro_hub_services.store import LaunchRow, MemberRow, Unit, WorkspaceRow

from ..authority import Authority
from ..identity import Caller
from .access import Standing, check, opened
from .departures import review_workspace

log = logging.getLogger("maestro.members")


async def list_members(authority: Authority, caller: Caller, name: str) -> MemberList:
    """The members of a workspace; every member may see them.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        return MemberList(members=tuple(_view(row) for row in await unit.members.of_workspace(standing.workspace.id)))


async def put_member(
    authority: Authority, caller: Caller, name: str, spec: MemberSpec, *, at_once: bool = False
) -> Member:
    """Add a member or change their role.

    Args:
        at_once: servers that may not go on with the new role end now, not after the grace time.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``, ``unknown_user``, ``unknown_group``; ``conflict`` for a
            personal workspace or when it would take the last owner.
    """
    async with opened(authority, caller, name, "manage_members"):
        pass  # who may not manage members learns nothing of the Hub's users and groups
    spec, created = await known_to_hub(authority, spec)
    owners = await living_owners(authority, caller, name, spec.kind, spec.name)
    async with opened(authority, caller, name, "manage_members", write=True) as (unit, standing):
        written = await put(unit, standing.workspace, caller.name, spec, created, owners)
    await _review(authority, standing.workspace, spec.kind, spec.name, at_once)
    return written


async def remove_member(
    authority: Authority, caller: Caller, name: str, kind: str, member: str, *, at_once: bool = False
) -> None:
    """Remove a member; anybody may remove themselves.

    Args:
        at_once: their servers here end now, not after the grace time.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``, ``unknown_member``; ``conflict`` for the last owner.
    """
    if kind not in ("user", "group"):
        raise MaestroError("invalid_request", f"A member is a user or a group, not a {kind[:20]!r}.", {"field": "kind"})
    member = check_user_name(member) if kind == "user" else check_group_name(member)
    owners = await living_owners(authority, caller, name, kind, member)
    async with opened(authority, caller, name, "read", write=True) as (unit, standing):
        if not (kind == "user" and member == caller.name):
            check(caller, standing, "manage_members")
        workspace = standing.workspace
        row = await unit.members.get(workspace.id, kind, member)  # type: ignore[arg-type]
        if row is None:
            raise MaestroError(
                "unknown_member",
                f"{workspace.name} has no member {member[:60]!r} that is a {kind}; look at the list of its members.",
                {"workspace": workspace.name, "kind": kind, "member": member},
            )
        await _keep_an_owner(unit, workspace, row, None, owners)
        await unit.members.remove(row.id)
        await unit.events.append(
            "member_removed",
            caller.name,
            workspace_id=workspace.id,
            user=member if kind == "user" else None,
            member_kind=kind,
            member=member,
            was=row.role.value,
        )
    await _review(authority, workspace, kind, member, at_once)


async def _review(authority: Authority, workspace: WorkspaceRow, kind: str, member: str, at_once: bool) -> None:
    """See what becomes of running servers. Where the Hub does not answer, the look at everything does it later."""

    def hurry(launch: LaunchRow, user: UserRef) -> bool:
        return at_once and (user.name == member if kind == "user" else member in user.groups)

    try:
        await review_workspace(authority, workspace.id, hurry)
    except MaestroError as error:
        log.warning("Servers in %s are looked at later: %s", workspace.name, error.message)


async def living_owners(authority: Authority, caller: Caller, name: str, kind: str, member: str) -> set[int]:
    """The ids of rows that make somebody an owner who is there: users of the Hub, and groups with members.

    Args:
        kind, member: the one whose role is about to change; nobody else is looked at when they are no owner.

    Raises:
        MaestroError: ``unknown_workspace``, ``hub_unavailable``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        owners = [row for row in await unit.members.of_workspace(standing.workspace.id) if row.role is Role.OWNER]
    found: set[int] = set()
    if not any((row.kind, row.name) == (kind, member) for row in owners):
        return found
    for row in owners:
        if (row.kind, row.name) != (kind, member) and await _lives(authority, row):
            found.add(row.id)
            break  # one is enough
    return found


async def _lives(authority: Authority, row: MemberRow) -> bool:
    try:
        if row.kind == "group":
            return bool(await authority.hub.group_members(row.name))
        return (await authority.hub.user(row.name, now=True)).created == row.created
    except MaestroError as error:
        if error.code in ("unknown_user", "unknown_group"):
            return False
        raise


async def known_to_hub(authority: Authority, spec: MemberSpec) -> tuple[MemberSpec, str]:
    """The member under the Hub's own name, and a user's creation stamp (empty for a group).

    Raises:
        MaestroError: ``unknown_user``, ``unknown_group``, ``hub_unavailable``.
    """
    if spec.kind == "group":
        await authority.hub.check_group(spec.name)
        return spec, ""
    user = await authority.hub.member_user(spec.name)
    return MemberSpec(user=user.name, role=spec.role), user.created


async def put(
    unit: Unit, workspace: WorkspaceRow, by: str, spec: MemberSpec, created: str, owners: Collection[int] = ()
) -> Member:
    """Write a member and the event, inside a write transaction.

    Args:
        owners: ids of rows of other owners who are there (:func:`living_owners`).
    """
    row = await unit.members.get(workspace.id, spec.kind, spec.name)
    if workspace.personal:
        raise MaestroError(
            "conflict", "A personal workspace has one member, its user; create a workspace to work with others."
        )
    if row is not None and row.created == created:
        await _keep_an_owner(unit, workspace, row, spec.role, owners)
    was, written = await unit.members.put(workspace.id, spec.kind, spec.name, created, spec.role, by)
    about = {"member_kind": spec.kind, "member": spec.name, "role": spec.role.value}
    user = spec.name if spec.kind == "user" else None
    if was is None or was.created != created:
        await unit.events.append("member_added", by, workspace_id=workspace.id, user=user, **about)
    elif was.role is not spec.role:
        about["was"] = was.role.value
        await unit.events.append("member_changed", by, workspace_id=workspace.id, user=user, **about)
    return _view(written)


async def _keep_an_owner(
    unit: Unit, workspace: WorkspaceRow, row: MemberRow, role: Role | None, living: Collection[int]
) -> None:
    """A workspace has an owner who is there: a user of the Hub, or a group that somebody is in."""
    if row.role is not Role.OWNER or role is Role.OWNER:
        return
    others = [other for other in await unit.members.of_workspace(workspace.id) if other.id != row.id]
    if not any(other.role is Role.OWNER and other.id in living for other in others):
        raise MaestroError(
            "conflict",
            f"{row.name} is the last owner of {workspace.name}; make somebody else an owner first.",
            {"workspace": workspace.name, "member": row.name},
        )


def may_manage(standing: Standing, caller: Caller) -> bool:
    """Whether the pages offer the caller to manage members here."""
    return not standing.workspace.personal and (caller.admin or may(standing.role, "manage_members"))


def _view(row: MemberRow) -> Member:
    return Member(kind=row.kind, name=row.name, role=row.role, added_by=row.added_by, added_at=row.added_at)
