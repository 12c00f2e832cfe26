"""Workspaces: named, never deleted while anything of them is left."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.roles import Role, highest

from .clock import new_id, now
from .tables import member, workspace

#: the first gid of a workspace: above the ids of people and system accounts
FIRST_GID = 200_000


@dataclass(frozen=True, slots=True)
class WorkspaceRow:
    """One workspace; ``personal_user`` and ``personal_created`` say whose personal one it is, ``created_by`` and
    ``creator_created`` who made it."""

    id: str
    name: str
    description: str
    personal: bool
    personal_user: str | None
    personal_created: str | None
    gid: int
    template: str | None
    created_by: str
    created_at: datetime
    archived_by: str | None
    archived_at: datetime | None
    storage_used: int | None = None
    storage_measured_at: datetime | None = None
    settings: dict[str, Any] | None = None
    purged_name: str | None = None
    purge_by: str | None = None
    purge_at: datetime | None = None
    purge_report: dict[str, Any] | None = None
    purged_at: datetime | None = None
    creator_created: str | None = None

    @property
    def open(self) -> bool:
        """Whether it takes launches."""
        return self.archived_at is None

    @property
    def shown_name(self) -> str:
        """Its name for people, also when nothing is left of it."""
        return self.purged_name or self.name


class WorkspaceRepository:
    """Workspaces of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(
        self,
        name: str,
        created_by: str,
        *,
        workspace_id: str | None = None,
        description: str = "",
        template: str | None = None,
        settings: dict[str, Any] | None = None,
        personal_of: tuple[str, str] | None = None,
        creator_created: str | None = None,
    ) -> WorkspaceRow:
        """Add a workspace. The caller holds a write transaction and has seen that the name is free.

        Args:
            personal_of: the user's name and creation stamp, for a personal workspace.
            creator_created: creation stamp of ``created_by``: those who take the name later made none.

        Raises:
            sqlalchemy.exc.IntegrityError: if the name is taken after all.
        """
        user, created = personal_of or (None, None)
        row = WorkspaceRow(
            id=workspace_id or new_id("w"),
            name=name,
            description=description,
            personal=personal_of is not None,
            personal_user=user,
            personal_created=created,
            gid=await self._next_gid(),
            template=template,
            created_by=created_by,
            created_at=now(),
            archived_by=None,
            archived_at=None,
            settings=settings,
            creator_created=created if personal_of else creator_created,
        )
        await self._db.execute(insert(workspace), {name: getattr(row, name) for name in WorkspaceRow.__slots__})
        return row

    async def _next_gid(self) -> int:
        highest_gid = (await self._db.execute(select(func.max(workspace.c.gid)))).scalar()
        return FIRST_GID if highest_gid is None else highest_gid + 1

    async def by_name(self, name: str) -> WorkspaceRow | None:
        """The workspace of that name, archived or not."""
        return await self._one(workspace.c.name == name)

    async def by_id(self, workspace_id: str) -> WorkspaceRow | None:
        """The workspace of an id that may be anybody's text."""
        return await self._one(workspace.c.id == workspace_id)

    async def get(self, workspace_id: str) -> WorkspaceRow:
        """The workspace of an id that a launch or member holds, archived or not.

        Raises:
            LookupError: there is none.
        """
        row = await self._one(workspace.c.id == workspace_id)
        if row is None:
            raise LookupError(workspace_id)
        return row

    async def personal_of(self, user: str, created: str) -> WorkspaceRow | None:
        """The personal workspace of a user."""
        return await self._one(and_(workspace.c.personal_user == user, workspace.c.personal_created == created))

    async def of_member(
        self, user: str, created: str, groups: Collection[str], *, archived: bool = False
    ) -> list[tuple[WorkspaceRow, Role]]:
        """The workspaces where a person is a member, each with their highest role; ordered by name.

        Args:
            archived: those that are archived and not yet purged; else the open ones.
        """
        shown = and_(workspace.c.archived_at.is_not(None), workspace.c.purged_at.is_(None))
        query = (
            select(workspace, member.c.role.label("member_role"))
            .join(member, member.c.workspace_id == workspace.c.id)
            .where(shown if archived else workspace.c.archived_at.is_(None), is_person(user, created, groups))
            .order_by(workspace.c.name)
        )
        found: dict[str, tuple[WorkspaceRow, list[Role]]] = {}
        for row in (await self._db.execute(query)).mappings():
            values = dict(row)
            role = Role(values.pop("member_role"))
            found.setdefault(values["id"], (WorkspaceRow(**values), []))[1].append(role)
        return [(row, highest(roles) or Role.VIEWER) for row, roles in found.values()]

    async def with_role(
        self, names: Collection[str], user: str, created: str, groups: Collection[str]
    ) -> dict[str, tuple[WorkspaceRow, Role | None]]:
        """The workspaces of these names that there are, archived or not, with the highest role of a person in each."""
        asked = {"names": sorted(names), "of_user": user, "of_created": created, "of_groups": sorted(groups)}
        found: dict[str, tuple[WorkspaceRow, Role | None]] = {}
        for row in (await self._db.execute(_WITH_ROLE, asked)).mappings():
            values = dict(row)
            role = values.pop("member_role")
            known = found.get(values["name"])
            roles = [Role(role)] if role is not None else []
            if known is not None and known[1] is not None:
                roles.append(known[1])
            found[values["name"]] = (WorkspaceRow(**values) if known is None else known[0], highest(roles))
        return found

    async def every(self, *, archived: bool = False) -> list[WorkspaceRow]:
        """All open workspaces by name; with ``archived`` the archived ones too, until nothing is left of them."""
        query = select(workspace).where(workspace.c.purged_at.is_(None)).order_by(workspace.c.name)
        if not archived:
            query = query.where(workspace.c.archived_at.is_(None))
        return [WorkspaceRow(**row) for row in (await self._db.execute(query)).mappings()]

    async def made_by(self, user: str, created: str) -> int:
        """How many workspaces somebody made of which something is left, without their personal one."""
        mine = and_(workspace.c.created_by == user, workspace.c.creator_created == created)
        query = select(func.count()).where(mine, *_LEFT)
        return int((await self._db.execute(query)).scalar_one())

    async def made(self) -> dict[tuple[str, str], int]:
        """The same of everybody who made some, by name and creation stamp."""
        who = (workspace.c.created_by, workspace.c.creator_created)
        query = select(*who, func.count()).where(workspace.c.creator_created.is_not(None), *_LEFT).group_by(*who)
        return {(name, created): count for name, created, count in (await self._db.execute(query)).all()}

    async def change(self, workspace_id: str, **values: Any) -> None:
        """Set columns of one workspace."""
        await self._db.execute(update(workspace).where(workspace.c.id == workspace_id).values(**values))

    async def archive(self, workspace_id: str, by: str) -> None:
        """Close it: it takes no launches, and nobody sees it but admins. Its name stays taken."""
        await self.change(workspace_id, archived_at=now(), archived_by=by)

    async def restore(self, workspace_id: str) -> None:
        """Open it again."""
        await self.change(workspace_id, archived_at=None, archived_by=None)

    async def purging(self) -> list[WorkspaceRow]:
        """Those whose data is being removed, the first to begin first."""
        query = select(workspace).where(workspace.c.purge_at.is_not(None), workspace.c.purged_at.is_(None))
        rows = (await self._db.execute(query.order_by(workspace.c.purge_at, workspace.c.id))).mappings()
        return [WorkspaceRow(**row) for row in rows]

    async def purged(self, row: WorkspaceRow) -> None:
        """Nothing is left of it: its name is free; this row keeps the id and the gid from being handed out again."""
        await self.change(row.id, name=row.id, purged_name=row.name, purged_at=now(), settings=None, storage_used=None)

    async def _one(self, condition: Any) -> WorkspaceRow | None:
        row = (await self._db.execute(select(workspace).where(condition))).mappings().first()
        return None if row is None else WorkspaceRow(**row)


#: conditions: no personal workspace, and something is left of it
_LEFT = (workspace.c.personal.is_(False), workspace.c.purged_at.is_(None))


def is_person(user: str, created: str, groups: Collection[str]) -> Any:
    """The condition on ``member`` for everything that gives a role to one person."""
    own = and_(member.c.kind == "user", member.c.name == user, member.c.created == created)
    if not groups:
        return own
    return or_(own, and_(member.c.kind == "group", member.c.name.in_(sorted(groups))))


_OWN = and_(member.c.kind == "user", member.c.name == bindparam("of_user"), member.c.created == bindparam("of_created"))
_BY_GROUP = and_(member.c.kind == "group", member.c.name.in_(bindparam("of_groups", expanding=True)))
#: put together once: every decision asks for it
_WITH_ROLE = (
    select(workspace, member.c.role.label("member_role"))
    .outerjoin(member, and_(member.c.workspace_id == workspace.c.id, or_(_OWN, _BY_GROUP)))
    .where(workspace.c.name.in_(bindparam("names", expanding=True)))
)
