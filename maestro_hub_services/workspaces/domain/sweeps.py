"""Sweeps for people: start one, look at it, cancel it. What it does by itself: :mod:`.sweep_turns`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

from maestro_core.errors import MaestroError
from maestro_core.experiments import TAG_LAUNCH, TAG_NOTEBOOK, TAG_SNAPSHOT, TAG_USER, TAG_WORKSPACE
from maestro_core.jobs import JobStatus
from maestro_core.launches import parse_ask
from maestro_core.roles import Role, may
from maestro_core.sweeps import TAG_SWEEP, TAG_TRIAL, SweepList, SweepSpec, SweepStatus, SweepView, TrialView, best
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import SweepRow, TrialRow, Unit
from maestro_hub_services.store.clock import new_id, now

from ..authority import Authority
from ..identity import Caller
from ..samplers import suggest
from .access import Standing, find, opened, own_workspaces
from .job_code import Code, chosen_path, sent, stored
from .job_ends import cancel_now
from .jobs import queue_job
from .plans import experiment_of

#: of one person, at the same time
MAX_OPEN = 20
#: in one list: each is shown with its best trial, so all of its trials are read
MAX_LISTED = 50
#: that are removed at a time
_FORGOTTEN = 50


async def submit(authority: Authority, caller: Caller, name: str, spec: SweepSpec) -> SweepView:
    """Start a sweep, with the code as it is now: its first trial is queued at once.

    Raises:
        MaestroError: as for a job; ``quota_exceeded`` where too many of one's sweeps run.
    """
    code = await sent(spec)
    first = await asyncio.to_thread(suggest, spec, 1, ())
    user = caller.person
    async with opened(authority, caller, name, "launch", write=True) as (unit, standing):
        if await unit.sweeps.count_open(user.name, user.created) >= MAX_OPEN:
            raise MaestroError(
                "quota_exceeded",
                f"You have {MAX_OPEN} sweeps running, the most for one person; start more when some have ended.",
                {"limit": "sweeps", "value": MAX_OPEN},
            )
        workspace = standing.workspace
        role = cast(Role, standing.role)  # whoever may launch has one
        experiment = experiment_of(parse_ask({"mlflow_experiment": spec.experiment}), workspace, role)
        if code is None:
            code = await stored(unit, workspace, await chosen_path(unit, workspace, spec, experiment))
        row = SweepRow(
            id=new_id("w"),
            workspace_id=workspace.id,
            user=user.name,
            user_created=user.created,
            name=spec.shown_name(code.path),
            kind=code.kind,
            path=code.path,
            address=code.address,
            body=code.body,
            experiment=experiment,
            created_at=now(),
            spec=spec.model_dump(mode="json", exclude={"content"}),
        )
        await unit.sweeps.add(row)
        await unit.events.append(
            "sweep_started", user.name, workspace_id=workspace.id, user=user.name, sweep_id=row.id, name=row.name,
            path=row.path, trials=spec.total,
        )  # fmt: skip
        await begin_trial(authority, unit, user, standing, row, 1, first)
        made = await view(unit, caller, row, standing)
    authority.board.ring()
    return made


async def begin_trial(
    authority: Authority,
    unit: Unit,
    user: UserRef,
    standing: Standing,
    sweep: SweepRow,
    number: int,
    parameters: dict[str, Any],
) -> None:
    """Queue the job of a trial; until the parent run is known, that job's worker is to open it.

    Raises:
        MaestroError: as :func:`.jobs.queue_job`.
    """
    spec = SweepSpec.model_validate(sweep.spec)
    told = {TAG_SWEEP: sweep.id, TAG_TRIAL: str(number)}
    job_spec = spec.trial_job(number - 1, parameters, sweep.path)
    job_spec = job_spec.model_copy(update={"tags": {**spec.tags, **told}, "experiment": sweep.experiment})
    work: dict[str, Any] = {"metric": spec.metric, "parent_run": sweep.parent_run}
    if sweep.parent_run is None:
        work["open_parent"] = {"name": sweep.name, "tags": _parent_tags(sweep, spec, standing)}
    job = await queue_job(authority, unit, user, standing, job_spec, code_of(sweep), sweep_id=sweep.id, work=work)
    await unit.sweeps.add_trial(TrialRow(sweep_id=sweep.id, number=number, parameters=parameters, job_id=job.id))


def _parent_tags(sweep: SweepRow, spec: SweepSpec, standing: Standing) -> dict[str, str]:
    """The parent run outlives each trial's launch: what it belongs to, and ends with, is the sweep."""
    return {
        **spec.tags,
        TAG_SWEEP: sweep.id,
        TAG_LAUNCH: sweep.id,
        TAG_NOTEBOOK: sweep.path,
        TAG_SNAPSHOT: sweep.address,
        TAG_WORKSPACE: standing.workspace.name,
        TAG_USER: sweep.user,
    }


