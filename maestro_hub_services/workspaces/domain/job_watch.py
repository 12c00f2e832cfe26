"""Compares the launches of jobs with what the runner sees: ends what is over, and stops what has to end.

It knows nothing by heart: killed at any moment and started again, the service finds out the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta

from maestro_core.errors import MaestroError
from maestro_core.jobs import show_seconds
from maestro_core.launches import LaunchStatus
from maestro_hub_services.store import AttemptRow, JobRow, LaunchRow
from maestro_hub_services.store.clock import now, steady

from ..authority import Authority
from ..runners import Ended
from .job_ends import launch_over

#: how long a worker has to end by itself: after it was told, after its time was over, after it said that it is done
TOLD, OVERTIME, DONE = timedelta(seconds=15), timedelta(seconds=30), timedelta(seconds=20)
#: seconds between SIGTERM and the end
STOP_SECONDS = 10.0
#: seconds for which the runner must not know a launch before it counts as gone
MISSING_SECONDS = 5.0
TIME = "time"
CUT_OFF = "the service was stopped while it started"
log = logging.getLogger("maestro.jobs")


async def watch(authority: Authority) -> None:
    """One look.

    Raises:
        MaestroError: the runner does not answer; nothing is ended on a guess.
    """
    looked = await authority.runner.look()  # first: what is reserved meanwhile is then not among it
    async with authority.store.read() as unit:
        launches = [launch for launch in await unit.launches.active() if launch.kind == "job"]
    board, active = authority.board, {launch.id: launch for launch in launches}
    board.missing = {launch_id: since for launch_id, since in board.missing.items() if launch_id in active}
    for launch in launches:
        if launch.id not in board.starting:
            await _settle(authority, launch, looked)
    for launch_id, state in looked.items():
        if launch_id not in active:
            _put_away(authority, launch_id, state)


async def _settle(authority: Authority, launch: LaunchRow, looked: Mapping[str, Ended | None]) -> None:
    board = authority.board
    if launch.id not in looked:
        if steady() - board.missing.setdefault(launch.id, steady()) >= MISSING_SECONDS:
            await _gone(authority, launch)
        return
    board.missing.pop(launch.id, None)
    state = looked[launch.id]
    if state is not None:
        # a kill of the service cut its start off: nothing had begun, and nobody knows an exit code
        cut_off = state.code is None and launch.status is LaunchStatus.RESERVED
        await _over(authority, launch, CUT_OFF if cut_off else f"its worker ended: {state.reason}", counts=not cut_off)
        _put_away(authority, launch.id, state)
        return
    async with authority.store.read() as unit:
        attempt = await unit.jobs.attempt_of_launch(launch.id)
        job = None if attempt is None else await unit.jobs.get(attempt.job_id)
    if attempt is None or job is None or await _has_to_end(authority, launch, job, attempt):
        _stop(authority, launch.id)


async def _has_to_end(authority: Authority, launch: LaunchRow, job: JobRow, attempt: AttemptRow) -> bool:
    moment = now()
    if launch.due(moment):
        return True
    if attempt.outcome is not None:
        return attempt.ended_at is not None and attempt.ended_at + DONE < moment
    if job.cancel_at is not None:
        return launch.status is LaunchStatus.RESERVED or job.cancel_at + TOLD < moment
    if launch.started_at is None:
        if launch.created_at + timedelta(seconds=authority.runner.patience) > moment:
            return False
        reason = f"its worker did not begin within {show_seconds(authority.runner.patience)}"
    elif launch.started_at + timedelta(seconds=job.timeout) + OVERTIME < moment:
        reason = f"it took longer than its time-out of {show_seconds(job.timeout)}"
    else:
        return False
    async with authority.store.write() as unit:
        await unit.launches.will_end(launch.id, TIME, moment, reason)
    return True


async def _over(authority: Authority, launch: LaunchRow, reason: str, *, counts: bool = True) -> None:
    async with authority.store.write() as unit:
        current = await unit.launches.get(launch.id)
        if current is not None and current.status.active:
            await launch_over(authority, unit, current, "failed", reason, counts=counts)


async def _gone(authority: Authority, launch: LaunchRow) -> None:
    """Nobody knows it: the service was killed before it was started, or somebody took its process away."""
    began = launch.status is not LaunchStatus.RESERVED
    reason = "its worker is gone" if began else CUT_OFF
    log.info("The job's launch %s ends: %s", launch.id, reason)
    await _over(authority, launch, reason, counts=began)
    authority.board.missing.pop(launch.id, None)


def _put_away(authority: Authority, launch_id: str, state: Ended | None) -> None:
    """Of a launch that has ended: what still runs is stopped, and what is over is forgotten."""
    if state is None:
        _stop(authority, launch_id)
    else:
        authority.board.begin(f"clean {launch_id}", _clean(authority, launch_id))


def _stop(authority: Authority, launch_id: str) -> None:
    authority.board.begin(f"stop {launch_id}", _do_stop(authority, launch_id))


async def _do_stop(authority: Authority, launch_id: str) -> None:
    try:
        await authority.runner.stop(launch_id, STOP_SECONDS)
    except MaestroError as error:
        log.warning("The job's launch %s cannot be stopped yet: %s", launch_id, error.message)


async def _clean(authority: Authority, launch_id: str) -> None:
    try:
        await authority.runner.clean(launch_id)
    except MaestroError as error:
        log.warning("The job's launch %s cannot be put away yet: %s", launch_id, error.message)
