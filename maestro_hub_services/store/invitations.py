"""Invitations: open ones only. What became of the others is in the events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.roles import Role

from .clock import new_id, now
from .tables import invitation


@dataclass(frozen=True, slots=True)
class InvitationRow:
    """One invitation.

    Attributes:
        user_created: empty until an account of that name was seen.
        inviter_created: the creation stamp of the owner who invited; None: an admin, who needs no role.
    """

    id: str
    workspace_id: str
    user: str
    user_created: str
    role: Role
    invited_by: str
    inviter_created: str | None
    invited_at: datetime
    expires_at: datetime


class InvitationRepository:
    """Invitations of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def put(
        self, workspace_id: str, user: str, role: Role, by: tuple[str, str | None], expires_at: datetime
    ) -> InvitationRow:
        """Invite somebody anew; an earlier invitation of the same name goes.

        Args:
            by: who invites: name, and creation stamp unless it is an admin.
        """
        same = (invitation.c.workspace_id == workspace_id, invitation.c.user == user)
        await self._db.execute(delete(invitation).where(*same))
        row = InvitationRow(new_id("i"), workspace_id, user, "", role, *by, now(), expires_at)
        values = {name: getattr(row, name) for name in InvitationRow.__slots__}
        await self._db.execute(insert(invitation), {**values, "role": role.value})
        return row

    async def get(self, invitation_id: str) -> InvitationRow | None:
        """One, run out or not."""
        found = await self._many(invitation.c.id == invitation_id)
        return found[0] if found else None

    async def of_workspace(self, workspace_id: str) -> list[InvitationRow]:
        """Those that are open, the oldest first."""
        return await self._many(invitation.c.workspace_id == workspace_id, invitation.c.expires_at > now())

    async def of_user(self, user: str, created: str) -> list[InvitationRow]:
        """Those that are open for one account: of its name, and not bound to an earlier account of the name."""
        bound = or_(invitation.c.user_created == "", invitation.c.user_created == created)
        return await self._many(invitation.c.user == user, bound, invitation.c.expires_at > now())

    async def bind(self, user: str, created: str) -> None:
        """From now on the invitations of this name are for this account alone."""
        free = (invitation.c.user == user, invitation.c.user_created == "")
        await self._db.execute(update(invitation).where(*free).values(user_created=created))

    async def run_out(self) -> list[InvitationRow]:
        """Those that are open no longer."""
        return await self._many(invitation.c.expires_at <= now())

    async def count(self, workspace_id: str) -> int:
        """How many a workspace has."""
        query = select(func.count()).select_from(invitation).where(invitation.c.workspace_id == workspace_id)
        return int((await self._db.execute(query)).scalar_one())

    async def remove(self, invitation_id: str) -> None:
        """Remove one."""
        await self._db.execute(delete(invitation).where(invitation.c.id == invitation_id))

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove those of a workspace; how many that were."""
        return int(
            (await self._db.execute(delete(invitation).where(invitation.c.workspace_id == workspace_id))).rowcount
        )

    async def _many(self, *conditions: Any) -> list[InvitationRow]:
        query = select(invitation).where(*conditions).order_by(invitation.c.invited_at, invitation.c.id)
        return [_row(row) for row in (await self._db.execute(query)).mappings()]


def _row(row: Any) -> InvitationRow:
    values = dict(row)
    values["role"] = Role(values["role"])
    return InvitationRow(**values)
