"""The page of a sweep: how far it is, its trials with the best first, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobStatus
from maestro_core.sweeps import SweepStatus, SweepView

from . import views
from .base import Page, PageError
from .job_states import KEYS, JobStatusShown

#: a sweep's states, as jobs' look
_AS_JOBS = {
    SweepStatus.RUNNING: JobStatus.RUNNING,
    SweepStatus.FINISHING: JobStatus.RUNNING,
    SweepStatus.SUCCEEDED: JobStatus.SUCCEEDED,
    SweepStatus.FAILED: JobStatus.FAILED,
    SweepStatus.CANCELLED: JobStatus.CANCELLED,
}


@dataclass(frozen=True)
class SweepRow:
    """A sweep in a list."""

    href: str
    name: str
    user: str
    workspace: str
    status: JobStatusShown
    trials: str
    best: str
    why: str


def row_of(sweep: SweepView, href: str) -> SweepRow:
    """How the list of jobs shows it."""
    return SweepRow(
        href, sweep.name, sweep.user, sweep.workspace, status_of(sweep), trials_of(sweep), best_of(sweep),
        sweep.reason or "",
    )  # fmt: skip


def status_of(sweep: SweepView) -> JobStatusShown:
    """How its state looks."""
    return JobStatusShown(KEYS[_AS_JOBS[sweep.status]], sweep.status.value)


def trials_of(sweep: SweepView) -> str:
    """``3 of 12, 1 failed``."""
    return f"{sweep.done} of {sweep.total}" + (f", {sweep.failed} failed" if sweep.failed else "")


def best_of(sweep: SweepView) -> str:
    """``accuracy 0.93``; empty where there is none."""
    return "" if sweep.best is None or sweep.best.value is None else f"{sweep.metric} {sweep.best.value:.6g}"


class SweepPage(Page):
    """One sweep."""

    async def get(self, sweep_id: str) -> None:
        """The page; an unknown sweep and one of others get the same answer."""
        sweep = await self.desk.jobs.view_sweep(sweep_id)
        self.show(
            "sweep",
            here="jobs",
            sweep=sweep,
            state=status_of(sweep),
            trials=trials_of(sweep),
            best=best_of(sweep),
            rows=[self._row(one) for one in sweep.ranked],
            created=views.moment(sweep.created_at),
        )

    def _row(self, trial: Any) -> dict[str, Any]:
        return {
            "trial": trial,
            "state": JobStatusShown(KEYS[trial.status], trial.status.value),
            "value": "" if trial.value is None else f"{trial.value:.6g}",
        }


class CancelSweepForm(Page):
    """End a sweep."""

    async def post(self, sweep_id: str) -> None:
        """Cancel it and go back to it."""
        back = self.links.sweep(sweep_id)
        try:
            sweep = await self.desk.jobs.cancel_sweep(sweep_id)
        except MaestroError as error:
            if error.code == "unknown_sweep":
                raise PageError(error.status, error.message) from None
            self.say(error.message, back, good=False)
            return
        over = f"{sweep.name} is {sweep.status.value}."
        self.say(over if sweep.status.over else f"{sweep.name} and its trials are told to end.", back)
