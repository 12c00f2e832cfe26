"""Cron's five fields: when a schedule is due next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from maestro_core.errors import MaestroError

#: how often a schedule may come: it is no way to keep a server
LEAST = timedelta(minutes=5)
#: times that are looked at for that
_LOOKED_AT = 20


def next_time(schedule: str, timezone: str, after: datetime) -> datetime:
    """The first time of a schedule after a moment, as Debian's cron has it where clocks are put forward or back.

    Args:
        schedule: minute, hour, day of the month, month, weekday.
        timezone: an IANA name.

    Raises:
        MaestroError: ``invalid_request``: no such schedule or zone, or it never comes.
    """
    try:
        return next(_times(schedule, timezone, after)).astimezone(UTC)
    except StopIteration:
        raise MaestroError(
            "invalid_request", f"The schedule {schedule!r} never comes; write one that does.", {"field": "schedule"}
        ) from None


def check_schedule(schedule: str, timezone: str, after: datetime) -> datetime:
    """The same of a new schedule, which may not come too often.

    Raises:
        MaestroError: as :func:`next_time`.
    """
    first = next_time(schedule, timezone, after)
    times = [moment.astimezone(UTC) for moment in islice(_times(schedule, timezone, after), _LOOKED_AT)]
    if any(later - earlier < LEAST for earlier, later in pairwise(times)):
        raise MaestroError(
            "invalid_request",
            f"The schedule {schedule!r} comes more often than every 5 minutes; let one job do more instead.",
            {"field": "schedule"},
        )
    return first


def _times(schedule: str, timezone: str, after: datetime) -> CronSim:
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # a folder of zones is an OSError
        raise MaestroError(
            "invalid_request", f"There is no time zone {timezone[:40]!r}; write one like Europe/Berlin, or UTC.",
            {"field": "timezone"},
        ) from None  # fmt: skip
    try:
        return CronSim(schedule, after.astimezone(zone))
    except CronSimError as error:
        raise MaestroError(
            "invalid_request",
            f"The schedule {schedule!r} cannot be read ({str(error).lower()}); write minute, hour, day, month and "
            "weekday, like '0 6 * * 1-5'.",
            {"field": "schedule"},
        ) from None
