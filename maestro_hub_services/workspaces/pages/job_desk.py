"""What the pages about jobs ask of the domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maestro_core.jobs import JobView, LogChunk
from maestro_core.sweeps import SweepView

from ..authority import Authority
from ..domain import jobs, sweeps
from ..identity import Caller

#: that the list of jobs shows
_SWEEPS = 20


class JobDesk:
    """The domain of jobs as one signed-in person may use it. Every method may raise ``MaestroError``."""

    def __init__(self, authority: Authority, caller: Caller) -> None:
        self._authority = authority
        self._caller = caller

    async def list(self, workspace: str | None, *, everything: bool = False) -> Sequence[JobView]:
        """Those of a workspace, else mine, or (an admin) everybody's; the newest first."""
        return (await jobs.list_jobs(self._authority, self._caller, workspace, everything=everything)).jobs

    async def sweeps(self, workspace: str | None, *, everything: bool = False) -> Sequence[SweepView]:
        """The newest sweeps, of the same."""
        found = await sweeps.list_sweeps(self._authority, self._caller, workspace, everything=everything, limit=_SWEEPS)
        return found.sweeps

    async def view_sweep(self, sweep_id: str) -> SweepView:
        """One with its trials."""
        return await sweeps.view_sweep(self._authority, self._caller, sweep_id)

    async def cancel_sweep(self, sweep_id: str) -> SweepView:
        """End it."""
        return await sweeps.cancel(self._authority, self._caller, sweep_id)

    async def view(self, job_id: str) -> JobView:
        """One of my workspaces."""
        return await jobs.view_job(self._authority, self._caller, job_id)

    async def log_end(self, job_id: str) -> LogChunk:
        """The end of what its last attempt wrote."""
        return await jobs.read_log_end(self._authority, self._caller, job_id)

    async def notebook(self, job_id: str) -> dict[str, Any]:
        """The executed notebook, as far as it came."""
        return (await jobs.read_output(self._authority, self._caller, job_id)).notebook

    async def cancel(self, job_id: str) -> JobView:
        """End it."""
        return await jobs.cancel(self._authority, self._caller, job_id)

    async def end_schedule(self, job_id: str) -> JobView:
        """End its schedule."""
        return await jobs.end_schedule(self._authority, self._caller, job_id)
