"""Members: who may do what in a workspace."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.roles import Role, highest

from .clock import now
from .tables import member
from .workspaces import is_person

MemberKind = Literal["user", "group"]


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member; ``created`` is a user's creation stamp, empty for a group."""

    id: int
    workspace_id: str
    kind: MemberKind
    name: str
    created: str
    role: Role
    added_by: str
    added_at: datetime


class MemberRepository:
    """Members of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def role_of(self, workspace_id: str, user: str, created: str, groups: Collection[str]) -> Role | None:
        """The highest role of a person, by themselves and by their groups; None for a stranger."""
        query = select(member.c.role).where(member.c.workspace_id == workspace_id, is_person(user, created, groups))
        return highest(Role(role) for role in (await self._db.execute(query)).scalars())

    async def of_workspace(self, workspace_id: str) -> list[MemberRow]:
        """All members, in the order in which they were added."""
        query = select(member).where(member.c.workspace_id == workspace_id).order_by(member.c.id)
        return [_row(row) for row in (await self._db.execute(query)).mappings()]

    async def counts(self, workspace_ids: Collection[str]) -> dict[str, int]:
        """How many members each of these workspaces has."""
        query = (
            select(member.c.workspace_id, func.count())
            .where(member.c.workspace_id.in_(sorted(workspace_ids)))
            .group_by(member.c.workspace_id)
        )
        return {row[0]: row[1] for row in await self._db.execute(query)}

    async def get(self, workspace_id: str, kind: MemberKind, name: str) -> MemberRow | None:
        """One member by kind and name."""
        query = select(member).where(
            member.c.workspace_id == workspace_id, member.c.kind == kind, member.c.name == name
        )
        row = (await self._db.execute(query)).mappings().first()
        return None if row is None else _row(row)

    async def put(
        self, workspace_id: str, kind: MemberKind, name: str, created: str, role: Role, by: str
    ) -> tuple[MemberRow | None, MemberRow]:
        """Add a member or change the role; returns what stood there before, and what stands there now.

        A row of a deleted user of the same name is replaced whole.
        """
        was = await self.get(workspace_id, kind, name)
        values = {"created": created, "role": role.value, "added_by": by, "added_at": now()}
        if was is None:
            keys = {"workspace_id": workspace_id, "kind": kind, "name": name}
            await self._db.execute(insert(member), {**keys, **values})
        elif was.created != created:
            await self._db.execute(update(member).where(member.c.id == was.id).values(**values))
        else:
            await self._db.execute(update(member).where(member.c.id == was.id).values(role=role.value))
        query = select(member).where(
            member.c.workspace_id == workspace_id, member.c.kind == kind, member.c.name == name
        )
        return was, _row((await self._db.execute(query)).mappings().one())

    async def groups(self) -> set[str]:
        """The names of all groups that are members anywhere."""
        query = select(member.c.name).where(member.c.kind == "group").distinct()
        return set((await self._db.execute(query)).scalars())

    async def of_group(self, name: str) -> list[MemberRow]:
        """A group's memberships, everywhere."""
        query = select(member).where(member.c.kind == "group", member.c.name == name).order_by(member.c.id)
        return [_row(row) for row in (await self._db.execute(query)).mappings()]

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove all members of a workspace; how many that were."""
        return int((await self._db.execute(delete(member).where(member.c.workspace_id == workspace_id))).rowcount)

    async def remove(self, member_id: int) -> None:
        """Remove one."""
        await self._db.execute(delete(member).where(member.c.id == member_id))


def _row(row: object) -> MemberRow:
    values = dict(row)  # type: ignore[call-overload]
    values["role"] = Role(values["role"])
    return MemberRow(**values)
