"""Jobs: what waits, what runs, what its attempts did, and the code that they run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.jobs import JobStatus

from .tables import job, job_attempt, job_code, job_log, job_output, launch, snapshot

#: of one attempt's log that are kept, however short they are
_PIECES = 4000
_OPEN = job.c.ended_at.is_(None)
_ACTIVE = job.c.status.in_((JobStatus.STARTING.value, JobStatus.RUNNING.value))


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job; the columns are described in :mod:`.tables`."""

    id: str
    workspace_id: str
    user: str
    user_created: str
    name: str
    kind: str
    path: str
    address: str
    experiment: str
    queue: str
    created_at: datetime
    parameters: dict[str, Any] = field(default_factory=dict)
    ask: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    timeout: int = 3600
    max_concurrency: int | None = None
    schedule: str | None = None
    timezone: str = "UTC"
    series: str | None = None
    sweep_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    work: dict[str, Any] | None = None
    status: JobStatus = JobStatus.QUEUED
    reason: str | None = None
    attempt: int = 0
    failures: int = 0
    not_before: datetime | None = None
    cancel_by: str | None = None
    cancel_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def server(self) -> str:
        """What stands for a server's name in the rows of its launches; no server of the Hub can be called so."""
        return f"job:{self.id}"


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt; its token is known by its HMAC alone, and only while it lives."""

    job_id: str
    number: int
    launch_id: str
    token_mac: str | None
    token_until: datetime
    started_at: datetime
    phase: str | None = None
    cell: int = 0
    cells: int = 0
    heard_at: datetime | None = None
    run_id: str | None = None
    parent_run: str | None = None
    metrics: dict[str, float] | None = None
    outcome: str | None = None
    reason: str | None = None
    ended_at: datetime | None = None


class JobRepository:
    """Jobs of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def add(self, row: JobRow) -> None:
        """A new one, whose code is kept already."""
        values = {name: getattr(row, name) for name in JobRow.__slots__}
        await self._db.execute(insert(job), {**values, "status": row.status.value})

    async def get(self, job_id: str) -> JobRow | None:
        """One job."""
        found = await self._many(job.c.id == job_id)
        return found[0] if found else None

    async def change(self, job_id: str, **values: Any) -> None:
        """Set columns of one that is not over; what is over never changes."""
        await self._db.execute(update(job).where(job.c.id == job_id, _OPEN).values(**values))

    async def waiting(self, moment: datetime, limit: int) -> list[JobRow]:
        """Those whose time has come, the oldest first.

        Where there are more than ``limit``, each person's oldest come in: nobody's thousand keep out another's one.
        """
        due = job.c.not_before.is_(None) | (job.c.not_before <= moment)
        turn = func.row_number().over(partition_by=(job.c.user, job.c.user_created), order_by=job.c.created_at)
        queued = select(job.c.id, job.c.created_at, turn.label("turn"))
        queued = queued.where(_OPEN, job.c.status == JobStatus.QUEUED.value, due)
        mine = queued.subquery()
        chosen = select(mine.c.id).order_by(mine.c.turn, mine.c.created_at).limit(limit)
        return await self._many(job.c.id.in_(chosen), order=(job.c.created_at, job.c.id))

    async def active(self) -> list[JobRow]:
        """Those that start or run."""
        return await self._many(_OPEN, _ACTIVE)

    async def active_in_queue(self, workspace_id: str, queue: str) -> int:
        """How many of a queue start or run."""
        return await self._count(_OPEN, _ACTIVE, job.c.workspace_id == workspace_id, job.c.queue == queue)

    async def open_in_series(self, series: str) -> int:
        """How many runs of a schedule wait, start or run; the one that carries the schedule does not count."""
        return await self._count(_OPEN, job.c.series == series, job.c.schedule.is_(None))

    async def carrier(self, series: str) -> JobRow | None:
        """The job that carries a schedule; None: it was ended."""
        found = await self._many(_OPEN, job.c.series == series, job.c.schedule.is_not(None))
        return found[0] if found else None

    async def count_open(self, user: str, created: str) -> int:
        """How many of a person's are not over."""
        return await self._count(_OPEN, job.c.user == user, job.c.user_created == created)

    async def count_since(self, user: str, created: str, since: datetime) -> int:
        """How many a person has queued since a moment."""
        return await self._count(job.c.user == user, job.c.user_created == created, job.c.created_at > since)

    async def newest(
        self, *, workspace_id: str | None = None, user: tuple[str, str] | None = None, limit: int
    ) -> list[JobRow]:
        """Those of a workspace, of a person, or all; the newest first."""
        conditions = [] if workspace_id is None else [job.c.workspace_id == workspace_id]
        if user is not None:
            conditions += [job.c.user == user[0], job.c.user_created == user[1]]
        return await self._many(*conditions, limit=limit)

    async def of_sweep(self, sweep_id: str) -> list[JobRow]:
        """The jobs of a sweep, the oldest first."""
        return await self._many(job.c.sweep_id == sweep_id, order=(job.c.created_at, job.c.id))

    async def notebook_of(self, workspace_id: str, experiment: str) -> str | None:
        """The notebook or script that was last used for an experiment: queued for it, or saved in a server of it."""
        queued = select(job.c.path, job.c.created_at).where(
            job.c.workspace_id == workspace_id, job.c.experiment == experiment, job.c.kind != "sweep-summary"
        )
        last = (await self._db.execute(queued.order_by(job.c.created_at.desc()).limit(1))).first()
        saved = (
            select(snapshot.c.path, snapshot.c.saved_at)
            .join(launch, launch.c.id == snapshot.c.launch_id)
            .where(snapshot.c.workspace_id == workspace_id, launch.c.experiment == experiment)
            .order_by(snapshot.c.id.desc())
            .limit(1)
        )
        wrote = (await self._db.execute(saved)).first()
        both = [found for found in (last, wrote) if found is not None]
        return max(both, key=lambda found: found[1])[0] if both else None

    async def notebooks(self, workspace_id: str, limit: int) -> list[str]:
        """The notebooks of which a version is stored, the last saved first."""
        query = select(snapshot.c.path).where(snapshot.c.workspace_id == workspace_id).group_by(snapshot.c.path)
        query = query.order_by(func.max(snapshot.c.id).desc()).limit(limit)
        return list((await self._db.execute(query)).scalars())

    # -- code ---------------------------------------------------------------------------------------------------------

    async def keep_code(self, workspace_id: str, address: str, body: bytes) -> None:
        """Keep a code that may be there already."""
        if await self.code(workspace_id, address) is None:
            await self._db.execute(insert(job_code), {"workspace_id": workspace_id, "address": address, "body": body})

    async def code(self, workspace_id: str, address: str) -> bytes | None:
        """zstd of a notebook's JSON or of a script."""
        query = select(job_code.c.body).where(job_code.c.workspace_id == workspace_id, job_code.c.address == address)
        return (await self._db.execute(query)).scalar()

    # -- attempts -----------------------------------------------------------------------------------------------------

    async def begin(self, row: AttemptRow) -> None:
        """A new attempt, whose launch is reserved."""
        await self._db.execute(insert(job_attempt), {name: getattr(row, name) for name in AttemptRow.__slots__})

    async def attempt(self, job_id: str, number: int) -> AttemptRow | None:
        """One attempt."""
        return await self._attempt(job_attempt.c.job_id == job_id, job_attempt.c.number == number)

    async def attempt_of_launch(self, launch_id: str) -> AttemptRow | None:
        """The attempt that a launch is."""
        return await self._attempt(job_attempt.c.launch_id == launch_id)

    async def by_token(self, mac: str) -> AttemptRow | None:
        """The attempt that a living token is of; when it dies by itself stands in the row."""
        return await self._attempt(job_attempt.c.token_mac == mac)

    async def attempts(self, job_id: str) -> list[AttemptRow]:
        """All attempts of a job, the first one first."""
        query = select(job_attempt).where(job_attempt.c.job_id == job_id).order_by(job_attempt.c.number)
        return [AttemptRow(**row) for row in (await self._db.execute(query)).mappings()]

    async def last_attempts(self, job_ids: Collection[str]) -> dict[str, AttemptRow]:
        """The last attempt of each of some jobs."""
        query = select(job_attempt).join(
            job, and_(job.c.id == job_attempt.c.job_id, job.c.attempt == job_attempt.c.number)
        )
        rows = (await self._db.execute(query.where(job.c.id.in_(job_ids)))).mappings()
        return {row["job_id"]: AttemptRow(**row) for row in rows}

    async def change_attempt(self, job_id: str, number: int, **values: Any) -> None:
        """Set columns of an attempt."""
        mine = and_(job_attempt.c.job_id == job_id, job_attempt.c.number == number)
        await self._db.execute(update(job_attempt).where(mine).values(**values))

    # -- what they wrote ----------------------------------------------------------------------------------------------

    async def log_end(self, job_id: str, attempt: int) -> int:
        """Bytes that an attempt has written so far."""
        query = select(func.max(job_log.c.offset + job_log.c.length))
        query = query.where(job_log.c.job_id == job_id, job_log.c.attempt == attempt)
        return int((await self._db.execute(query)).scalar() or 0)

    async def add_log(self, job_id: str, attempt: int, offset: int, body: bytes, keep: int) -> None:
        """A piece at the end; what lies further back than ``keep`` bytes is forgotten, in whole pieces."""
        values = {"job_id": job_id, "attempt": attempt, "offset": offset, "length": len(body), "body": body}
        await self._db.execute(insert(job_log), values)
        mine = and_(job_log.c.job_id == job_id, job_log.c.attempt == attempt)
        newest = select(job_log.c.offset).where(mine).order_by(job_log.c.offset.desc()).offset(_PIECES).limit(1)
        many = (await self._db.execute(newest)).scalar()
        old = job_log.c.offset + job_log.c.length <= offset + len(body) - keep
        if many is not None:
            old = old | (job_log.c.offset <= many)
        await self._db.execute(delete(job_log).where(mine, old))

    async def log(self, job_id: str, attempt: int, offset: int, pieces: int) -> list[tuple[int, bytes]]:
        """Some pieces that reach beyond an offset, in order."""
        query = select(job_log.c.offset, job_log.c.body).where(
            job_log.c.job_id == job_id, job_log.c.attempt == attempt, job_log.c.offset + job_log.c.length > offset
        )
        rows = await self._db.execute(query.order_by(job_log.c.offset).limit(pieces))
        return [(row.offset, row.body) for row in rows]

    async def put_output(self, job_id: str, attempt: int, body: bytes) -> None:
        """The executed notebook so far, in the place of an earlier one."""
        await self._db.execute(delete(job_output).where(job_output.c.job_id == job_id))
        await self._db.execute(insert(job_output), {"job_id": job_id, "attempt": attempt, "body": body})

    async def output(self, job_id: str) -> tuple[int, bytes] | None:
        """The attempt's number and zstd of the notebook."""
        query = select(job_output.c.attempt, job_output.c.body).where(job_output.c.job_id == job_id)
        row = (await self._db.execute(query)).first()
        return None if row is None else (row.attempt, row.body)

    async def with_output(self, job_ids: Collection[str]) -> set[str]:
        """Those of some jobs that have an executed notebook."""
        query = select(job_output.c.job_id).where(job_output.c.job_id.in_(job_ids))
        return set((await self._db.execute(query)).scalars())

    # -- forgetting ---------------------------------------------------------------------------------------------------

    async def forget_ended(self, before: datetime, limit: int) -> int:
        """Remove those that ended before a moment, some at a time; how many that were."""
        query = select(job.c.id).where(job.c.ended_at < before).order_by(job.c.ended_at).limit(limit)
        ids = list((await self._db.execute(query)).scalars())
        await self._forget(ids)
        return len(ids)

    async def fit(self, user: str, created: str, most: int) -> None:
        """Remove a person's oldest ones that are over, a tenth at a time, where they have more than ``most``."""
        mine = and_(job.c.user == user, job.c.user_created == created)
        if await self._count(mine) <= most:
            return
        query = select(job.c.id).where(mine, ~_OPEN).order_by(job.c.created_at).limit(most // 10)
        await self._forget(list((await self._db.execute(query)).scalars()))

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove those of a workspace; how many that were."""
        ids = list((await self._db.execute(select(job.c.id).where(job.c.workspace_id == workspace_id))).scalars())
        for start in range(0, len(ids), 500):
            await self._forget(ids[start : start + 500])
        await self._db.execute(delete(job_code).where(job_code.c.workspace_id == workspace_id))
        return len(ids)

    async def _forget(self, ids: Collection[str]) -> None:
        for table in (job_log, job_output, job_attempt):
            await self._db.execute(delete(table).where(table.c.job_id.in_(ids)))
        places = set((await self._db.execute(select(job.c.workspace_id).where(job.c.id.in_(ids)))).scalars())
        await self._db.execute(delete(job).where(job.c.id.in_(ids)))
        used = exists().where(job.c.workspace_id == job_code.c.workspace_id, job.c.address == job_code.c.address)
        await self._db.execute(delete(job_code).where(job_code.c.workspace_id.in_(places), ~used))

    # -- rows ---------------------------------------------------------------------------------------------------------

    async def _many(self, *conditions: Any, order: Any = (), limit: int | None = None) -> list[JobRow]:
        query = select(job).where(*conditions).order_by(*(order or (job.c.created_at.desc(), job.c.id))).limit(limit)
        rows = (await self._db.execute(query)).mappings()
        return [JobRow(**{**row, "status": JobStatus(row["status"])}) for row in rows]

    async def _count(self, *conditions: Any) -> int:
        return int((await self._db.execute(select(func.count()).select_from(job).where(*conditions))).scalar_one())

    async def _attempt(self, *conditions: Any) -> AttemptRow | None:
        row = (await self._db.execute(select(job_attempt).where(*conditions))).mappings().first()
        return None if row is None else AttemptRow(**row)
