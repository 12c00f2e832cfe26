"""The idle culler's question: may this server be stopped now? Its user is told ten minutes before, and may keep it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from maestro_core.idle import IdleAnswer, IdleQuestion, judge
from maestro_core.launches import LaunchStatus
from maestro_hub_services.store import LaunchRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import CULLER

from ..authority import Authority

KIND = "idle"


async def may_stop(authority: Authority, question: IdleQuestion) -> IdleAnswer:
    """Decide on one running server, and note what its user is to be told.

    Raises:
        MaestroError: ``unknown_user``, ``hub_unavailable``; then nothing is stopped.
    """
    user = await authority.hub.user(question.user)
    async with authority.store.read() as unit:
        launch = await unit.launches.of_server(user.name, user.created, question.server_name)
        if launch is None or launch.status is not LaunchStatus.RUNNING or launch.ends_kind == "role":
            return IdleAnswer(stop=False)  # not ours to judge, or ended already
        moment = now()
        active = await _active(authority, unit, launch, moment - timedelta(seconds=question.inactive))
    limit = _limit(launch, question)
    verdict = judge(moment, active, limit, launch.ends_at)
    if verdict.ends_at != launch.ends_at:
        await _note(authority, launch, verdict.ends_at, active)
    return IdleAnswer(stop=verdict.stop)


def _limit(launch: LaunchRow, question: IdleQuestion) -> timedelta | None:
    """The profile's time as it was when the server started, else the culler's own."""
    seconds = question.limit if launch.idle_minutes is None else launch.idle_minutes * 60.0
    return timedelta(seconds=seconds) if seconds > 0 else None


async def _active(authority: Authority, unit: Unit, launch: LaunchRow, used: datetime) -> datetime:
    """When it was last used, worked, or was kept; a busy kernel is not idle, whoever looks."""
    busy = authority.samples.busy_at(launch.id) or await unit.usage.last_busy(launch.id)
    moments = [used, launch.started_at, launch.kept_at, datetime.fromtimestamp(busy, UTC) if busy else None]
    return max(moment for moment in moments if moment is not None)


async def _note(authority: Authority, launch: LaunchRow, ends_at: datetime | None, active: datetime) -> None:
    about = {"workspace_id": launch.workspace_id, "launch_id": launch.id, "user": launch.user}
    async with authority.store.write() as unit:
        if ends_at is None:
            if await unit.launches.will_go_on(launch.id, KIND):
                await unit.events.append(
                    "launch_spared", CULLER, **about, server_name=launch.server_name, reason="it is used again"
                )
        else:
            reason = f"nobody used it for {_minutes(ends_at - active)}"
            if await unit.launches.will_end(launch.id, KIND, ends_at, reason):
                await unit.events.append(
                    "launch_ending",
                    CULLER,
                    **about,
                    server_name=launch.server_name,
                    reason=reason,
                    at=ends_at.isoformat(),
                )
    authority.bell.ring(launch.id)


def _minutes(time: timedelta) -> str:
    minutes = max(1, math.floor(time.total_seconds() / 60))
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
