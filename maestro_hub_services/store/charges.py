"""Charges: what launches held and how long. Budgets are sums over them, see :mod:`maestro_core.budget`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.budget import SECONDS_PER_HOUR, Month

from .clock import wall
from .tables import charge, launch_group


@dataclass(frozen=True, slots=True)
class Hours:
    """Core hours and GPU hours."""

    cpu: float = 0.0
    gpu: float = 0.0


class ChargeRepository:
    """Charges of one transaction. They begin and end with their launches (``LaunchRepository``)."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def of_user(self, user: str, created: str, month: Month) -> Hours:
        """A person's hours in a month, everywhere."""
        return await self._sum(month, charge.c.user == user, charge.c.user_created == created)

    async def of_workspace(self, workspace_id: str, month: Month) -> Hours:
        """Everyone's hours in a workspace."""
        return await self._sum(month, charge.c.workspace_id == workspace_id)

    async def of_everyone(self, month: Month) -> Hours:
        """Everyone's."""
        return await self._sum(month)

    async def by_user(self, month: Month) -> dict[tuple[str, str], Hours]:
        """The hours of every person (name and creation stamp) who used any."""
        who = (charge.c.user, charge.c.user_created)
        query = select(*who, *_hours(month)).where(_within(month)).group_by(*who)
        return {(row[0], row[1]): Hours(*row[2:]) for row in await self._db.execute(query)}

    async def by_workspace(self, month: Month) -> dict[str, Hours]:
        """The hours of every workspace in which any were used."""
        query = select(charge.c.workspace_id, *_hours(month)).where(_within(month)).group_by(charge.c.workspace_id)
        return {row[0]: Hours(*row[1:]) for row in await self._db.execute(query)}

    async def of_groups(self, groups: Collection[str], month: Month) -> dict[str, Hours]:
        """The hours that the members of each of these Hub groups used together, as members."""
        if not groups:
            return {}
        query = (
            select(launch_group.c.group_name, *_hours(month))
            .join(charge, charge.c.launch_id == launch_group.c.launch_id)
            .where(_within(month), launch_group.c.group_name.in_(sorted(groups)))
            .group_by(launch_group.c.group_name)
        )
        return {row[0]: Hours(row[1], row[2]) for row in await self._db.execute(query)}

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

    async def _sum(self, month: Month, *conditions: Any) -> Hours:
        found = (await self._db.execute(select(*_hours(month)).where(_within(month), *conditions))).one()
        return Hours(*found)


def _within(month: Month) -> Any:
    """Charges that touch a month."""
    start, end = month.start.timestamp(), month.end.timestamp()
    return and_(or_(charge.c.ended.is_(None), charge.c.ended > start), charge.c.began < end)


def _hours(month: Month) -> list[Any]:
    """Amount times hours within a month, of cores and of GPUs."""
    start, end = month.start.timestamp(), month.end.timestamp()
    until = func.coalesce(charge.c.ended, wall())
    last = case((until > end, end), else_=until)
    first = case((charge.c.began < start, start), else_=charge.c.began)
    seconds = case((last > first, last - first), else_=0.0)
    columns = (charge.c.cpu, charge.c.gpu)
    return [func.coalesce(func.sum(column * seconds), 0.0) / SECONDS_PER_HOUR for column in columns]
