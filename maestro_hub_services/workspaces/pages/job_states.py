"""How the states of jobs and sweeps look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maestro_core.jobs import JobStatus

#: how a state looks: the styles are those of servers, and two for how it ended
KEYS: dict[JobStatus, Literal["stopped", "starting", "running", "succeeded", "failed"]] = {
    JobStatus.QUEUED: "stopped",
    JobStatus.STARTING: "starting",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "stopped",
}


@dataclass(frozen=True)
class JobStatusShown:
    """State of a job: a key for the style, a word for people."""

    key: str
    title: str
