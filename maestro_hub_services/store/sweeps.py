"""Sweeps and their trials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.jobs import JobStatus
from maestro_core.sweeps import SweepStatus

from .tables import sweep, sweep_trial

_OPEN = sweep.c.ended_at.is_(None)


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One sweep; the columns are described in :mod:`.tables`."""

    id: str
    workspace_id: str
    user: str
    user_created: str
    name: str
    kind: str
    path: str
    address: str
    body: bytes
    experiment: str
    created_at: datetime
    spec: dict[str, Any] = field(default_factory=dict)
    status: SweepStatus = SweepStatus.RUNNING
    reason: str | None = None
    parent_run: str | None = None
    summary_job: str | None = None
    cancel_by: str | None = None
    stopped: str | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial; ``status`` is queued until its job is over."""

    sweep_id: str
    number: int
    parameters: dict[str, Any]
    job_id: str
    status: JobStatus = JobStatus.QUEUED
    reason: str | None = None
    value: float | None = None
    run_id: str | None = None


class SweepRepository:
    """Sweeps of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, row: SweepRow) -> None:
        """A new one."""
        values = {name: getattr(row, name) for name in SweepRow.__slots__}
        await self._db.execute(insert(sweep), {**values, "status": row.status.value})

    async def get(self, sweep_id: str) -> SweepRow | None:
        """One sweep."""
        found = await self._many(sweep.c.id == sweep_id)
        return found[0] if found else None

    async def change(self, sweep_id: str, **values: Any) -> None:
        """Set columns of one that is not over; what is over never changes."""
        await self._db.execute(update(sweep).where(sweep.c.id == sweep_id, _OPEN).values(**values))

    async def open(self) -> list[SweepRow]:
        """Those that are not over, the oldest first."""
        return await self._many(_OPEN, order=(sweep.c.created_at, sweep.c.id))

    async def count_open(self, user: str, created: str) -> int:
        """How many of a person's are not over."""
        query = select(func.count()).select_from(sweep).where(_OPEN)
        query = query.where(sweep.c.user == user, sweep.c.user_created == created)
        return int((await self._db.execute(query)).scalar_one())

    async def newest(
        self, *, workspace_id: str | None = None, user: tuple[str, str] | None = None, limit: int
    ) -> list[SweepRow]:
        """The newest first."""
        conditions = [] if workspace_id is None else [sweep.c.workspace_id == workspace_id]
        if user is not None:
            conditions += [sweep.c.user == user[0], sweep.c.user_created == user[1]]
        return await self._many(*conditions, limit=limit)

    async def over_among(self, sweep_ids: Collection[str]) -> list[SweepRow]:
        """Those of some that are over."""
        return await self._many(sweep.c.id.in_(sweep_ids), ~_OPEN)

    async def add_trial(self, row: TrialRow) -> None:
        """A new trial, whose job is queued."""
        values = {name: getattr(row, name) for name in TrialRow.__slots__}
        await self._db.execute(insert(sweep_trial), {**values, "status": row.status.value})

    async def trials(self, sweep_id: str) -> list[TrialRow]:
        """The trials of a sweep that were begun, in their order."""
        query = select(sweep_trial).where(sweep_trial.c.sweep_id == sweep_id).order_by(sweep_trial.c.number)
        rows = (await self._db.execute(query)).mappings()
        return [TrialRow(**{**row, "status": JobStatus(row["status"])}) for row in rows]

    async def change_trial(self, sweep_id: str, number: int, **values: Any) -> None:
        """Set columns of a trial."""
        mine = (sweep_trial.c.sweep_id == sweep_id, sweep_trial.c.number == number)
        await self._db.execute(update(sweep_trial).where(*mine).values(**values))

    async def forget_ended(self, before: datetime, limit: int) -> int:
        """Remove those that ended before a moment, some at a time; how many that were."""
        query = select(sweep.c.id).where(sweep.c.ended_at < before).order_by(sweep.c.ended_at).limit(limit)
        return await self._forget(list((await self._db.execute(query)).scalars()))

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove those of a workspace; how many that were."""
        query = select(sweep.c.id).where(sweep.c.workspace_id == workspace_id)
        ids = list((await self._db.execute(query)).scalars())
        return sum([await self._forget(ids[at : at + 500]) for at in range(0, len(ids), 500)])

    async def _forget(self, ids: list[str]) -> int:
        await self._db.execute(delete(sweep_trial).where(sweep_trial.c.sweep_id.in_(ids)))
        await self._db.execute(delete(sweep).where(sweep.c.id.in_(ids)))
        return len(ids)

    async def _many(self, *conditions: Any, order: Any = (), limit: int | None = None) -> list[SweepRow]:
        query = select(sweep).where(*conditions).order_by(*(order or (sweep.c.created_at.desc(), sweep.c.id)))
        rows = (await self._db.execute(query.limit(limit))).mappings()
        return [SweepRow(**{**row, "status": SweepStatus(row["status"])}) for row in rows]
