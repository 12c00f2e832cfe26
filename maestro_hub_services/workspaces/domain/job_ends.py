"""How attempts and jobs end, in one place: what comes after a failure, and what is noted."""

from __future__ import annotations

from datetime import timedelta

from maestro_core.jobs import JobStatus, Outcome, retry_pause
from maestro_hub_services.store import AttemptRow, JobRow, LaunchRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import QUEUE

from ..authority import Authority
from .admission import end


async def attempt_over(
    unit: Unit, attempt: AttemptRow, outcome: Outcome, reason: str, *, counts: bool = True, again: bool = True
) -> None:
    """An attempt came to its end: the first word on it stays. Its job is over, or waits for the next attempt.

    Args:
        counts: against the job's retries; not where it never began.
        again: whether another attempt may follow.
    """
    job = await unit.jobs.get(attempt.job_id)
    if attempt.outcome is not None or job is None:
        return
    asked = job.cancel_at is not None
    if outcome == "cancelled" and not asked:
        outcome, reason = "failed", reason or "its worker was told to end"
    if outcome == "failed" and asked:
        outcome = "cancelled"
    if outcome == "cancelled":
        reason = f"cancelled by {job.cancel_by}"
    await unit.jobs.change_attempt(job.id, attempt.number, outcome=outcome, reason=reason or None, ended_at=now())
    if outcome != "failed":
        return await job_over(unit, job, JobStatus(outcome), reason)
    failures = job.failures + counts
    if not again or failures > job.retries:
        return await job_over(unit, job, JobStatus.FAILED, reason)
    later = now() + timedelta(seconds=retry_pause(max(1, failures)))
    await unit.jobs.change(job.id, status=JobStatus.QUEUED.value, failures=failures, reason=reason, not_before=later)
    await unit.events.append(
        "job_retried", QUEUE, workspace_id=job.workspace_id, launch_id=attempt.launch_id, user=job.user, job_id=job.id,
        attempt=attempt.number, reason=reason,
    )  # fmt: skip


async def job_over(unit: Unit, job: JobRow, status: JobStatus, reason: str) -> None:
    """A job is over; nothing changes it any more."""
    await unit.jobs.change(job.id, status=status.value, reason=reason or None, ended_at=now(), not_before=None)
    await unit.events.append(
        "job_ended", QUEUE, workspace_id=job.workspace_id, user=job.user, job_id=job.id, name=job.name,
        status=status.value, attempts=job.attempt, reason=reason or None,
    )  # fmt: skip


async def launch_over(
    authority: Authority, unit: Unit, launch: LaunchRow, outcome: Outcome, reason: str, *, counts: bool = True
) -> None:
    """Nothing of an attempt runs any more: its token is dead, its launch ends, and what it held is free.

    What its user was told (a role that is gone, a time that is over) comes before what was seen.
    """
    told = launch.due(now())
    attempt = await unit.jobs.attempt_of_launch(launch.id)
    if attempt is not None:
        again = launch.ends_kind != "role"
        await attempt_over(unit, attempt, outcome, told or reason, counts=counts, again=again)
        await unit.jobs.change_attempt(attempt.job_id, attempt.number, token_mac=None)
    await end(unit, launch, reason or "its job ended", QUEUE)
    authority.board.heard.pop(launch.id, None)
    authority.board.ring()


async def cancel_now(authority: Authority, unit: Unit, job: JobRow, who: str) -> None:
    """Somebody wants a job to end: one that waits is over, what runs is told at its next sign of life."""
    if job.status.over or job.cancel_at is not None:
        return
    await unit.jobs.change(job.id, cancel_by=who, cancel_at=now())
    await unit.events.append(
        "job_cancelled", who, workspace_id=job.workspace_id, user=job.user, job_id=job.id, name=job.name
    )
    if job.status is JobStatus.QUEUED:
        await job_over(unit, job, JobStatus.CANCELLED, f"cancelled by {who}")
        authority.board.waits.pop(job.id, None)
