"""What servers use: heartbeats come in, figures go out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from maestro_core.budget import month_of
from maestro_core.errors import MaestroError
from maestro_core.roles import may
from maestro_core.usage import Heartbeat, Hours, LaunchUsage, MonthHours, Notices, UsagePoint, WorkspaceUsage
from maestro_hub_services.store import LaunchRow, Unit, UsageRow, WorkspaceRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.counts import WORKSPACE

from ..authority import Authority
from ..identity import Caller
from .access import opened
from .launches import find_launch
from .limits import standing_limits, storage_size
from .notices import notices_of

#: seconds that somebody may wait for a change of notices
MAX_WAIT = 55.0
DAY = 86400
log = logging.getLogger("maestro.usage")


async def heartbeat(authority: Authority, caller: Caller, session_id: str, beat: Heartbeat) -> Notices:
    """Take what a server uses now, from the server itself; answer what its user is to be told.

    Raises:
        MaestroError: ``unknown_launch`` for everybody but the launch's own server, and when it has ended.
    """
    async with authority.store.read() as unit:
        launch = await own_launch(unit, caller, session_id)
        at = now().timestamp()
        authority.samples.note(launch.id, beat, at)
        # who may not write measures what others wrote, or says anything: only writers' word counts
        if beat.workspace_bytes is not None and may(launch.role, "write_files"):
            authority.samples.note_storage(launch.workspace_id, beat.workspace_bytes, at)
        return await notices_of(authority, unit, launch, caller.person)


async def wait_for_notices(
    authority: Authority, caller: Caller, session_id: str, seen: str, seconds: float
) -> tuple[Notices, str]:
    """The notices of a server and their digest, as soon as that is another than ``seen``, or when the time is over.

    Raises:
        MaestroError: ``unknown_launch`` as for :func:`heartbeat`.
    """
    end = now().timestamp() + min(max(seconds, 0.0), MAX_WAIT)
    while True:
        async with authority.store.read() as unit:
            launch = await own_launch(unit, caller, session_id)
            notices = await notices_of(authority, unit, launch, caller.person)
        digest = sha256(notices.model_dump_json().encode()).hexdigest()[:16]
        left = end - now().timestamp()
        if digest != seen or left <= 0:
            return notices, digest
        await authority.bell.wait(launch.id, left)


async def keep(authority: Authority, caller: Caller, session_id: str) -> Notices:
    """Keep an idle server running, for its user: in the notebook or elsewhere.

    Raises:
        MaestroError: ``unknown_launch``.
    """
    async with authority.store.write() as unit:
        launch = await find_launch(unit, caller, session_id)
        if not launch.status.active:
            raise unknown(session_id)
        await unit.launches.keep(launch.id)
        if launch.ends_kind == "idle":
            await unit.events.append(
                "launch_spared",
                caller.name,
                workspace_id=launch.workspace_id,
                launch_id=launch.id,
                user=launch.user,
                server_name=launch.server_name,
                reason="its user keeps it running",
            )
        launch = await find_launch(unit, caller, session_id)
        notices = await notices_of(authority, unit, launch, caller.person)
    authority.bell.ring(launch.id)
    return notices


async def own_launch(unit: Unit, caller: Caller, session_id: str) -> LaunchRow:
    """The launch whose server asks.

    Raises:
        MaestroError: ``unknown_launch``.
    """
    launch = await unit.launches.get(session_id)
    user = caller.person
    if (
        launch is None
        or not launch.status.active
        or (launch.user, launch.user_created) != (user.name, user.created)
        or launch.server_name not in (caller.servers or ())
    ):
        raise unknown(session_id)
    return launch


def unknown(session_id: str) -> MaestroError:
    """For a launch that is not the asking server's own."""
    return MaestroError(
        "unknown_launch",
        f"This server is not of the launch {session_id[:40]!r}, or that has ended; start it again.",
        {"session_id": session_id[:40]},
    )


async def flush(authority: Authority) -> None:
    """Write what came in."""
    rows, storage = authority.samples.take()
    if not rows and not storage:
        return
    async with authority.store.write() as unit:
        await unit.usage.add(rows)
        for workspace_id, (used, at) in storage.items():
            moment = datetime.fromtimestamp(at, UTC)
            await unit.workspaces.change(workspace_id, storage_used=used, storage_measured_at=moment)


