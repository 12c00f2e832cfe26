"""What sweeps do by themselves: note how trials ended, begin the next ones, and in the end have a summary written.

Everything is read from the store at each turn, and each step is one transaction: a killed service goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Literal

import zstandard

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobSpec, JobStatus
from maestro_core.sweeps import SummaryOrder, SweepSpec, SweepStatus, outcome
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import SweepRow, TrialRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import QUEUE

from ..authority import Authority
from ..samplers import suggest
from .access import Standing, role_in
from .job_code import Code
from .jobs import queue_job
from .sweeps import begin_trial, trial_views

#: a sweep whose first trials all fail stops after so many: the notebook is broken
FIRST_FAILURES = 5
#: of the job that writes the summary
_SUMMARY_RETRIES, _SUMMARY_SECONDS = 3, 900
_ENDED: dict[SweepStatus, Literal["FINISHED", "FAILED", "KILLED"]] = {
    SweepStatus.SUCCEEDED: "FINISHED",
    SweepStatus.FAILED: "FAILED",
    SweepStatus.CANCELLED: "KILLED",
}
log = logging.getLogger("maestro.sweeps")


async def turn(authority: Authority) -> None:
    """One step of every sweep that is not over.

    Raises:
        MaestroError: the first of what kept one of them from its step (the Hub is away); the others have had theirs.
    """
    async with authority.store.read() as unit:
        rows = await unit.sweeps.open()
    refusals: list[MaestroError] = []
    for row in rows:
        try:
            await _step(authority, row.id)
        except MaestroError as refusal:
            refusals.append(refusal)
        except Exception:
            log.exception("The sweep %s cannot go on; trying again", row.id)
    if refusals:
        raise refusals[0]


async def _step(authority: Authority, sweep_id: str) -> None:
    await _settle(authority, sweep_id)
    while True:
        async with authority.store.read() as unit:
            sweep, trials = await unit.sweeps.get(sweep_id), await unit.sweeps.trials(sweep_id)
        if sweep is None or sweep.status is not SweepStatus.RUNNING:
            return
        spec = SweepSpec.model_validate(sweep.spec)
        waiting = [trial for trial in trials if not trial.status.over]
        ending = sweep.cancel_by is not None or sweep.stopped is not None or len(trials) >= spec.total
        if ending and not waiting:
            return await _conclude(authority, sweep, trials)
        # until the parent run is known, one trial alone is under way: its worker opens it
        room = spec.max_parallel if sweep.parent_run else 1
        if ending or len(waiting) >= room or not await _begin_next(authority, sweep, spec, trials):
            return


# -- what has happened ------------------------------------------------------------------------------------------------


async def _settle(authority: Authority, sweep_id: str) -> None:
    """Write down what the jobs of a sweep have brought; nothing is written where nothing has."""
    async with authority.store.read() as unit:
        if not await _news(unit, sweep_id):
            return
    async with authority.store.write() as unit:
        for change in await _news(unit, sweep_id):
            await change(unit)


async def _news(unit: Unit, sweep_id: str) -> list[Any]:
    """What is to be written about a sweep, each a function of a transaction."""
    sweep = await unit.sweeps.get(sweep_id)
    if sweep is None or sweep.status.over:
        return []
    if sweep.status is SweepStatus.FINISHING:
        return await _summary_news(unit, sweep)
    spec, news = SweepSpec.model_validate(sweep.spec), []
    waiting = {trial.job_id: trial for trial in await unit.sweeps.trials(sweep_id) if not trial.status.over}
    last = await unit.jobs.last_attempts(list(waiting))
    for job_id, trial in waiting.items():
        job, attempt = await unit.jobs.get(job_id), last.get(job_id)
        if job is not None and sweep.parent_run is None and attempt is not None and attempt.parent_run:
            news.append(_parent_is(sweep, job_id, attempt.parent_run, job.work or {}))
        if job is None or job.status.over:
            status = JobStatus.FAILED if job is None else job.status
            metrics = (attempt.metrics if attempt else None) or {}
            status, value, reason = outcome(status, spec.metric, metrics)
            reason = reason or ("its job is gone" if job is None else job.reason or "")
            run_id = attempt.run_id if attempt else None
            news.append(_trial_is(trial, status=status.value, value=value, reason=reason or None, run_id=run_id))
    return news


def _parent_is(sweep: SweepRow, job_id: str, run_id: str, work: dict[str, Any]) -> Any:
    async def write(unit: Unit) -> None:
        await unit.sweeps.change(sweep.id, parent_run=run_id)
        # another attempt of that job opens no second one
        await unit.jobs.change(job_id, work={**work, "parent_run": run_id, "open_parent": None})

    return write


def _trial_is(trial: TrialRow, **values: Any) -> Any:
    async def write(unit: Unit) -> None:
        await unit.sweeps.change_trial(trial.sweep_id, trial.number, **values)

    return write


async def _summary_news(unit: Unit, sweep: SweepRow) -> list[Any]:
    job = await unit.jobs.get(sweep.summary_job or "")
    if job is not None and not job.status.over:
        return []
    status, reason = _verdict(sweep, await unit.sweeps.trials(sweep.id))
    if job is None or job.status is not JobStatus.SUCCEEDED:
        why = "its job is gone" if job is None else job.reason or "its job failed"
        reason = "; ".join(filter(None, [reason, f"its summary could not be written: {why}"]))

    async def write(unit: Unit) -> None:
        await _end(unit, sweep, status, reason)

    return [write]


# -- what comes next --------------------------------------------------------------------------------------------------


async def _begin_next(authority: Authority, sweep: SweepRow, spec: SweepSpec, trials: Sequence[TrialRow]) -> bool:
    """Begin the next trial; False where that has to wait or there will be none.

    Raises:
        MaestroError: ``hub_unavailable``.
    """
    over = [trial for trial in trials if trial.status.over]
    if len(over) >= FIRST_FAILURES and not any(trial.status is JobStatus.SUCCEEDED for trial in over):
        last = (over[-1].reason or "no reason was given").rstrip(".")
        why = f"its first {len(over)} trials failed, the last one so: {last}"
        return await _stop(authority, sweep, why)
    user = await _user(authority, sweep)
    if user is None:
        return await _stop(authority, sweep, f"the account {sweep.user} is gone")
    number = len(trials) + 1
    parameters = await asyncio.to_thread(suggest, spec, number, trial_views(trials))
    async with authority.store.write() as unit:
        current = await unit.sweeps.get(sweep.id)
        if current is None or current.status is not SweepStatus.RUNNING or current.cancel_by or current.stopped:
            return False
        standing = await _standing(unit, current, user)
        try:
            await begin_trial(authority, unit, user, standing, current, number, parameters)
        except MaestroError as refusal:
            if refusal.code != "quota_exceeded" or refusal.details.get("limit") != "jobs":
                await unit.sweeps.change(sweep.id, stopped=refusal.message[:1000])
            return False
    authority.board.ring()
    return True


async def _stop(authority: Authority, sweep: SweepRow, why: str) -> bool:
    """No more trials begin."""
    async with authority.store.write() as unit:
        await unit.sweeps.change(sweep.id, stopped=why[:1000])
    return False


async def _user(authority: Authority, sweep: SweepRow) -> UserRef | None:
    """Who started it, as the Hub knows them now; None: gone."""
    try:
        user = await authority.hub.user(sweep.user)
    except MaestroError as error:
        if error.code != "unknown_user":
            raise
        return None
    return user if user.created == sweep.user_created else None


async def _standing(unit: Unit, sweep: SweepRow, user: UserRef) -> Standing:
    workspace = await unit.workspaces.get(sweep.workspace_id)
    return Standing(workspace, await role_in(unit, workspace.id, user))


# -- the end ----------------------------------------------------------------------------------------------------------


def _verdict(sweep: SweepRow, trials: Sequence[TrialRow]) -> tuple[SweepStatus, str]:
    """How a sweep ends whose trials are over, and why it does so where that says more than its name."""
    good = sum(trial.status is JobStatus.SUCCEEDED for trial in trials)
    if sweep.cancel_by is not None:
        return SweepStatus.CANCELLED, f"cancelled by {sweep.cancel_by}"
    if sweep.stopped is not None:
        return SweepStatus.FAILED, sweep.stopped
    if not good:
        return SweepStatus.FAILED, f"all of its {len(trials)} trials failed"
    return SweepStatus.SUCCEEDED, f"{len(trials) - good} of {len(trials)} trials failed" if good < len(trials) else ""


async def _conclude(authority: Authority, sweep: SweepRow, trials: Sequence[TrialRow]) -> None:
    """Have the summary written, which ends the parent run; without such a run the sweep is over.

    Raises:
        MaestroError: ``hub_unavailable``.
    """
    status, reason = _verdict(sweep, trials)
    user = await _user(authority, sweep) if sweep.parent_run else None
    async with authority.store.write() as unit:
        if user is None:
            return await _end(unit, sweep, status, reason)
        spec = SweepSpec.model_validate(sweep.spec)
        name = f"{sweep.name[:90]} summary"
        job_spec = JobSpec(name=name, experiment=sweep.experiment, retries=_SUMMARY_RETRIES, timeout=_SUMMARY_SECONDS)
        work = {"parent_run": sweep.parent_run}
        try:
            job = await queue_job(
                authority, unit, user, await _standing(unit, sweep, user), job_spec,
                _summary_code(sweep, spec, trials, status, reason), sweep_id=sweep.id, work=work,
            )  # fmt: skip
        except MaestroError as refusal:
            if refusal.code == "quota_exceeded" and refusal.details.get("limit") == "jobs":
                return
            reason = "; ".join(filter(None, [reason, f"its summary could not be written: {refusal.message}"]))
            return await _end(unit, sweep, status, reason)
        await unit.sweeps.change(sweep.id, status=SweepStatus.FINISHING.value, summary_job=job.id)
    authority.board.ring()


def _summary_code(
    sweep: SweepRow, spec: SweepSpec, trials: Sequence[TrialRow], status: SweepStatus, reason: str
) -> Code:
    order = SummaryOrder(
        sweep_id=sweep.id,
        name=sweep.name,
        path=sweep.path,
        metric=spec.metric,
        goal=spec.goal,
        status=_ENDED[status],
        reason=reason or None,
        total=spec.total,
        trials=trial_views(trials),
    )
    text = order.model_dump_json().encode()
    return Code("sweep-summary", sweep.path, hashlib.sha256(text).hexdigest(), zstandard.compress(text))


async def _end(unit: Unit, sweep: SweepRow, status: SweepStatus, reason: str) -> None:
    await unit.sweeps.change(sweep.id, status=status.value, reason=reason[:1000] or None, ended_at=now(), body=b"")
    await unit.events.append(
        "sweep_ended", QUEUE, workspace_id=sweep.workspace_id, user=sweep.user, sweep_id=sweep.id, name=sweep.name,
        status=status.value, reason=reason or None,
    )  # fmt: skip
