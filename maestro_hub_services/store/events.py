"""What happened: appended, never changed; what one person can make happen in a loop is counted on its first event."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from json import dumps
from typing import Any

from sqlalchemy import and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.events import check_event

from .clock import now
from .tables import event

#: actors that are no person
SPAWNER, RECONCILE, POLICY = "maestro-spawner", "reconcile", "policy"
MEMBERSHIP, CULLER, PURGE, QUEUE = "membership", "idle-culler", "purge", "queue"

#: how long an event counts what is the same; the next one begins a new event, so nothing older ever changes
FOLD = timedelta(hours=1)
#: different ones of a kind that one person leaves within that time; what is beyond them is counted together
DIFFERENT = 20
_APPEND = insert(event)


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event; ``user`` is whom it is about, ``fields`` as :data:`maestro_core.events.EVENTS` names them.

    ``count``: how often it happened, from ``at`` to ``last_at`` (None: once); ``fields`` are the last one's then.
    """

    id: int
    at: datetime
    kind: str
    actor: str
    workspace_id: str | None
    launch_id: str | None
    user: str | None
    fields: dict[str, Any]
    count: int = 1
    last_at: datetime | None = None
    same: str | None = None


class EventRepository:
    """Events of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def append(
        self,
        kind: str,
        actor: str,
        *,
        workspace_id: str | None = None,
        launch_id: str | None = None,
        user: str | None = None,
        **fields: Any,
    ) -> None:
        """Add an event.

        Raises:
            KeyError: a kind or field that is not in the table of events (a mistake of ours).
        """
        await self._insert(kind, actor, workspace_id, launch_id, user, check_event(kind, fields), None)

    async def count_up(
        self,
        kind: str,
        actor: str,
        *,
        user: str,
        workspace_id: str | None = None,
        launch_id: str | None = None,
        apart: Collection[str] = (),
        times: int = 1,
        **fields: Any,
    ) -> None:
        """Add an event that one person can cause in a loop, or count it on one that is younger than :data:`FOLD`.

        The same is what has the same fields, in the same workspace. A person leaves :data:`DIFFERENT` events of a kind
        in that time, and one more that counts all others, whatever and wherever they are. The caller holds a write
        transaction.

        Args:
            apart: fields that are new each time, and make no other event of it.
            times: how often it happened.

        Raises:
            KeyError: as :meth:`append`.
        """
        checked = check_event(kind, fields)
        told = {name: value for name, value in checked.items() if name not in apart}
        same = _hash(kind, actor, user, workspace_id, told)
        if await self._again(same, checked, times):
            return
        mine = and_(event.c.user == user, event.c.kind == kind, event.c.at > now() - FOLD)
        found = (await self._db.execute(select(func.count()).select_from(event).where(mine))).scalar_one()
        if found >= DIFFERENT:
            same, workspace_id = _hash(kind, actor, user, "others"), None
            if await self._again(same, checked, times):
                return
        await self._insert(kind, actor, workspace_id, launch_id, user, checked, same, times)

    async def _again(self, same: str, fields: dict[str, Any], times: int) -> bool:
        young = and_(event.c.same == same, event.c.at > now() - FOLD)
        values = {"count": event.c.count + times, "last_at": now(), "fields": fields}
        return bool((await self._db.execute(update(event).where(young).values(**values))).rowcount)

    async def _insert(
        self,
        kind: str,
        actor: str,
        workspace_id: str | None,
        launch_id: str | None,
        user: str | None,
        fields: dict[str, Any],
        same: str | None,
        times: int = 1,
    ) -> None:
        values = {"kind": kind, "actor": actor, "workspace_id": workspace_id, "launch_id": launch_id, "user": user}
        await self._db.execute(_APPEND, {**values, "at": now(), "fields": fields, "same": same, "count": times})

    async def latest(
        self, *, kinds: Sequence[str] = (), workspace_id: str | None = None, limit: int = 100
    ) -> list[EventRow]:
        """The newest events first."""
        query = select(event).order_by(event.c.id.desc()).limit(limit)
        if kinds:
            query = query.where(event.c.kind.in_(kinds))
        if workspace_id is not None:
            query = query.where(event.c.workspace_id == workspace_id)
        return [EventRow(**row) for row in (await self._db.execute(query)).mappings()]


def _hash(*what: Any) -> str:
    return sha256(dumps(what, sort_keys=True, default=str).encode()).hexdigest()
