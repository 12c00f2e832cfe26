"""The queue: takes what waits, the oldest first, through the decision that servers pass, and has it started.

Fair: what does not fit its own quota waits, and holds up nobody else's. A job that waits holds nothing.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from datetime import timedelta
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.jobs import JOB_MARK, JobStatus
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import AttemptRow, JobRow, Unit
from maestro_hub_services.store.clock import new_id, now

from ..authority import Authority
from ..runners import JobAddress
from .admission import Admitted, admit_job, plan_of
from .job_ends import job_over, launch_over
from .jobs import MAX_KEPT, for_good
from .schedules import next_time

#: seconds between two looks where nothing rings
INTERVAL = 3.0
#: jobs that one look takes, and decisions that one person's may cost in it
_LOOKED_AT, _DECISIONS = 2000, 20
#: seconds that a token lives beyond the runner's patience and its attempt's time-out
_TOKEN_MARGIN = 300
#: refusals that may be otherwise later
_PASSING = frozenset({"quota_exceeded", "invalid_policy", "hub_unavailable", "service_unavailable"})
log = logging.getLogger("maestro.queue")


async def work_off(authority: Authority) -> None:
    """One look, then wait for a reason for the next."""
    await look(authority)
    await authority.board.wait(INTERVAL)


async def look(authority: Authority) -> None:
    """Everything that waits and whose time has come: admitted, or why not."""
    await _follow_schedules(authority)
    async with authority.store.read() as unit:
        rows = await unit.jobs.waiting(now(), _LOOKED_AT)
    board, same = authority.board, dict[Any, str]()
    refused: Counter[tuple[str, str]] = Counter()
    board.waits = {job.id: board.waits[job.id] for job in rows if job.id in board.waits}
    for job in rows:
        key, who = _key(job), (job.user, job.user_created)
        if key not in same and refused[who] < _DECISIONS:
            sentence = await _try(authority, job)
            if sentence is None:
                board.waits.pop(job.id, None)
                continue
            same[key], refused[who] = sentence, refused[who] + 1
        board.waits[job.id] = same.get(key, "other jobs of yours wait before it")


def _key(job: JobRow) -> tuple[Any, ...]:
    """What is alike for the decision: where one of them has to wait, all do."""
    return (job.user, job.user_created, job.workspace_id, json.dumps(job.ask, sort_keys=True), job.queue,
            job.max_concurrency)  # fmt: skip


async def _try(authority: Authority, job: JobRow) -> str | None:
    """The same as :func:`_take`; what goes wrong with one job holds up no other."""
    try:
        return await _take(authority, job)
    except Exception:
        log.exception("Looking at job %s failed; trying again", job.id)
        return "waits: the service could not look at it; its log says why"


async def _take(authority: Authority, job: JobRow) -> str | None:
    """Admit a job and have it started; or the sentence why it waits; or it is over, and that is noted."""
    try:
        user = await authority.hub.user(job.user)
    except MaestroError as error:
        if error.code != "unknown_user":
            return error.message
        user = None
    if user is None or user.created != job.user_created:
        async with authority.store.write() as unit:
            await job_over(unit, job, JobStatus.FAILED, f"The account {job.user} is gone.")
            await _end_schedule(unit, job, f"The account {job.user} is gone.")
        return None
    token, index_token = f"{JOB_MARK}{secrets.token_hex(24)}", authority.tokens.new()
    async with authority.store.write() as unit:
        current = await unit.jobs.get(job.id)
        if current is None or current.status is not JobStatus.QUEUED:
            return None
        waits = await _held_up(unit, current)
        if waits is not None:
            return waits
        try:
            admitted = await admit_job(authority, unit, user, current, authority.tokens.mac(index_token))
        except MaestroError as refusal:
            if _passes(refusal):
                return refusal.message
            await job_over(unit, current, JobStatus.FAILED, refusal.message)
            await _end_schedule(unit, current, refusal.message)
            return None
        attempt = _attempt(current, admitted.launch.id, authority.tokens.mac(token), authority.runner.patience)
        await unit.jobs.begin(attempt)
        await unit.jobs.change(
            current.id, status=JobStatus.STARTING.value, attempt=attempt.number, not_before=None, reason=None
        )
        # before the transaction ends: whoever sees the launch sees that it is being started
        authority.board.starting.add(admitted.launch.id)
    address = JobAddress(authority.settings.service_url, job.id, attempt.number, token, job.timeout)
    work = _start(authority, user, admitted, address, index_token)
    authority.board.begin(f"start {admitted.launch.id}", work)
    return None


async def _end_schedule(unit: Unit, job: JobRow, reason: str) -> None:
    """What was refused for good would be so at every time of its schedule."""
    carrier = None if job.series is None else await unit.jobs.carrier(job.series)
    if carrier is not None:
        await job_over(unit, carrier, JobStatus.FAILED, reason)


def _passes(refusal: MaestroError) -> bool:
    return refusal.code in _PASSING and not for_good(str(refusal.details.get("limit")))


async def _held_up(unit: Unit, job: JobRow) -> str | None:
    """Why a job may not start yet, apart from quotas."""
    last = await unit.jobs.attempt(job.id, job.attempt)
    launch = None if last is None else await unit.launches.get(last.launch_id)
    if launch is not None and launch.status.active:
        return "its attempt before is not gone yet"
    if job.max_concurrency is not None:
        running = await unit.jobs.active_in_queue(job.workspace_id, job.queue)
        if running >= job.max_concurrency:
            return f"{running} of at most {job.max_concurrency} of {job.queue} run (max_concurrency)"
    return None


def _attempt(job: JobRow, launch_id: str, token_mac: str, patience: float) -> AttemptRow:
    return AttemptRow(
        job_id=job.id,
        number=job.attempt + 1,
        launch_id=launch_id,
        token_mac=token_mac,
        token_until=now() + timedelta(seconds=patience + job.timeout + _TOKEN_MARGIN),
        started_at=now(),
    )


async def _start(
    authority: Authority, user: UserRef, admitted: Admitted, address: JobAddress, index_token: str
) -> None:
    launch = admitted.launch
    reason = "its worker could not be started; the log of the service says why"
    try:
        plan = await plan_of(authority, user, admitted, index_token)
        await authority.runner.start(plan, address)
        return
    except MaestroError as error:
        reason = error.message
    except Exception:
        log.exception("Starting %s failed", launch.id)
    finally:
        authority.board.starting.discard(launch.id)
    async with authority.store.write() as unit:
        await launch_over(authority, unit, launch, "failed", reason)


async def _follow_schedules(authority: Authority) -> None:
    """Where a schedule's time has come, its job runs, and another one carries the schedule to its next time."""
    async with authority.store.read() as unit:
        due = [job for job in await unit.jobs.waiting(now(), _LOOKED_AT) if job.schedule is not None]
    for job in due:
        async with authority.store.write() as unit:
            current = await unit.jobs.get(job.id)
            if current is not None and current.schedule is not None and current.status is JobStatus.QUEUED:
                await _pass_on(unit, current)


async def _pass_on(unit: Unit, job: JobRow) -> None:
    try:
        following = next_time(str(job.schedule), job.timezone, now())
    except MaestroError as error:  # a zone that there is no longer
        await job_over(unit, job, JobStatus.FAILED, error.message)
        return
    if await unit.jobs.open_in_series(str(job.series)):
        # the run before is not over: this one is left out, so that they do not pile up
        await unit.jobs.change(job.id, not_before=following)
        return
    values = {name: getattr(job, name) for name in JobRow.__slots__}
    values |= {"id": new_id("j"), "created_at": now(), "not_before": following}
    await unit.jobs.change(job.id, schedule=None, not_before=None)
    await unit.jobs.fit(job.user, job.user_created, MAX_KEPT)
    await unit.jobs.add(JobRow(**values))
