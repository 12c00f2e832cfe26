"""The pages about jobs: what waits and runs, one with its progress and log, and its end."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobStatus, JobView, LogChunk, ending, show_seconds

from . import views
from .base import Page, PageError
from .job_states import KEYS, JobStatusShown
from .sweeps import row_of


@dataclass(frozen=True)
class JobRow:
    """A job in a list."""

    href: str
    name: str
    user: str
    workspace: str
    status: JobStatusShown
    progress: str
    took: str
    why: str
    since: views.Moment


class JobsPage(Page):
    """The jobs of a workspace, or mine; an admin may see all."""

    async def get(self) -> None:
        """``?workspace=`` those of one; ``?all=1`` everybody's."""
        workspace, everything = self.get_query_argument("workspace", "")[:40], self.get_query_argument("all", "") == "1"
        found = await self.desk.jobs.list(workspace or None, everything=everything)
        sweeps = await self.desk.jobs.sweeps(workspace or None, everything=everything)
        self.show(
            "jobs",
            here="jobs",
            jobs=[self._row(one) for one in found],
            sweeps=[row_of(one, self.links.sweep(one.sweep_id)) for one in sweeps],
            workspaces={view.name: views.title(view) for view in await self.desk.workspaces()},
            workspace=workspace,
            everything=everything,
        )

    def _row(self, one: JobView) -> JobRow:
        return JobRow(
            self.links.job(one.job_id), one.name, one.user, one.workspace, status_of(one), progress_of(one),
            took(one), one.why, views.moment(one.created_at),
        )  # fmt: skip


class JobPage(Page):
    """One job: its state and the end of its log, fresh every few seconds, and what can be done about it."""

    async def get(self, job_id: str) -> None:
        """The page; an unknown job and one of others get the same answer."""
        self.show("job", here="jobs", **await self._values(job_id))

    async def _values(self, job_id: str) -> dict[str, Any]:
        job, log = await self.desk.jobs.view(job_id), await self.desk.jobs.log_end(job_id)
        return {
            "job": job,
            "state": status_of(job),
            "progress": progress_of(job),
            "percent": percent_of(job),
            "took": took(job),
            "why": job.why,
            "asks": job.resources.show() if job.resources else (job.profile or "the workspace's own amounts"),
            "timeout": show_seconds(job.timeout),
            "log": log.text,
            "log_cut": log.offset > 0,
            "created": views.moment(job.created_at),
            "digest": digest(job, log),
        }


class JobLivePage(JobPage):
    """What changes of it, alone: asked for by htmx, told 204 when nothing did."""

    async def get(self, job_id: str) -> None:
        """``?shown=``: the digest of what the page shows."""
        values = await self._values(job_id)
        if self.get_query_argument("shown", "") == values["digest"]:
            self.set_status(204)
            self.finish()
            return
        self.show("job_live", **values)


class JobNotebook(Page):
    """The executed notebook as a file."""

    async def get(self, job_id: str) -> None:
        """A download: it is somebody's HTML and scripts, and never shown on this origin."""
        job, notebook = await self.desk.jobs.view(job_id), await self.desk.jobs.notebook(job_id)
        name = f"{PurePosixPath(job.path).stem} ({job.job_id}).ipynb"
        self.set_header("Content-Type", "application/x-ipynb+json")
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(name)}")
        self.finish(await asyncio.to_thread(_written, notebook))


def _written(notebook: dict[str, Any]) -> bytes:
    return json.dumps(notebook, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


class CancelJobForm(Page):
    """End a job."""

    async def post(self, job_id: str) -> None:
        """Cancel it and go back to it."""
        try:
            job = await self.desk.jobs.cancel(job_id)
        except MaestroError as error:
            if error.code == "unknown_job":
                raise PageError(error.status, error.message) from None
            self.say(error.message, self.links.job(job_id), good=False)
            return
        self.say(ending(job), self.links.job(job_id))


class EndScheduleForm(Page):
    """End a schedule."""

    async def post(self, job_id: str) -> None:
        """End it and go back."""
        try:
            job = await self.desk.jobs.end_schedule(job_id)
        except MaestroError as error:
            if error.code == "unknown_job":
                raise PageError(error.status, error.message) from None
            self.say(error.message, self.links.job(job_id), good=False)
            return
        self.say(f"The schedule of {job.name} has ended.", self.links.job(job_id))


def status_of(job: JobView) -> JobStatusShown:
    """How its state looks."""
    return JobStatusShown(KEYS[job.status], "scheduled" if job.schedule else job.status.value)


def progress_of(job: JobView) -> str:
    """``cell 3 of 12``; what its worker does before the first one; else empty."""
    found = job.progress
    if found is None or job.status is JobStatus.QUEUED:
        return ""
    if found.phase != "running" and not job.status.over:
        return {"environment": "installs packages", "starting": "starts"}[found.phase]
    return f"cell {found.cell} of {found.cells}" if found.cells else ""


def percent_of(job: JobView) -> int | None:
    """How many of a notebook's cells began, in percent; None: nobody knows."""
    found = job.progress
    if found is None or not found.cells or job.status is JobStatus.QUEUED:
        return None
    return min(100, found.cell * 100 // found.cells)


def took(job: JobView) -> str:
    """How long it runs, or ran."""
    if job.started_at is None:
        return ""
    return show_seconds(((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds())


def digest(job: JobView, log: LogChunk) -> str:
    """Changes with what the page shows; with how long it takes once a minute."""
    rest = job.model_copy(update={"progress": None}).model_dump_json()
    minutes = "" if job.started_at is None or job.ended_at else (datetime.now(UTC) - job.started_at).seconds // 60
    shown = f"{rest}{progress_of(job)}{log.attempt} {log.next} {minutes}"
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:16]
