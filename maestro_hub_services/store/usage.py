"""What launches used: samples, thinned to minutes and hours as they grow old."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import BigInteger, and_, cast, delete, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .tables import launch, usage

SAMPLE, MINUTE, HOUR = 0, 60, 3600
#: seconds for which samples and minutes are kept before they are thinned
SAMPLES_KEPT, MINUTES_KEPT = 3600, 86400


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A sample (``span`` 0) or a mean of samples; the columns of ``usage``."""

    launch_id: str
    span: int
    at: int
    samples: int
    seconds: float
    cpu_seconds: float
    memory: int
    memory_peak: int
    gpu: float | None
    gpu_memory: int
    busy: float


class UsageRepository:
    """Usage of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Append samples of launches that are known."""
        if rows:
            await self._db.execute(insert(usage), [asdict(row) for row in rows])

    async def of_launch(self, launch_id: str, since: int = 0) -> list[UsageRow]:
        """What a launch used, the oldest first; ``since`` in seconds of the epoch."""
        query = select(usage).where(usage.c.launch_id == launch_id, usage.c.at >= since).order_by(usage.c.at)
        return [UsageRow(**row) for row in (await self._db.execute(query)).mappings()]

    async def latest(self, launch_ids: Collection[str]) -> dict[str, UsageRow]:
        """The last sample of each of these launches."""
        last = (
            select(usage.c.launch_id, func.max(usage.c.at).label("at"))
            .where(usage.c.launch_id.in_(sorted(launch_ids)), usage.c.span == SAMPLE)
            .group_by(usage.c.launch_id)
            .subquery()
        )
        same = and_(usage.c.launch_id == last.c.launch_id, usage.c.at == last.c.at, usage.c.span == SAMPLE)
        query = select(usage).join(last, same)
        return {row["launch_id"]: UsageRow(**row) for row in (await self._db.execute(query)).mappings()}

    async def last_busy(self, launch_id: str) -> int | None:
        """When something was last seen to work in a launch, in seconds of the epoch; None: never (that is known)."""
        query = select(func.max(usage.c.at + usage.c.span)).where(usage.c.launch_id == launch_id, usage.c.busy > 0)
        found = (await self._db.execute(query)).scalar()
        return None if found is None else int(found)

    async def thin(self, now: int, keep_hours: int) -> None:
        """Samples of more than an hour become minutes, minutes of more than a day hours, older ones go.

        Args:
            now: seconds of the epoch. keep_hours: seconds for which hours are kept.
        """
        await self._fold(SAMPLE, MINUTE, (now - SAMPLES_KEPT) // MINUTE * MINUTE)
        await self._fold(MINUTE, HOUR, (now - MINUTES_KEPT) // HOUR * HOUR)
        await self._db.execute(delete(usage).where(usage.c.span == HOUR, usage.c.at < now - keep_hours))

    async def _fold(self, span: int, into: int, before: int) -> None:
        """Rows of ``span`` from before a boundary of ``into``: their means take their place."""
        old = and_(usage.c.span == span, usage.c.at < before)
        begin = usage.c.at - usage.c.at % into
        means = select(
            usage.c.launch_id, literal(into), begin, func.sum(usage.c.samples), func.sum(usage.c.seconds),
            func.sum(usage.c.cpu_seconds), _mean(usage.c.memory), func.max(usage.c.memory_peak),
            func.sum(usage.c.gpu * usage.c.samples) / func.sum(usage.c.samples), _mean(usage.c.gpu_memory),
            func.sum(usage.c.busy * usage.c.samples) / func.sum(usage.c.samples),
        ).where(old).group_by(usage.c.launch_id, begin)  # fmt: skip
        await self._db.execute(insert(usage).from_select([column.name for column in usage.c], means))
        await self._db.execute(delete(usage).where(old))

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove what the launches of a workspace used; how many rows that were."""
        of_it = select(launch.c.id).where(launch.c.workspace_id == workspace_id)
        return int((await self._db.execute(delete(usage).where(usage.c.launch_id.in_(of_it)))).rowcount)


def _mean(column: Any) -> Any:
    """Of whole numbers, weighed by samples; Postgres sums them to a numeric."""
    return cast(func.sum(column * usage.c.samples) / func.sum(usage.c.samples), BigInteger)
