"""The end of a workspace: archived, restored, purged.

A purge is a list of pieces, each safe to repeat: files, MLflow's data, rows. It goes on after a restart of the service
until nothing is left, and until then name, id and gid stay taken. The workspace's row stays for good, without its name:
it keeps id and gid from being handed out again, and budgets count the hours of its launches.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.lifecycle import Kept, PurgedTracking, PurgeReport, Removed, Retention, TrackingRemoved, purge_from
from maestro_hub_services.store import Place, Unit, WorkspaceRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import PURGE

from ..authority import Authority
from ..identity import Caller
from .access import opened

#: seconds for which the request of a purge waits; a large one goes on by itself
PATIENCE = 15.0
VOLUME, TRACKING = "volume", "mlflow"
_LEFT = {VOLUME: "the files", TRACKING: "MLflow's data, which the tracking service removes"}
log = logging.getLogger("maestro.lifecycle")


async def archive_workspace(authority: Authority, caller: Caller, name: str) -> None:
    """Archive a workspace: it takes no launches and leaves everyone's lists; its files and its name stay.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``conflict`` while servers run in it, and for a personal
            one whose user is there.
    """
    async with opened(authority, caller, name, "archive", archived=True) as (_, standing):
        await _check_personal(authority, standing.workspace)
    async with opened(authority, caller, name, "archive", write=True, archived=True) as (unit, standing):
        workspace = standing.workspace
        if not workspace.open:
            return
        kinds = [launch.kind for launch in await unit.launches.in_workspace(workspace.id)]
        if running := len(kinds):
            what = kinds[0] if len(set(kinds)) == 1 else "server or job"
            shown = f"{what} runs" if running == 1 else f"{what.replace(' or', 's or')}s run"
            raise MaestroError(
                "conflict",
                f"{running} {shown} in {workspace.name}; stop them first, then archive it.",
                {"workspace": workspace.name, "in_use": running},
            )
        await unit.workspaces.archive(workspace.id, caller.name)
        await unit.events.append("workspace_archived", caller.name, workspace_id=workspace.id, name=workspace.name)


async def _check_personal(authority: Authority, workspace: WorkspaceRow) -> None:
    """A personal workspace stays as long as its user; what a deleted user left may go."""
    if not workspace.personal or workspace.personal_user is None:
        return
    try:
        there = (await authority.hub.user(workspace.personal_user)).created == workspace.personal_created
    except MaestroError as error:
        if error.code != "unknown_user":
            raise
        there = False
    if there:
        raise MaestroError("conflict", "A personal workspace cannot be archived; it stays as long as its user.")


async def restore_workspace(authority: Authority, caller: Caller, name: str) -> None:
    """Open an archived workspace again, with all that it was.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``conflict`` once its purge has begun.
    """
    async with opened(authority, caller, name, "restore", write=True, archived=True) as (unit, standing):
        workspace = standing.workspace
        if workspace.open:
            return
        if workspace.purge_at is not None:
            raise MaestroError(
                "conflict",
                f"{workspace.shown_name} is being purged since {workspace.purge_at:%Y-%m-%d %H:%M} UTC; nothing brings "
                "it back.",
                {"workspace": workspace.shown_name},
            )
        await unit.workspaces.restore(workspace.id)
        await unit.events.append("workspace_restored", caller.name, workspace_id=workspace.id, name=workspace.name)


async def purge_workspace(authority: Authority, caller: Caller, name: str) -> PurgeReport:
    """Remove an archived workspace for good, after the retention time; safe to repeat, to see how far it is.

    Whoever began it, and admins, find it by its id when nothing is left.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``conflict`` before it is archived, and before its time.
    """
    done = await _finished(authority, caller, name)
    if done is not None:
        return done
    async with opened(authority, caller, name, "purge", write=True, archived=True) as (unit, standing):
        workspace = standing.workspace
        if workspace.purge_at is None:
            _check_time(workspace, _retention(authority))
            await unit.workspaces.change(
                workspace.id, purge_at=now(), purge_by=caller.name, purge_report={"removed": {}, "kept": []}
            )
            await unit.events.append(
                "workspace_purge_begun", caller.name, workspace_id=workspace.id, name=workspace.name
            )
    await asyncio.wait([_carry_out(authority, workspace.id)], timeout=PATIENCE)
    async with authority.store.read() as unit:
        return report(await unit.workspaces.get(workspace.id))


async def view_purge(authority: Authority, caller: Caller, workspace_id: str) -> PurgeReport:
    """How far a purge is, for whoever may begin it, whoever began it, and admins. Changes nothing.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``; ``conflict`` for one that is not being purged.
    """
    done = await _finished(authority, caller, workspace_id)
    if done is not None:
        return done
    async with opened(authority, caller, workspace_id, "purge", archived=True) as (_, standing):
        if standing.workspace.purge_at is None:
            raise MaestroError("conflict", f"{standing.workspace.name} is not being purged.")
        return report(standing.workspace)


async def left_behind(authority: Authority, caller: Caller) -> frozenset[str]:
    """The names of personal workspaces whose user is not at the Hub any more; they may be archived.

    Raises:
        MaestroError: ``forbidden`` without ``custom:maestro:admin``; ``hub_unavailable``.
    """
    if not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees everybody's personal workspaces.")
    there = {(user.ref.name, user.ref.created) async for user in authority.hub.users(active=False)}
    async with authority.store.read() as unit:
        rows = [row for row in await unit.workspaces.every() if row.personal]
    return frozenset(row.name for row in rows if (row.personal_user, row.personal_created) not in there)


async def _finished(authority: Authority, caller: Caller, name: str) -> PurgeReport | None:
    """The report of a purge that is over, for those who may see it."""
    async with authority.store.read() as unit:
        row = await unit.workspaces.by_id(name)
    if row is None or row.purged_at is None or caller.notebook or not (caller.admin or row.purge_by == caller.name):
        return None
    return report(row)


def _check_time(workspace: WorkspaceRow, retention: Retention) -> None:
    if workspace.archived_at is None:
        raise MaestroError(
            "conflict",
            f"{workspace.name} is in use; archive it first, it can be purged {retention.archived_days:g} days later.",
            {"workspace": workspace.name},
        )
    first = purge_from(workspace.archived_at, retention)
    if now() < first:
        raise MaestroError(
            "conflict",
            f"{workspace.name} was archived on {workspace.archived_at:%Y-%m-%d} and is kept until "
            f"{first:%Y-%m-%d %H:%M} UTC (retention.archived_days); purge it then, or restore it.",
            {"workspace": workspace.name, "purge_from": first.isoformat()},
        )


def _retention(authority: Authority) -> Retention:
    return authority.policy.current.retention


def may_purge_from(authority: Authority, workspace: WorkspaceRow) -> datetime | None:
    """When an archived workspace may be purged; None for an open one, and while no policy is in force."""
    try:
        return None if workspace.archived_at is None else purge_from(workspace.archived_at, _retention(authority))
    except MaestroError:
        return None


async def go_on(authority: Authority) -> None:
    """Carry on with all purges that are not finished."""
    async with authority.store.read() as unit:
        rows = await unit.workspaces.purging()
    tasks = [_carry_out(authority, row.id) for row in rows]
    if tasks:
        await asyncio.wait(tasks)


def _carry_out(authority: Authority, workspace_id: str) -> asyncio.Task[None]:
    """One task a workspace: a second request waits for the first one's."""
    task = authority.purges.get(workspace_id)
    if task is None:
        task = asyncio.create_task(_purge(authority, workspace_id))
        authority.purges[workspace_id] = task
        task.add_done_callback(lambda done: _over(authority, workspace_id, done))
    return task


