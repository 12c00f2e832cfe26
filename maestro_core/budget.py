"""Budgets: hours are sums over the intervals in which launches held something, clipped to a month of UTC.

Nothing counts up, so nothing can be counted twice or get lost: an interval that crosses a month's end gives each month
its part, and an interval of a clock that went backwards gives nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Month:
    """A calendar month of UTC, from ``start`` until before ``end``."""

    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        """``November 2026``."""
        return f"{self.start:%B %Y}"

    @property
    def over(self) -> str:
        """The day on which the next one begins: ``1 December``."""
        return f"1 {self.end:%B}"


def month_of(moment: datetime) -> Month:
    """The month of UTC in which a moment lies.

    Raises:
        ValueError: for a moment without a zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a moment without a zone")
    start = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return Month(start, end)


@dataclass(frozen=True)
class Interval:
    """What one launch held from ``began`` until ``ended``.

    Attributes:
        amount: cores or GPUs.
        began, ended: seconds of the epoch; ``ended`` None: it is still held.
    """

    amount: float
    began: float
    ended: float | None


def hours(intervals: Iterable[Interval], month: Month, now: float) -> float:
    """Amount times hours of all intervals within the month; what is still held counts until ``now``.

    This is the meaning; the store says the same in SQL (``maestro_hub_services.store.charges``), and a test compares.
    """
    start, end = month.start.timestamp(), month.end.timestamp()
    total = 0.0
    for interval in intervals:
        until = now if interval.ended is None else interval.ended
        total += interval.amount * max(0.0, min(until, end) - max(interval.began, start))
    return total / SECONDS_PER_HOUR
