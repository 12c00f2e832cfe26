"""What a runner does for the service: start an attempt of a job, tell how it goes, end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from maestro_core.launches import LaunchPlan


@dataclass(frozen=True, slots=True)
class JobAddress:
    """Where a worker finds what it is to do.

    Attributes:
        api_url: the API's base as seen from inside (``MAESTRO_SERVICE_URL``).
        token: of this attempt. Secret: never in a list of processes, a manifest or a log.
        timeout_seconds: after which the worker ends the attempt itself.
    """

    api_url: str
    job_id: str
    attempt: int
    token: str = field(repr=False)
    timeout_seconds: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The process or pod of an attempt is over.

    Attributes:
        code: exit status; None: nobody knows.
        reason: one sentence without its full stop, for the job's submitter.
    """

    code: int | None
    reason: str


#: seconds in which a worker that was started begins
PATIENCE = 600.0


class Runner(Protocol):
    """One way to run jobs. Every method may be repeated; they raise MaestroError where the cluster does not answer.

    Attributes:
        patience: seconds for which a worker may say nothing at all after its start; more where others decide when it
            begins.
    """

    patience: float

    async def start(self, plan: LaunchPlan, work: JobAddress) -> None:
        """Start an attempt; it goes on whatever happens to the service.

        Raises:
            MaestroError: ``start_failed`` with the reason.
        """
        ...

    async def look(self) -> Mapping[str, Ended | None]:
        """By launch id: None while it runs, else how it ended; launches that it does not know are absent."""
        ...

    async def stop(self, launch_id: str, seconds: float) -> None:
        """Ask it kindly to end (SIGTERM), and after so many seconds kill it."""
        ...

    async def clean(self, launch_id: str) -> None:
        """Forget one that is over: its folder, its object."""
        ...

    async def close(self) -> None:
        """Give back connections; what runs goes on."""
        ...
