"""Figures of quotas as the API speaks of them: what admins see, set and take back, and who is near a limit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import MaestroError
from .quota import LEVELS


class QuotaSpec(BaseModel):
    """The body that sets a figure.

    Attributes:
        level: a key of :data:`maestro_core.quota.LEVELS`. name: of the group, user or workspace; empty where the level
            has none.
        value: as ``maestro.yaml`` writes it: 8, ``64Gi``, ``0.5``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: str = Field(default="everyone", max_length=16)
    name: str = Field(default="", max_length=255)
    value: str | int | float

    @field_validator("value", mode="before")
    @classmethod
    def _value(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("write a number, or an amount like 64Gi")
        return value.strip() if isinstance(value, str) else value


class QuotaView(BaseModel):
    """One figure that is set.

    Attributes:
        set_for: in words: ``everyone``, ``the pool of group ml``.
        origin: ``maestro.yaml``, or ``root on 2026-11-24`` who set it at runtime.
        file_shown: what ``maestro.yaml`` says, which a figure of runtime hides; None: nothing.
    """

    level: str
    name: str
    set_for: str
    limit: str
    title: str
    value: float
    shown: str
    origin: str
    set_by: str | None = None
    set_at: datetime | None = None
    file_shown: str | None = None


class QuotaList(BaseModel):
    """Every figure that is set, by level, name and limit."""

    quotas: tuple[QuotaView, ...]


class NearView(BaseModel):
    """A person, workspace or pool of whose limit much is in use.

    Attributes:
        who: ``ann``, ``workspace demo``, ``group ml together``.
        share: what is in use as a share of the limit; above 1 where the limit was lowered meanwhile.
    """

    who: str
    limit: str
    title: str
    in_use_shown: str
    shown: str
    set_for: str
    origin: str
    share: float


class NearList(BaseModel):
    """The nearest first."""

    near: tuple[NearView, ...]


def check_level(level: str, name: str) -> None:
    """See that a level is one, and that a name stands exactly where it has one.

    Raises:
        MaestroError: ``invalid_request``.
    """
    kind = LEVELS.get(level)
    if kind is None:
        raise MaestroError("invalid_request", f"There is no level {level[:40]!r}; take one of: {', '.join(LEVELS)}.")
    if kind.named and not name:
        raise MaestroError("invalid_request", f"The level {level!r} is one of somebody; say whose with its name.")
    if not kind.named and name:
        raise MaestroError("invalid_request", f"The level {level!r} has no name; leave {name[:60]!r} out.")
