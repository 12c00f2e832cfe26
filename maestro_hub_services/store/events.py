"""What happened: appended, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.events import check_event

from .clock import now
from .tables import event

#: actors that are no person
SPAWNER, RECONCILE, POLICY = "maestro-spawner", "reconcile", "policy"
MEMBERSHIP, CULLER, PURGE = "membership", "idle-culler", "purge"


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event; ``user`` is whom it is about, ``fields`` as :data:`maestro_core.events.EVENTS` names them."""

    id: int
    at: datetime
    kind: str
    actor: str
    workspace_id: str | None
    launch_id: str | None
    user: str | None
    fields: dict[str, Any]


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
        values = {
            "at": now(),
            "kind": kind,
            "actor": actor,
            "workspace_id": workspace_id,
            "launch_id": launch_id,
            "user": user,
            "fields": check_event(kind, fields),
        }
        await self._db.execute(insert(event), values)

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
