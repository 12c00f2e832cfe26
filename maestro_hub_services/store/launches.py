"""Launches: reserved, running, ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, literal, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.launches import LaunchStatus
from maestro_core.resources import Resources
from maestro_core.roles import Role

from .clock import now, wall
from .tables import charge, launch, launch_group

#: reserved or running; a literal, so that the databases see that their partial indexes cover it
ACTIVE = launch.c.status != literal_column("'ended'")
_NEWEST_FIRST = select(launch).order_by(launch.c.created_at.desc(), launch.c.id)
# what every decision runs is put together once
_ACTIVE_OF = _NEWEST_FIRST.where(
    ACTIVE, launch.c.user == bindparam("of_user"), launch.c.user_created == bindparam("of_created")
)
_ADD, _ADD_GROUPS = insert(launch), insert(launch_group)


@dataclass(frozen=True, slots=True)
class LaunchRow:
    """One launch; the index token is known by its HMAC alone, and only while the launch is active."""

    id: str
    kind: str
    workspace_id: str
    user: str
    user_created: str
    server_name: str
    role: Role
    profile: str
    resources: Resources
    experiment: str
    default_url: str
    status: LaunchStatus
    token_mac: str | None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_reason: str | None = None
    image: str | None = None
    idle_minutes: int | None = None
    ends_at: datetime | None = None
    ends_kind: str | None = None
    ends_reason: str | None = None
    kept_at: datetime | None = None
    resizing_at: datetime | None = None

    def due(self, moment: datetime) -> str | None:
        """Why it is over at that moment, for a reason of which its user was told; None: it is not, or not for one."""
        return self.ends_reason if self.ends_at is not None and self.ends_at <= moment else None


@dataclass(frozen=True, slots=True)
class Held:
    """What a set of reserved and running launches holds: cores, bytes and GPUs together."""

    servers: int
    cpu: float
    memory: int
    gpu: int

    @classmethod
    def of(cls, launches: Collection[LaunchRow]) -> Held:
        """What these launches hold."""
        amounts = [launch.resources for launch in launches]
        return cls(
            len(amounts),
            sum(amount.cpu for amount in amounts),
            sum(amount.memory for amount in amounts),
            sum(amount.gpu for amount in amounts),
        )


class LaunchRepository:
    """Launches of one transaction.

    What a launch holds is charged from its confirmation until its end: a start that fails costs nothing.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, row: LaunchRow, groups: Collection[str] = ()) -> None:
        """Reserve one; ``groups``: the Hub groups of its user. The caller holds the admission lock."""
        values = {name: getattr(row, name) for name in LaunchRow.__slots__ if name != "resources"}
        values.update(row.resources.model_dump(), role=row.role.value, status=row.status.value)
        await self._db.execute(_ADD, values)
        await self._add_groups(row.id, groups)

    async def get(self, launch_id: str) -> LaunchRow | None:
        """One launch, ended or not."""
        return await self._one(launch.c.id == launch_id)

    async def ended_among(self, launch_ids: Collection[str]) -> list[LaunchRow]:
        """Those of some launches that have ended."""
        return await self._many(launch.c.id.in_(launch_ids), ~ACTIVE)

    async def of_server(self, user: str, created: str, server_name: str) -> LaunchRow | None:
        """The active launch of one server."""
        return await self._one(
            ACTIVE, launch.c.user == user, launch.c.user_created == created, launch.c.server_name == server_name
        )

    async def by_token(self, mac: str) -> LaunchRow | None:
        """The active launch that an index token belongs to."""
        return await self._one(ACTIVE, launch.c.token_mac == mac)

    async def active(self) -> list[LaunchRow]:
        """Everybody's reserved and running launches, the newest first."""
        return await self._many(ACTIVE)

    async def active_of(self, user: str, created: str) -> list[LaunchRow]:
        """A person's reserved and running launches, the newest first."""
        rows = (await self._db.execute(_ACTIVE_OF, {"of_user": user, "of_created": created})).mappings()
        return [_row(row) for row in rows]

    async def held_by_user(self) -> dict[tuple[str, str], Held]:
        """What every person (name and creation stamp) holds who has a reserved or running launch."""
        who = (launch.c.user, launch.c.user_created)
        query = select(*who, *held_sums()).where(ACTIVE).group_by(*who)
        return {(row[0], row[1]): Held(*row[2:]) for row in await self._db.execute(query)}

    async def held_by_workspace(self) -> dict[str, Held]:
        """What is held in every workspace that has a reserved or running launch."""
        query = select(launch.c.workspace_id, *held_sums()).where(ACTIVE).group_by(launch.c.workspace_id)
        return {row[0]: Held(*row[1:]) for row in await self._db.execute(query)}

    async def groups_by_user(self) -> dict[tuple[str, str], set[str]]:
        """The noted groups of every person who has a reserved or running launch."""
        query = (
            select(launch.c.user, launch.c.user_created, launch_group.c.group_name)
            .join(launch_group, launch_group.c.launch_id == launch.c.id)
            .where(ACTIVE)
        )
        found: dict[tuple[str, str], set[str]] = {}
        for user, created, name in await self._db.execute(query):
            found.setdefault((user, created), set()).add(name)
        return found

    async def noted_groups(self, user: str | None = None, created: str | None = None) -> dict[str, set[str]]:
        """The noted groups of every reserved and running launch, or of those of one person."""
        query = (
            select(launch.c.id, launch_group.c.group_name)
            .outerjoin(launch_group, launch_group.c.launch_id == launch.c.id)
            .where(ACTIVE)
        )
        if user is not None:
            query = query.where(launch.c.user == user, launch.c.user_created == created)
        found: dict[str, set[str]] = {}
        for launch_id, name in await self._db.execute(query):
            found.setdefault(launch_id, set()).update(() if name is None else (name,))
        return found

    async def note_groups(self, launch_id: str, groups: Collection[str]) -> None:
        """The Hub groups of a launch's user are these now."""
        await self._db.execute(delete(launch_group).where(launch_group.c.launch_id == launch_id))
        await self._add_groups(launch_id, groups)

    async def _add_groups(self, launch_id: str, groups: Collection[str]) -> None:
        if groups:
            rows = [{"launch_id": launch_id, "group_name": name} for name in sorted(set(groups))]
            await self._db.execute(_ADD_GROUPS, rows)

    async def confirm(self, launch_id: str) -> bool:
        """reserved -> running, charged from now on; False if it was not reserved."""
        query = update(launch).where(launch.c.id == launch_id, launch.c.status == LaunchStatus.RESERVED.value)
        done = await self._db.execute(query.values(status=LaunchStatus.RUNNING.value, started_at=now()))
        if not done.rowcount:
            return False
        await self._charge(launch_id, wall())
        return True

    async def resize(self, launch_id: str, held: Resources) -> datetime | None:
        """A running launch holds ``held`` (the higher of before and after) while its server is resized.

        The caller holds the admission lock. What it is charged stays until :meth:`settle`.

        Returns:
            the stamp that settles it; None if it does not run, or is being resized.
        """
        stamp, idle = now(), launch.c.resizing_at.is_(None)
        query = update(launch).where(launch.c.id == launch_id, launch.c.status == LaunchStatus.RUNNING.value, idle)
        done = await self._db.execute(query.values(cpu=held.cpu, memory=held.memory, resizing_at=stamp))
        return stamp if done.rowcount else None

    async def settle(self, launch_id: str, stamp: datetime, held: Resources) -> bool:
        """The server has ``held`` now, and is charged for it from now on; False if it ended, or was settled before."""
        query = update(launch).where(launch.c.id == launch_id, ACTIVE, launch.c.resizing_at == stamp)
        done = await self._db.execute(query.values(cpu=held.cpu, memory=held.memory, resizing_at=None))
        if not done.rowcount:
            return False
        moment = wall()
        differs = and_(charge.c.launch_id == launch_id, charge.c.ended.is_(None), charge.c.cpu != held.cpu)
        closed = await self._db.execute(update(charge).where(differs).values(ended=moment))
        if closed.rowcount:
            await self._charge(launch_id, moment)
        return True

    async def resizing(self) -> list[LaunchRow]:
        """The active launches that are being resized."""
        return await self._many(ACTIVE, launch.c.resizing_at.is_not(None))

    async def _charge(self, launch_id: str, moment: float) -> None:
        """Begin to charge what a launch holds."""
        names = ["launch_id", "workspace_id", "user", "user_created", "cpu", "gpu"]
        held = select(launch.c.id, *(launch.c[name] for name in names[1:]), literal(moment))
        await self._db.execute(insert(charge).from_select([*names, "began"], held.where(launch.c.id == launch_id)))

    async def end(self, launch_id: str, reason: str) -> bool:
        """-> ended, its index token dead; False if it had ended before."""
        query = update(launch).where(launch.c.id == launch_id, ACTIVE)
        done = await self._db.execute(
            query.values(status=LaunchStatus.ENDED.value, ended_at=now(), ended_reason=reason[:200], token_mac=None)
        )
        if not done.rowcount:
            return False
        still = and_(charge.c.launch_id == launch_id, charge.c.ended.is_(None))
        await self._db.execute(update(charge).where(still).values(ended=wall()))
        return True

    async def in_workspace(self, workspace_id: str) -> list[LaunchRow]:
        """The reserved and running launches of a workspace, the newest first."""
        return await self._many(ACTIVE, launch.c.workspace_id == workspace_id)

    async def ending(self, kind: str) -> list[LaunchRow]:
        """The active launches that something of this kind (``role``, ``idle``) will end."""
        return await self._many(ACTIVE, launch.c.ends_kind == kind)

    async def will_end(self, launch_id: str, kind: str, at: datetime, reason: str) -> bool:
        """Something will end it; False if it has ended, or if that is ``idle`` and something else comes first."""
        query = update(launch).where(launch.c.id == launch_id, ACTIVE)
        if kind == "idle":
            query = query.where(launch.c.ends_kind.is_(None))
        done = await self._db.execute(query.values(ends_kind=kind, ends_at=at, ends_reason=reason[:200]))
        return bool(done.rowcount)

    async def will_go_on(self, launch_id: str, kind: str) -> bool:
        """What would have ended it is no longer so; False if it was something else, or nothing."""
        query = update(launch).where(launch.c.id == launch_id, ACTIVE, launch.c.ends_kind == kind)
        done = await self._db.execute(query.values(ends_kind=None, ends_at=None, ends_reason=None))
        return bool(done.rowcount)

    async def keep(self, launch_id: str) -> None:
        """Its user asks to keep it running."""
        await self._db.execute(update(launch).where(launch.c.id == launch_id, ACTIVE).values(kept_at=now()))
        await self.will_go_on(launch_id, "idle")

    async def count_of(self, workspace_id: str) -> int:
        """How many launches a workspace ever had."""
        query = select(func.count()).select_from(launch).where(launch.c.workspace_id == workspace_id)
        return int((await self._db.execute(query)).scalar_one())

    async def _one(self, *conditions: Any) -> LaunchRow | None:
        row = (await self._db.execute(select(launch).where(*conditions))).mappings().first()
        return None if row is None else _row(row)

    async def _many(self, *conditions: Any) -> list[LaunchRow]:
        query = _NEWEST_FIRST.where(*conditions)
        return [_row(row) for row in (await self._db.execute(query)).mappings()]


def held_sums() -> list[Any]:
    """Number of launches, cores, bytes and GPUs."""
    columns: tuple[Any, ...] = (literal_column("1"), launch.c.cpu, launch.c.memory, launch.c.gpu)
    return [func.coalesce(func.sum(column), 0) for column in columns]


def _row(row: Any) -> LaunchRow:
    values = dict(row)
    # construct: what the store holds was checked on its way in
    values["resources"] = Resources.model_construct(
        cpu=values.pop("cpu"), memory=values.pop("memory"), gpu=values.pop("gpu"), gpu_type=values.pop("gpu_type")
    )
    values["role"], values["status"] = Role(values["role"]), LaunchStatus(values["status"])
    return LaunchRow(**values)