def _over(authority: Authority, workspace_id: str, task: asyncio.Task[None]) -> None:
    authority.purges.pop(workspace_id, None)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("Purging %s stopped and is tried again", workspace_id, exc_info=error)


async def _purge(authority: Authority, workspace_id: str) -> None:
    """Every piece that is still to do; the rows last."""
    async with authority.store.read() as unit:
        row = await unit.workspaces.get(workspace_id)
    if row.purge_at is None or row.purged_at is not None:
        return
    progress = _Progress.of(row)
    if VOLUME not in progress.removed:
        removal = await authority.volumes.remove(row)
        if removal.left:
            log.info("Of %s is left: %s", row.name, ", ".join(removal.left))
        else:
            await _note(authority, workspace_id, VOLUME, removal.removed, removal.kept)
    if TRACKING not in progress.removed and not authority.settings.tracking:
        await _note(authority, workspace_id, TRACKING, (), ())
    await _finish(authority, workspace_id)


async def _finish(authority: Authority, workspace_id: str) -> None:
    """Remove the rows and free the name, when everything else is gone."""
    async with authority.store.write() as unit:
        row = await unit.workspaces.get(workspace_id)
        progress = _Progress.of(row)
        if row.purged_at is not None or {VOLUME, TRACKING} - progress.removed.keys():
            return
        removed = await _rows(unit, row)
        ran = await unit.launches.count_of(row.id)
        kept = [Kept(what="launches", why=f"{ran} in the figures of budgets")] if ran else []
        await unit.workspaces.change(row.id, purge_report=progress.with_piece("rows", removed, kept).as_json())
        await unit.workspaces.purged(row)
        whole = report(await unit.workspaces.get(row.id))
        await unit.events.append(
            "workspace_purged",
            row.purge_by or PURGE,
            workspace_id=row.id,
            name=row.name,
            removed=[one.show() for one in whole.removed],
            kept=[f"{one.what}: {one.why}" for one in whole.kept],
        )
    log.info("Nothing is left of the workspace %s", row.name)


