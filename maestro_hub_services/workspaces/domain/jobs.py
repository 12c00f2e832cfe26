"""Jobs for people: queue one, look at them, read what they wrote, end them."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import zstandard

from maestro_core.allowance import check as check_quota
from maestro_core.errors import MaestroError
from maestro_core.jobs import (
    AttemptView,
    JobList,
    JobProgress,
    JobSpec,
    JobStatus,
    JobView,
    LogChunk,
    OutputView,
)
from maestro_core.launches import parse_ask
from maestro_core.profiles import choose
from maestro_core.resources import Resources
from maestro_core.roles import may
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import AttemptRow, JobRow, Unit, WorkspaceRow
from maestro_hub_services.store.clock import new_id, now

from ..authority import Authority
from ..identity import Caller
from .access import Standing, find, opened, own_workspaces
from .admission import check_images
from .job_code import Code, chosen_path, sent, stored
from .job_ends import cancel_now
from .limits import standing_limits
from .plans import asked_amounts, experiment_of
from .schedules import check_schedule

#: of one person: waiting and running; queued within an hour; kept, with those that are over
MAX_OPEN, MAX_AN_HOUR, MAX_KEPT = 1000, 2000, 5000
MAX_LISTED = 500
#: that are removed at a time
_FORGOTTEN = 200
#: bytes of a log's end that a page shows
_LOG_END = 32 * 1024
#: pieces of a log in one answer
_PIECES = 64


# -- queue one --------------------------------------------------------------------------------------------------------


async def submit(authority: Authority, caller: Caller, name: str, spec: JobSpec) -> JobView:
    """Queue a job, with the code as it is now. What can never be admitted is refused at once.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``unknown_snapshot``, ``invalid_request`` about the code;
            ``profile_closed``, ``unknown_profile``, ``quota_exceeded`` about what it asks for.
    """
    code = await sent(spec)
    first = None if spec.schedule is None else check_schedule(spec.schedule, spec.timezone, now())
    async with opened(authority, caller, name, "launch", write=True) as (unit, standing):
        job = await queue_job(authority, unit, caller.person, standing, spec, code)
        if first is not None:
            await unit.jobs.change(job.id, schedule=spec.schedule, not_before=first, series=job.id)
        made = await view(authority, unit, caller, await known(unit, job.id))
    authority.board.ring()
    return made


async def queue_job(
    authority: Authority,
    unit: Unit,
    user: UserRef,
    standing: Standing,
    spec: JobSpec,
    code: Code | None,
    **more: Any,
) -> JobRow:
    """The same inside a write transaction, for the service itself.

    Args:
        code: what runs; None: as the spec and the workspace say.
        more: further columns of the job: ``sweep_id``, ``work``, ``kind``.

    Raises:
        MaestroError: as :func:`submit`.
    """
    workspace = standing.workspace
    if standing.role is None or not workspace.open:
        raise MaestroError("conflict", f"{workspace.shown_name} takes no jobs from you; be a member of an open one.")
    await _check_count(unit, user)
    ask = _ask_of(spec)
    await _check_possible(authority, unit, user, workspace, ask)
    experiment = experiment_of(parse_ask({**ask, "mlflow_experiment": spec.experiment}), workspace, standing.role)
    if code is None:
        code = await stored(unit, workspace, await chosen_path(unit, workspace, spec, experiment))
    await unit.jobs.keep_code(workspace.id, code.address, code.body)
    values: dict[str, Any] = {"kind": code.kind, **more}
    job = JobRow(
        id=new_id("j"),
        workspace_id=workspace.id,
        user=user.name,
        user_created=user.created,
        name=spec.shown_name(code.path),
        path=code.path,
        address=code.address,
        experiment=experiment,
        queue=spec.queue or experiment,
        created_at=now(),
        parameters=spec.parameters,
        ask=ask,
        retries=spec.retries,
        timeout=spec.timeout,
        max_concurrency=spec.max_concurrency,
        timezone=spec.timezone,
        tags=spec.tags,
        **values,
    )
    await unit.jobs.add(job)
    await unit.events.append(
        "job_queued", user.name, workspace_id=workspace.id, user=user.name, job_id=job.id, name=job.name, path=job.path,
        schedule=spec.schedule,
    )  # fmt: skip
    return job


async def _check_count(unit: Unit, user: UserRef) -> None:
    """A loop fills neither the queue nor the store.

    Raises:
        MaestroError: ``quota_exceeded``.
    """
    if await unit.jobs.count_open(user.name, user.created) >= MAX_OPEN:
        said, most = f"You have {MAX_OPEN} jobs waiting or running", MAX_OPEN
    elif await unit.jobs.count_since(user.name, user.created, now() - timedelta(hours=1)) >= MAX_AN_HOUR:
        said, most = f"You queued {MAX_AN_HOUR} jobs within the last hour", MAX_AN_HOUR
    else:
        return await unit.jobs.fit(user.name, user.created, MAX_KEPT)
    raise MaestroError(
        "quota_exceeded", f"{said}, the most for one person; queue more later.", {"limit": "jobs", "value": most}
    )


def _ask_of(spec: JobSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", include={"profile", "resources", "image"}, exclude_none=True)


async def _check_possible(
    authority: Authority, unit: Unit, user: UserRef, workspace: WorkspaceRow, asked: dict[str, Any]
) -> None:
    """What no waiting helps against is said at once: a closed profile, more than one launch may ever have."""
    policy, ask = authority.policy.current, parse_ask(asked)
    check_images(authority, ask)
    _, resources = choose(policy.profiles, user.groups, ask.profile, asked_amounts(ask, workspace), ask.image)
    limits, used = await standing_limits(authority, unit, policy, user, workspace)
    check_quota([limit for limit in limits if for_good(limit.name)], used, resources)


def for_good(limit: str) -> bool:
    """Whether what passes this limit passes it however long it waits."""
    return limit.endswith("_per_notebook")


# -- look at them -----------------------------------------------------------------------------------------------------


async def list_jobs(
    authority: Authority, caller: Caller, workspace: str | None, *, everything: bool = False, limit: int = 100
) -> JobList:
    """The jobs of a workspace, for its members; else the caller's own, or everybody's; the newest first.

    Raises:
        MaestroError: ``unknown_workspace``; ``forbidden`` for ``everything`` without ``custom:maestro:admin``.
    """
    if everything and not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees everybody's jobs; leave 'all' out to see your own.")
    limit, user = min(limit, MAX_LISTED), caller.person
    if workspace:
        async with opened(authority, caller, workspace, "read") as (unit, standing):
            return await _list(authority, unit, caller, await unit.jobs.newest(workspace_id=standing.workspace.id,
                                                                               limit=limit))  # fmt: skip
    async with authority.store.read() as unit:
        rows = await unit.jobs.newest(user=None if everything else (user.name, user.created), limit=limit)
        if caller.notebook:
            own = await own_workspaces(unit, caller)
            rows = [row for row in rows if row.workspace_id in own]
        return await _list(authority, unit, caller, rows)


async def view_job(authority: Authority, caller: Caller, job_id: str) -> JobView:
    """One job with its attempts, for the members of its workspace.

    Raises:
        MaestroError: ``unknown_job``.
    """
    async with authority.store.read() as unit:
        job, _ = await find_job(unit, caller, job_id)
        made = await view(authority, unit, caller, job)
        attempts = await unit.jobs.attempts(job.id)
    return made.model_copy(update={"attempts": tuple(map(_attempt, attempts))})


async def read_log(authority: Authority, caller: Caller, job_id: str, attempt: int | None, offset: int) -> LogChunk:
    """What an attempt wrote (the last one, if none is named), from an offset in bytes.

    Raises:
        MaestroError: ``unknown_job``.
    """
    async with authority.store.read() as unit:
        job, _ = await find_job(unit, caller, job_id)
        number = attempt or job.attempt
        row = await unit.jobs.attempt(job.id, number)
        pieces = await unit.jobs.log(job.id, number, offset, _PIECES)
        end = await unit.jobs.log_end(job.id, number)
    start = max(offset, pieces[0][0]) if pieces else offset
    body, following = b"", start
    for begins, piece in pieces:
        if begins > following:
            break  # something is missing between: the next answer begins after it
        body += piece[following - begins :]
        following = begins + len(piece)
    over = job.status.over if row is None else row.ended_at is not None
    return LogChunk(
        attempt=number,
        offset=start,
        next=following,
        text=body.decode("utf-8", "replace"),
        complete=over and following >= end,
    )


async def read_log_end(authority: Authority, caller: Caller, job_id: str) -> LogChunk:
    """The end of what the last attempt wrote.

    Raises:
        MaestroError: ``unknown_job``.
    """
    async with authority.store.read() as unit:
        job, _ = await find_job(unit, caller, job_id)
        end = await unit.jobs.log_end(job.id, job.attempt)
    return await read_log(authority, caller, job_id, None, max(0, end - _LOG_END))


async def read_output(authority: Authority, caller: Caller, job_id: str) -> OutputView:
    """The executed notebook of the last attempt, as far as it came.

    Raises:
        MaestroError: ``unknown_job``; ``conflict`` while there is none.
    """
    async with authority.store.read() as unit:
        job, _ = await find_job(unit, caller, job_id)
        found = await unit.jobs.output(job.id)
    if found is None:
        raise MaestroError(
            "conflict",
            f"{job.name} has no executed notebook: "
            + ("it has not come so far yet." if not job.status.over else "scripts leave a log alone, and so did it."),
        )
    attempt, body = found
    notebook = await asyncio.to_thread(lambda: json.loads(zstandard.ZstdDecompressor().decompress(body)))
    return OutputView(job_id=job.id, attempt=attempt, path=job.path, notebook=notebook)


# -- end them ---------------------------------------------------------------------------------------------------------


async def cancel(authority: Authority, caller: Caller, job_id: str) -> JobView:
    """End a job: one that waits at once, one that runs as soon as its worker hears of it. Safe to repeat.

    Raises:
        MaestroError: ``unknown_job``; ``forbidden`` for others than its submitter, owners and admins.
    """
    async with authority.store.write() as unit:
        job, standing = await find_job(unit, caller, job_id)
        _check_may_end(caller, job, standing)
        await cancel_now(authority, unit, job, caller.name)
        made = await view(authority, unit, caller, await known(unit, job.id))
    authority.board.ring()
    return made


async def end_schedule(authority: Authority, caller: Caller, job_id: str) -> JobView:
    """End the schedule of which this job is a run; what runs goes on. Safe to repeat.

    Raises:
        MaestroError: ``unknown_job``, ``forbidden``; ``conflict`` for a job that has no schedule.
    """
    async with authority.store.write() as unit:
        job, standing = await find_job(unit, caller, job_id)
        _check_may_end(caller, job, standing)
        if job.series is None:
            raise MaestroError("conflict", f"{job.name} has no schedule; cancel the job itself to end it.")
        carrier = await unit.jobs.carrier(job.series)
        if carrier is not None:
            await cancel_now(authority, unit, carrier, caller.name)
        return await view(authority, unit, caller, await known(unit, job.id))


def _check_may_end(caller: Caller, job: JobRow, standing: Standing) -> None:
    if not _may_end(caller, job, standing):
        raise MaestroError(
            "forbidden", f"{job.name} is {job.user}'s; they, an owner of the workspace or an admin can end it."
        )


def _may_end(caller: Caller, job: JobRow, standing: Standing) -> bool:
    own = (job.user, job.user_created) == (caller.person.name, caller.person.created)
    return own or caller.admin or may(standing.role, "manage_members")


async def forget_old(authority: Authority) -> None:
    """Remove what ended long ago: ``retention.job_days``."""
    try:
        days = authority.policy.current.retention.job_days
    except MaestroError:  # no policy is in force: nothing is thrown away that one would keep
        return
    async with authority.store.write() as unit:
        await unit.jobs.forget_ended(now() - timedelta(days=days), _FORGOTTEN)


# -- how they are found and shown -------------------------------------------------------------------------------------


async def known(unit: Unit, job_id: str) -> JobRow:
    """The job of an id.

    Raises:
        MaestroError: ``unknown_job``.
    """
    job = await unit.jobs.get(job_id)
    if job is None:
        raise unknown(job_id)
    return job


async def find_job(unit: Unit, caller: Caller, job_id: str) -> tuple[JobRow, Standing]:
    """A job of a workspace that the caller sees.

    Raises:
        MaestroError: ``unknown_job``, for one that others have too.
    """
    job = await known(unit, job_id)
    try:
        return job, await find(unit, caller, job.workspace_id, archived=True)
    except MaestroError:
        raise unknown(job_id) from None


def unknown(job_id: str) -> MaestroError:
    """For a job that there is not, or that is of others."""
    return MaestroError(
        "unknown_job",
        f"There is no job {job_id[:40]!r} that you may see; 'maestro jobs WORKSPACE' lists those of a workspace.",
        {"job_id": job_id[:40]},
    )


async def view(authority: Authority, unit: Unit, caller: Caller, job: JobRow) -> JobView:
    """One job without its attempts."""
    return (await _list(authority, unit, caller, [job])).jobs[0]


async def _list(authority: Authority, unit: Unit, caller: Caller, rows: list[JobRow]) -> JobList:
    ids = [row.id for row in rows]
    last, outputs = await unit.jobs.last_attempts(ids), await unit.jobs.with_output(ids)
    standings: dict[str, Standing] = {}
    for workspace_id in {row.workspace_id for row in rows}:
        try:
            standings[workspace_id] = await find(unit, caller, workspace_id, archived=True)
        except MaestroError:  # their own job, of a workspace that they left
            standings[workspace_id] = Standing(await unit.workspaces.get(workspace_id), None)
    return JobList(
        jobs=tuple(
            _view(authority, caller, row, standings[row.workspace_id], last.get(row.id), row.id in outputs)
            for row in rows
        )
    )


def _view(
    authority: Authority, caller: Caller, job: JobRow, standing: Standing, last: AttemptRow | None, output: bool
) -> JobView:
    resources = job.ask.get("resources")
    waiting = job.status is JobStatus.QUEUED
    return JobView(
        job_id=job.id,
        name=job.name,
        workspace=standing.workspace.shown_name,
        user=job.user,
        status=job.status,
        reason=job.reason,
        waits=_waits(authority, job) if waiting else None,
        kind=job.kind,
        path=job.path,
        snapshot=job.address,
        experiment=job.experiment,
        parameters=job.parameters,
        profile=job.ask.get("profile"),
        resources=Resources.model_validate(resources) if resources else None,
        image=job.ask.get("image"),
        retries=job.retries,
        timeout=job.timeout,
        max_concurrency=job.max_concurrency,
        queue=job.queue,
        schedule=job.schedule,
        timezone=job.timezone,
        series=job.series,
        sweep=job.sweep_id,
        tags=job.tags,
        attempt=job.attempt,
        launch_id=last.launch_id if last else None,
        progress=_progress(authority, last),
        run_id=last.run_id if last else None,
        metrics=(last.metrics if last else None) or {},
        output=output,
        mine=not job.status.over and _may_end(caller, job, standing),
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        next_at=job.not_before if waiting else None,
    )


def _waits(authority: Authority, job: JobRow) -> str | None:
    if job.not_before is not None and job.not_before > now():
        if job.schedule is not None:
            return f"waits for its time, {job.not_before:%Y-%m-%d %H:%M} UTC"
        return f"tries again at {job.not_before:%H:%M:%S} UTC"
    sentence = authority.board.waits.get(job.id)
    return None if sentence is None else f"waits: {sentence}"


def _progress(authority: Authority, last: AttemptRow | None) -> JobProgress | None:
    if last is None or last.phase is None or last.heard_at is None:
        return None
    heard = authority.board.heard.get(last.launch_id, last.heard_at)
    return JobProgress(phase=last.phase, cell=last.cell, cells=last.cells, heard_at=heard)


def _attempt(row: AttemptRow) -> AttemptView:
    return AttemptView(
        attempt=row.number,
        launch_id=row.launch_id,
        outcome=row.outcome,
        reason=row.reason,
        run_id=row.run_id,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
