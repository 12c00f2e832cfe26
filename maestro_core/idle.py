"""When an idle server is stopped: after its profile's time, never without a warning, never while something works."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .names import check_user_name

#: how long before the end its user is told; a shorter time for a profile that idles for less than twice that
WARNING = timedelta(minutes=10)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a server: ``ends_at`` is when it will be stopped (None: it is not told so), ``stop`` is now."""

    ends_at: datetime | None
    stop: bool = False


def warning_time(limit: timedelta) -> timedelta:
    """How long before the end a user is told."""
    return min(WARNING, limit / 2)


def judge(now: datetime, active: datetime, limit: timedelta | None, ends_at: datetime | None) -> Verdict:
    """Decide on one server.

    Args:
        active: the last moment at which it was used, worked, or was kept by its user.
        limit: how long it may idle; None: for ever.
        ends_at: what its user has been told; they have the whole time of the warning, however late it came.
    """
    if limit is None or now - active < limit - warning_time(limit):
        return Verdict(None)
    if ends_at is None:
        return Verdict(max(active + limit, now + warning_time(limit)))
    end = max(ends_at, active + limit)  # whoever used it since then has its whole time again
    return Verdict(end, stop=end <= now)


class IdleQuestion(BaseModel):
    """The idle culler's question about one running server.

    Attributes:
        inactive: seconds since the Hub saw the server used.
        limit: seconds that a server may idle whose profile does not say; 0: for ever.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    server_name: str = Field(default="", max_length=30)
    inactive: float = Field(ge=0, le=1e9, allow_inf_nan=False)
    limit: float = Field(default=0, ge=0, le=1e9, allow_inf_nan=False)

    @field_validator("user", mode="before")
    @classmethod
    def _name(cls, value: object) -> str:
        return check_user_name(value)


class IdleAnswer(BaseModel):
    """Whether it is to be stopped now."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stop: bool