async def tidy(authority: Authority) -> None:
    """Thin what is old, and forget what has ended."""
    try:
        days = authority.policy.current.retention.usage_days
    except MaestroError:  # no policy is in force: nothing is thrown away that one would keep
        return
    async with authority.store.write() as unit:
        await unit.usage.thin(int(now().timestamp()), int(days * DAY))
        active = {launch.id for launch in await unit.launches.active()}
    authority.samples.keep_only(active)


async def launch_usage(authority: Authority, caller: Caller, session_id: str, since: datetime | None) -> LaunchUsage:
    """What one launch used.

    Raises:
        MaestroError: ``unknown_launch``.
    """
    await flush(authority)
    async with authority.store.read() as unit:
        launch = await find_launch(unit, caller, session_id)
        workspace = await unit.workspaces.get(launch.workspace_id)
        rows = await unit.usage.of_launch(launch.id, int(since.timestamp()) if since else 0)
        latest = (await unit.usage.latest([launch.id])).get(launch.id)
        return _launch(launch, workspace, latest, rows)


async def workspace_usage(authority: Authority, caller: Caller, name: str, months: int = 0) -> WorkspaceUsage:
    """What a workspace uses: its storage, its servers, the hours of this month. Every member may see it.

    Args:
        months: how many months before this one are told too.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    await flush(authority)
    async with opened(authority, caller, name, "read") as (unit, standing):
        workspace = standing.workspace
        launches = await unit.launches.in_workspace(workspace.id)
        latest = await unit.usage.latest([launch.id for launch in launches])
        counted = await unit.counts.count(month_of(now()), hours=[WORKSPACE], workspace_id=workspace.id)
        hours = counted.hours[WORKSPACE]
        before = await _months(unit, workspace, months)
        return WorkspaceUsage(
            workspace=workspace.name,
            storage_used=workspace.storage_used,
            storage_measured_at=workspace.storage_measured_at,
            storage_limit=await _storage_limit(authority, unit, caller, workspace),
            storage_held=authority.volumes.holds_size,
            launches=tuple(_launch(one, workspace, latest.get(one.id), ()) for one in launches),
            month=Hours(cpu=hours.cpu, gpu=hours.gpu),
            months=before,
        )


async def _months(unit: Unit, workspace: WorkspaceRow, many: int) -> tuple[MonthHours, ...]:
    """The hours of months before this one, back to when the workspace was made."""
    found: list[MonthHours] = []
    month = month_of(now())
    while len(found) < many and month.start > workspace.created_at:
        month = month_of(month.start - timedelta(days=1))
        counted = await unit.counts.count(month, hours=[WORKSPACE], workspace_id=workspace.id)
        hours = counted.hours[WORKSPACE]
        found.append(MonthHours(month=f"{month.start:%Y-%m}", cpu=hours.cpu, gpu=hours.gpu))
    return tuple(reversed(found))


async def latest_samples(authority: Authority, caller: Caller) -> dict[str, UsagePoint]:
    """The last sample of everything that runs, by session id.

    Raises:
        MaestroError: ``forbidden`` without ``custom:maestro:admin``.
    """
    if not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees what every server uses.")
    await flush(authority)
    async with authority.store.read() as unit:
        rows = await unit.usage.latest([launch.id for launch in await unit.launches.active()])
    return {launch_id: _point(row) for launch_id, row in rows.items()}


async def _storage_limit(authority: Authority, unit: Unit, caller: Caller, workspace: WorkspaceRow) -> int | None:
    try:
        policy = authority.policy.current
    except MaestroError:  # none is in force; the rest of the figures can be shown
        return None
    limits, _ = await standing_limits(authority, unit, policy, caller.person, workspace)
    return storage_size(limits)


def _launch(
    launch: LaunchRow, workspace: WorkspaceRow, latest: UsageRow | None, rows: Iterable[UsageRow]
) -> LaunchUsage:
    return LaunchUsage(
        session_id=launch.id,
        user=launch.user,
        server_name=launch.server_name,
        workspace=workspace.shown_name,
        status=launch.status.value,
        resources=launch.resources,
        ends_at=launch.ends_at,
        ends_reason=launch.ends_reason,
        ends_kind=launch.ends_kind,
        latest=None if latest is None else _point(latest),
        points=tuple(_point(row) for row in rows),
    )


def _point(row: UsageRow) -> UsagePoint:
    return UsagePoint(
        at=datetime.fromtimestamp(row.at, UTC),
        seconds=row.seconds,
        cpu=row.cpu_seconds / row.seconds if row.seconds else 0.0,
        memory=row.memory,
        memory_peak=row.memory_peak,
        gpu=row.gpu,
        gpu_memory=row.gpu_memory,
        busy=row.busy,
    )
