"""A workspace passes from one owner to another, in one step."""

from __future__ import annotations

from maestro_core.errors import MaestroError
from maestro_core.roles import Role
from maestro_core.workspaces import Member, MemberSpec, Transfer

from ..authority import Authority
from ..identity import Caller
from .access import opened
from .members import known_to_hub, put


async def transfer(authority: Authority, caller: Caller, name: str, to: Transfer) -> Member:
    """Make somebody an owner in the caller's place; the caller becomes an editor.

    An admin who is no member, and an owner by a group, only make the other an owner.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``, ``unknown_user``, ``unknown_group``; ``conflict`` for a
            personal workspace, and for a group that nobody is in: it would own nothing.
    """
    async with opened(authority, caller, name, "transfer"):
        pass  # who may not learns nothing of the Hub's users and groups
    spec, created = await known_to_hub(authority, MemberSpec(user=to.user, group=to.group, role=Role.OWNER))
    if spec.kind == "group" and not await authority.hub.group_members(spec.name):
        raise MaestroError(
            "conflict",
            f"Nobody is in the group {spec.name}, so {name} would be without an owner; name another group or a user.",
            {"workspace": name, "group": spec.name},
        )
    user = caller.person
    async with opened(authority, caller, name, "transfer", write=True) as (unit, standing):
        workspace = standing.workspace
        made = await put(unit, workspace, caller.name, spec, created)
        own = await unit.members.get(workspace.id, "user", user.name)
        if own is None or own.created != user.created or own.role is not Role.OWNER or spec.name == user.name:
            return made
        new = await unit.members.get(workspace.id, spec.kind, spec.name)
        await put(unit, workspace, caller.name, MemberSpec(user=user.name), user.created, {new.id} if new else ())
        await unit.events.append(
            "ownership_passed",
            caller.name,
            workspace_id=workspace.id,
            user=spec.name if spec.kind == "user" else None,
            member_kind=spec.kind,
            member=spec.name,
            was=user.name,
        )
        return made
