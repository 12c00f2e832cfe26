"""Charges: what launches held and how long. Budgets are sums over them, see :mod:`maestro_core.budget`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Float, and_, bindparam, case, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.budget import SECONDS_PER_HOUR, Month

from .clock import wall
from .tables import charge


@dataclass(frozen=True, slots=True)
class Hours:
    """Core hours and GPU hours."""

    cpu: float = 0.0
    gpu: float = 0.0


class ChargeRepository:
    """Charges of one transaction. They begin and end with their launches (``LaunchRepository``)."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def by_user(self, month: Month) -> dict[tuple[str, str], Hours]:
        """The hours of every person (name and creation stamp) who used any."""
        who = (charge.c.user, charge.c.user_created)
        query = select(*who, *hours_sums()).where(WITHIN).group_by(*who)
        return {(row[0], row[1]): Hours(*row[2:]) for row in await self._db.execute(query, span_of(month))}

    async def by_workspace(self, month: Month) -> dict[str, Hours]:
        """The hours of every workspace in which any were used."""
        query = select(charge.c.workspace_id, *hours_sums()).where(WITHIN).group_by(charge.c.workspace_id)
        return {row[0]: Hours(*row[1:]) for row in await self._db.execute(query, span_of(month))}

    async def follow_clock(self, before: float, after: float) -> None:
        """The clock was set: what is held ends by the old one and begins again by the new one, so no hour changes."""
        open_ones = [row[0] for row in await self._db.execute(select(charge.c.id).where(charge.c.ended.is_(None)))]
        if not open_ones:
            return
        these = charge.c.id.in_(open_ones)
        until = case((charge.c.began > before, charge.c.began), else_=before)
        await self._db.execute(update(charge).where(these).values(ended=until))
        names = ["launch_id", "workspace_id", "user", "user_created", "cpu", "gpu"]
        again = select(*(charge.c[name] for name in names), literal(after)).where(these)
        await self._db.execute(insert(charge).from_select([*names, "began"], again))


def span_of(month: Month) -> dict[str, float]:
    """What :func:`hours_sums` and :data:`WITHIN` need to know."""
    return {"month_start": month.start.timestamp(), "month_end": month.end.timestamp(), "moment": wall()}


_START, _END = bindparam("month_start", type_=Float()), bindparam("month_end", type_=Float())
#: charges that touch a month
WITHIN = and_(or_(charge.c.ended.is_(None), charge.c.ended > _START), charge.c.began < _END)


def hours_sums() -> list[Any]:
    """Amount times hours within a month, of cores and of GPUs."""
    until = func.coalesce(charge.c.ended, bindparam("moment", type_=Float()))
    last = case((until > _END, _END), else_=until)
    first = case((charge.c.began < _START, _START), else_=charge.c.began)
    seconds = case((last > first, last - first), else_=0.0)
    columns = (charge.c.cpu, charge.c.gpu)
    return [func.coalesce(func.sum(column * seconds), 0.0) / SECONDS_PER_HOUR for column in columns]
