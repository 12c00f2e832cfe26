"""Invitations of people whom the Hub does not know yet; see :mod:`maestro_core.invitations` for the rule."""

from __future__ import annotations

from datetime import timedelta

from maestro_core.errors import MaestroError
from maestro_core.invitations import MAX_OPEN, Invitation, InvitationList, InvitationSpec
from maestro_core.lifecycle import MemberRules
from maestro_core.roles import may
from maestro_core.workspaces import Member, MemberSpec, UserRef
from maestro_hub_services.store import InvitationRow, Unit, WorkspaceRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import MEMBERSHIP

from ..authority import Authority
from ..identity import Caller
from .access import opened, role_in
from .members import put


async def invite(authority: Authority, caller: Caller, name: str, spec: InvitationSpec) -> Invitation:
    """Invite somebody to a workspace; once more for the same name is a new invitation.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``conflict`` when the Hub knows the user (add them), for a
            personal workspace, and beyond 100 invitations.
    """
    async with opened(authority, caller, name, "manage_members"):
        pass  # who may not manage members learns nothing of the Hub's users
    if await _known(authority, spec.user):
        raise MaestroError("conflict", f"The Hub knows {spec.user[:60]!r}; add them as a member.", {"user": spec.user})
    days = _rules(authority).invitation_days
    async with opened(authority, caller, name, "manage_members", write=True) as (unit, standing):
        workspace = standing.workspace
        if workspace.personal:
            raise MaestroError("conflict", "A personal workspace has one member, its user; create one to share.")
        if await unit.invitations.count(workspace.id) >= MAX_OPEN:
            raise MaestroError("conflict", f"{workspace.name} has {MAX_OPEN} open invitations; withdraw some first.")
        until = now() + timedelta(days=days)
        by = (caller.name, caller.person.created if may(standing.role, "manage_members") else None)
        row = await unit.invitations.put(workspace.id, spec.user, spec.role, by, until)
        await unit.events.append(
            "member_invited",
            caller.name,
            workspace_id=workspace.id,
            user=spec.user,
            role=spec.role.value,
            until=until.isoformat(),
        )
        return _view(row, workspace)


async def _known(authority: Authority, name: str) -> bool:
    try:
        await authority.hub.member_user(name)
    except MaestroError as error:
        if error.code != "unknown_user":
            raise
        return False
    return True


def _rules(authority: Authority) -> MemberRules:
    try:
        return authority.policy.current.members
    except MaestroError:
        return MemberRules()


async def list_of_workspace(authority: Authority, caller: Caller, name: str) -> InvitationList:
    """The open invitations of a workspace, for its owners.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``.
    """
    async with opened(authority, caller, name, "manage_members") as (unit, standing):
        rows = await unit.invitations.of_workspace(standing.workspace.id)
        return InvitationList(invitations=tuple(_view(row, standing.workspace) for row in rows))


async def withdraw(authority: Authority, caller: Caller, name: str, invitation_id: str) -> None:
    """Take an invitation back.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``, ``unknown_invitation``.
    """
    async with opened(authority, caller, name, "manage_members", write=True) as (unit, standing):
        row = await unit.invitations.get(invitation_id)
        if row is None or row.workspace_id != standing.workspace.id:
            raise _unknown(invitation_id)
        await _end(unit, row, caller.name, "withdrawn")


async def list_mine(authority: Authority, caller: Caller) -> InvitationList:
    """The caller's open invitations. From the first look on they are this account's alone.

    A notebook server's token sees none: its workspace's editors could make it look.
    """
    user = caller.person
    if caller.notebook:
        return InvitationList(invitations=())
    async with authority.store.read() as unit:
        rows = await unit.invitations.of_user(user.name, user.created)
        pairs = [(row, await unit.workspaces.get(row.workspace_id)) for row in rows]
    if any(not row.user_created for row in rows):
        async with authority.store.write() as unit:
            await unit.invitations.bind(user.name, user.created)
    return InvitationList(invitations=tuple(_view(row, workspace) for row, workspace in pairs if workspace.open))


async def accept(authority: Authority, caller: Caller, invitation_id: str) -> Member:
    """Become a member, with the role that was offered, if whoever invited could still give it.

    Raises:
        MaestroError: ``unknown_invitation``, ``hub_unavailable``.
    """
    user = caller.person
    async with authority.store.read() as unit:
        row, _ = await _mine(unit, user, invitation_id)
    inviter = await _inviter(authority, row)
    async with authority.store.write() as unit:
        row, workspace = await _mine(unit, user, invitation_id)
        if row.inviter_created is not None and not await _may_invite(unit, row, inviter):
            raise _unknown(invitation_id)
        known = await unit.members.get(workspace.id, "user", user.name)
        role = row.role
        if known is not None and known.created == user.created and known.role.covers(role):
            role = known.role  # an owner added them meanwhile
        made = await put(unit, workspace, row.invited_by, MemberSpec(user=user.name, role=role), user.created)
        await unit.invitations.remove(row.id)
        await unit.events.append(
            "invitation_accepted", user.name, workspace_id=workspace.id, user=user.name, role=role.value
        )
        return made


async def _inviter(authority: Authority, row: InvitationRow) -> UserRef | None:
    try:
        return await authority.hub.user(row.invited_by)
    except MaestroError as error:
        if error.code != "unknown_user":
            raise
        return None


async def _may_invite(unit: Unit, row: InvitationRow, inviter: UserRef | None) -> bool:
    if inviter is None or inviter.created != row.inviter_created:
        return False
    return may(await role_in(unit, row.workspace_id, inviter), "manage_members")


async def decline(authority: Authority, caller: Caller, invitation_id: str) -> None:
    """Say no.

    Raises:
        MaestroError: ``unknown_invitation``.
    """
    async with authority.store.write() as unit:
        row, _ = await _mine(unit, caller.person, invitation_id)
        await _end(unit, row, caller.name, "declined")


async def forget_run_out(authority: Authority) -> None:
    """Remove invitations that are open no longer."""
    async with authority.store.read() as unit:
        if not await unit.invitations.run_out():
            return
    async with authority.store.write() as unit:
        for row in await unit.invitations.run_out():
            await _end(unit, row, MEMBERSHIP, "ran out")


async def _mine(unit: Unit, user: UserRef, invitation_id: str) -> tuple[InvitationRow, WorkspaceRow]:
    rows = await unit.invitations.of_user(user.name, user.created)
    for row in rows:
        workspace = await unit.workspaces.get(row.workspace_id)
        if row.id == invitation_id and workspace.open:
            return row, workspace
    raise _unknown(invitation_id)


async def _end(unit: Unit, row: InvitationRow, by: str, reason: str) -> None:
    await unit.invitations.remove(row.id)
    await unit.events.append("invitation_ended", by, workspace_id=row.workspace_id, user=row.user, reason=reason)


def _unknown(invitation_id: str) -> MaestroError:
    return MaestroError(
        "unknown_invitation",
        f"There is no open invitation {invitation_id[:40]!r} for you; ask an owner to invite you again.",
        {"invitation_id": invitation_id[:40]},
    )


def _view(row: InvitationRow, workspace: WorkspaceRow) -> Invitation:
    return Invitation(
        invitation_id=row.id,
        workspace=workspace.name,
        user=row.user,
        role=row.role,
        invited_by=row.invited_by,
        invited_at=row.invited_at,
        expires_at=row.expires_at,
    )