async def _rows(unit: Unit, row: WorkspaceRow) -> list[Removed]:
    members = await unit.members.forget_workspace(row.id)
    invitations = await unit.invitations.forget_workspace(row.id)
    figures = await unit.usage.forget_workspace(row.id)
    quotas = await unit.quotas.forget(Place("workspace", row.name, row.id))
    rules = await unit.rules.forget_workspace(row.id)
    requests = await unit.requests.forget_workspace(row.id)
    versions = await unit.environments.forget_workspace(row.id)
    snapshots = await unit.snapshots.forget_workspace(row.id)
    sweeps = await unit.sweeps.forget_workspace(row.id)
    jobs = await unit.jobs.forget_workspace(row.id)
    counted = {
        "members": members,
        "invitations": invitations,
        "figures of usage": figures,
        "quotas": quotas,
        "decisions about packages": rules,
        "requests for packages": requests,
        "versions of the environment": versions,
        "versions of notebooks": snapshots,
        "sweeps": sweeps,
        "jobs": jobs,
    }
    return [Removed(what=what, count=count) for what, count in counted.items() if count]


async def _note(
    authority: Authority, workspace_id: str, piece: str, removed: tuple[Removed, ...], kept: tuple[Kept, ...]
) -> None:
    async with authority.store.write() as unit:
        row = await unit.workspaces.get(workspace_id)
        if row.purge_at is None or row.purged_at is not None:
            return
        progress = _Progress.of(row).with_piece(piece, removed, kept)
        await unit.workspaces.change(workspace_id, purge_report=progress.as_json())


# -- what the tracking service does -----------------------------------------------------------------------------------


async def purged_tracking(authority: Authority) -> PurgedTracking:
    """The MLflow workspaces that are to go. Their names are taken until they are gone, so nothing new has one."""
    async with authority.store.read() as unit:
        rows = await unit.workspaces.purging()
    return PurgedTracking(workspaces=tuple(row.name for row in rows if TRACKING not in _Progress.of(row).removed))


async def tracking_removed(authority: Authority, gone: TrackingRemoved) -> None:
    """The tracking service has removed one; safe to repeat.

    Raises:
        MaestroError: ``unknown_workspace`` when that was not asked for.
    """
    async with authority.store.read() as unit:
        row = await unit.workspaces.by_name(gone.workspace)
    if row is None or row.purge_at is None:
        raise MaestroError("unknown_workspace", f"No workspace {gone.workspace[:40]!r} is being purged.")
    counted = f"{gone.experiments} experiments, {gone.models} models"
    removed = Removed(what="MLflow runs", count=gone.runs, bytes=gone.bytes, detail=counted)
    await _note(authority, row.id, TRACKING, (removed,), ())
    await asyncio.wait([_carry_out(authority, row.id)], timeout=PATIENCE)


# -- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Progress:
    """What stands in ``purge_report``: what each finished piece removed, and what stays."""

    removed: dict[str, list[dict[str, Any]]]
    kept: list[dict[str, Any]]

    @classmethod
    def of(cls, row: WorkspaceRow) -> _Progress:
        stored = row.purge_report or {}
        return cls(dict(stored.get("removed", {})), list(stored.get("kept", [])))

    def with_piece(self, piece: str, removed: Any, kept: Any) -> _Progress:
        more = {piece: [one.model_dump() for one in removed]}
        return _Progress({**self.removed, **more}, [*self.kept, *(one.model_dump() for one in kept)])

    def as_json(self) -> dict[str, Any]:
        return {"removed": self.removed, "kept": self.kept}


def report(row: WorkspaceRow) -> PurgeReport:
    """How far the purge of a workspace is."""
    progress = _Progress.of(row)
    return PurgeReport(
        workspace=row.shown_name,
        workspace_id=row.id,
        state="purging" if row.purged_at is None else "purged",
        removed=tuple(Removed(**one) for pieces in progress.removed.values() for one in pieces if one.get("count")),
        left=tuple(shown for piece, shown in _LEFT.items() if piece not in progress.removed),
        kept=tuple(Kept(**one) for one in progress.kept),
    )