def code_of(sweep: SweepRow) -> Code:
    """What its trials run."""
    return Code(sweep.kind, sweep.path, sweep.address, sweep.body)  # type: ignore[arg-type]


async def list_sweeps(
    authority: Authority, caller: Caller, workspace: str | None, *, everything: bool = False, limit: int = 50
) -> SweepList:
    """The sweeps of a workspace, for its members; else the caller's own, or everybody's; the newest first.

    Raises:
        MaestroError: ``unknown_workspace``; ``forbidden`` for ``everything`` without ``custom:maestro:admin``.
    """
    if everything and not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees everybody's sweeps; leave 'all' out to see your own.")
    limit, user = min(limit, MAX_LISTED), caller.person
    if workspace:
        async with opened(authority, caller, workspace, "read") as (unit, standing):
            rows = await unit.sweeps.newest(workspace_id=standing.workspace.id, limit=limit)
            made = [await view(unit, caller, row, standing) for row in rows]
            return SweepList(sweeps=tuple(made))
    async with authority.store.read() as unit:
        rows = await unit.sweeps.newest(user=None if everything else (user.name, user.created), limit=limit)
        if caller.notebook:
            own = await own_workspaces(unit, caller)
            rows = [row for row in rows if row.workspace_id in own]
        made = [await view(unit, caller, row, await _standing(unit, caller, row)) for row in rows]
    return SweepList(sweeps=tuple(made))


async def view_sweep(authority: Authority, caller: Caller, sweep_id: str) -> SweepView:
    """One sweep with its trials, for the members of its workspace.

    Raises:
        MaestroError: ``unknown_sweep``.
    """
    async with authority.store.read() as unit:
        row, standing = await find_sweep(unit, caller, sweep_id)
        return await view(unit, caller, row, standing, trials=True)


async def cancel(authority: Authority, caller: Caller, sweep_id: str) -> SweepView:
    """End a sweep: no more trials begin, and those that wait or run are cancelled. Safe to repeat.

    Raises:
        MaestroError: ``unknown_sweep``; ``forbidden`` for others than who started it, owners and admins.
    """
    async with authority.store.write() as unit:
        row, standing = await find_sweep(unit, caller, sweep_id)
        if not _may_end(caller, row, standing):
            raise MaestroError(
                "forbidden", f"{row.name} is {row.user}'s; they, an owner of the workspace or an admin can end it."
            )
        if row.status is SweepStatus.RUNNING and row.cancel_by is None:
            await unit.sweeps.change(row.id, cancel_by=caller.name)
            await unit.events.append(
                "sweep_cancelled", caller.name, workspace_id=row.workspace_id, user=row.user, sweep_id=row.id,
                name=row.name,
            )  # fmt: skip
            for trial in await unit.sweeps.trials(row.id):
                job = None if trial.status.over else await unit.jobs.get(trial.job_id)
                if job is not None:
                    await cancel_now(authority, unit, job, caller.name)
        made = await view(unit, caller, await _known(unit, row.id), standing, trials=True)
    authority.board.ring()
    return made


