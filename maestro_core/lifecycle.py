"""The end of a workspace: archived, kept for a time, purged; and what a purge removed and kept."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .resources import show_memory


class Retention(BaseModel):
    """The ``retention`` section of ``maestro.yaml``.

    Attributes:
        archived_days: how long an archived workspace can be restored before it may be purged.
        usage_days: how long the hourly figures of usage are kept.
        job_days: how long jobs that are over are kept, with their log and executed notebook.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    archived_days: float = Field(default=30, ge=0, le=3650)
    usage_days: float = Field(default=90, ge=1, le=3650)
    job_days: float = Field(default=30, ge=1, le=3650)


class MemberRules(BaseModel):
    """The ``members`` section of ``maestro.yaml``.

    Attributes:
        grace_seconds: how long the server of somebody runs on who was removed, or may not change files any more.
        invitation_days: how long an invitation is open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grace_seconds: float = Field(default=60, ge=0, le=86400)
    invitation_days: float = Field(default=7, gt=0, le=365)


def purge_from(archived_at: datetime, retention: Retention) -> datetime:
    """When a workspace that was archived then may be purged."""
    return archived_at + timedelta(days=retention.archived_days)


class Removed(BaseModel):
    """One thing of a workspace that is gone: ``files``, ``homes``, ``claim``, ``mlflow``, ``members``, ``usage``.

    Attributes:
        count: how many; bytes: how large together, where that is known.
        detail: a name, or what was counted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: str
    count: int = 0
    bytes: int | None = None
    detail: str = ""

    def show(self) -> str:
        """For people: ``files: 12 (3.4 MiB)``."""
        parts = [part for part in (self.detail, "" if self.bytes is None else show_memory(self.bytes)) if part]
        return f"{self.what}: {self.count}" + (f" ({', '.join(parts)})" if parts else "")


class Kept(BaseModel):
    """One thing that stays, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: str
    why: str


class PurgeReport(BaseModel):
    """How far a purge is.

    Attributes:
        state: ``purging`` while something is left (the name stays taken), then ``purged``.
        removed: what is gone. left: what is still to go. kept: what stays for good, and why.
    """

    workspace: str
    workspace_id: str
    state: Literal["purging", "purged"]
    removed: tuple[Removed, ...] = ()
    left: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()


class PurgedTracking(BaseModel):
    """MLflow's workspaces that are to be removed with all they hold: asked for by the tracking service."""

    workspaces: tuple[str, ...] = Field(max_length=1000)


class TrackingRemoved(BaseModel):
    """What the tracking service removed of one MLflow workspace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = Field(max_length=63)
    experiments: int = Field(default=0, ge=0)
    runs: int = Field(default=0, ge=0)
    models: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