async def forget_old(authority: Authority) -> None:
    """Remove what ended long ago: ``retention.job_days``."""
    try:
        days = authority.policy.current.retention.job_days
    except MaestroError:  # no policy is in force: nothing is thrown away that one would keep
        return
    async with authority.store.write() as unit:
        await unit.sweeps.forget_ended(now() - timedelta(days=days), _FORGOTTEN)


# -- how they are found and shown -------------------------------------------------------------------------------------


async def _known(unit: Unit, sweep_id: str) -> SweepRow:
    row = await unit.sweeps.get(sweep_id)
    if row is None:
        raise _unknown(sweep_id)
    return row


async def find_sweep(unit: Unit, caller: Caller, sweep_id: str) -> tuple[SweepRow, Standing]:
    """A sweep of a workspace that the caller sees.

    Raises:
        MaestroError: ``unknown_sweep``, for one that others have too.
    """
    row = await _known(unit, sweep_id)
    try:
        return row, await find(unit, caller, row.workspace_id, archived=True)
    except MaestroError:
        raise _unknown(sweep_id) from None


def _unknown(sweep_id: str) -> MaestroError:
    return MaestroError(
        "unknown_sweep",
        f"There is no sweep {sweep_id[:40]!r} that you may see; 'maestro status WORKSPACE' lists those of a workspace.",
        {"sweep_id": sweep_id[:40]},
    )


async def _standing(unit: Unit, caller: Caller, row: SweepRow) -> Standing:
    try:
        return await find(unit, caller, row.workspace_id, archived=True)
    except MaestroError:  # their own sweep, of a workspace that they left
        workspace = await unit.workspaces.by_id(row.workspace_id)
        if workspace is None:
            raise
        return Standing(workspace, None)


def _may_end(caller: Caller, row: SweepRow, standing: Standing) -> bool:
    own = (row.user, row.user_created) == (caller.person.name, caller.person.created)
    return own or caller.admin or may(standing.role, "manage_members")


async def view(unit: Unit, caller: Caller, row: SweepRow, standing: Standing, *, trials: bool = False) -> SweepView:
    """A sweep as people see it, with its trials or without."""
    spec = SweepSpec.model_validate(row.spec)
    rows = await unit.sweeps.trials(row.id)
    shown = trial_views(rows)
    over = [trial for trial in shown if trial.status.over]
    return SweepView(
        sweep_id=row.id,
        name=row.name,
        workspace=standing.workspace.shown_name,
        user=row.user,
        status=row.status,
        reason=row.reason or row.stopped or (f"cancelled by {row.cancel_by}" if row.cancel_by else None),
        path=row.path,
        experiment=row.experiment,
        method="grid" if spec.search is None else "search",
        metric=spec.metric,
        goal=spec.goal,
        max_parallel=spec.max_parallel,
        total=spec.total,
        done=len(over),
        failed=sum(trial.status is not JobStatus.SUCCEEDED for trial in over),
        best=best(shown, spec.goal),
        trials=await _live(unit, shown) if trials else (),
        parent_run=row.parent_run,
        mine=not row.status.over and _may_end(caller, row, standing),
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def trial_views(rows: Sequence[TrialRow]) -> tuple[TrialView, ...]:
    """Trials as they are written down: those that are not over are queued."""
    names = ("number", "parameters", "status", "reason", "value", "job_id", "run_id")
    return tuple(TrialView(**{name: getattr(row, name) for name in names}) for row in rows)


async def _live(unit: Unit, trials: Sequence[TrialView]) -> tuple[TrialView, ...]:
    """The same with what the jobs of those that are not over do now."""
    found = []
    for trial in trials:
        job = None if trial.status.over or trial.job_id is None else await unit.jobs.get(trial.job_id)
        found.append(trial if job is None else trial.model_copy(update={"status": job.status, "reason": job.reason}))
    return tuple(found)
