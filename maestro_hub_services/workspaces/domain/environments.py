"""The environment of a workspace: its versions, how changes become one, and what a server builds.

Who only means to add a package after a decision of their own calls :func:`record` in the transaction of that decision.
"""

from __future__ import annotations

from collections.abc import Iterable

from packaging.requirements import Requirement

from maestro_core.environments import (
    PYTHON,
    TITLES,
    Deposit,
    EnvironmentBuild,
    EnvironmentChange,
    EnvironmentDiff,
    EnvironmentHistory,
    EnvironmentSummary,
    EnvironmentView,
    Kind,
    PackageShown,
    by_name,
    merged,
    moved,
    name_of,
)
from maestro_core.errors import MaestroError
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_hub_services.store import EnvironmentRow, LockRow, Unit, WorkspaceRow
from maestro_hub_services.store.environments import MAX_TARGETS, Locked

from ..authority import Authority
from ..identity import Caller
from .access import opened
from .packages import package_policy, see_exists, verdict_on

#: versions that the history shows
SHOWN = 100


async def view(
    authority: Authority, caller: Caller, name: str, version: int | None, kind: Kind = PYTHON
) -> EnvironmentView:
    """One version of a workspace's environment; the current one where None is given. Every member may see it.

    Raises:
        MaestroError: ``unknown_workspace``, ``unknown_version``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        row = await version_of(unit, standing.workspace, version, kind)
        return await view_of(unit, standing.workspace, row, kind)


async def history(authority: Authority, caller: Caller, name: str, kind: Kind = PYTHON) -> EnvironmentHistory:
    """The latest versions.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        rows = await unit.environments.history(standing.workspace.id, SHOWN, kind)
        targets = await unit.environments.targets([row.id for row in rows])
        versions = tuple(_summary(row, targets.get(row.id, ())) for row in rows)
        return EnvironmentHistory(workspace=standing.workspace.name, versions=versions)


async def diff(
    authority: Authority, caller: Caller, name: str, before: int, after: int | None, kind: Kind = PYTHON
) -> EnvironmentDiff:
    """What is different between two versions; 0 is the empty one, None the current one.

    Raises:
        MaestroError: ``unknown_workspace``, ``unknown_version``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        workspace = standing.workspace
        rows = [await version_of(unit, workspace, number, kind) for number in (before, after)]
        views = [await view_of(unit, workspace, row, kind) for row in rows]
        asked = [row.by_name if row else {} for row in rows]
        files = [{package.name: package.version for package in it.packages} for it in views]
        return EnvironmentDiff(
            workspace=workspace.name,
            before=views[0].version,
            after=views[1].version,
            requirements=moved(*asked),
            packages=moved(*files),
        )


async def change(authority: Authority, caller: Caller, name: str, change: EnvironmentChange) -> EnvironmentView:
    """Add and remove packages: a new version, or the current one where that says it all already.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden`` for viewers; ``package_blocked`` where the policy holds one
            back; ``unknown_package``; ``conflict`` where somebody else changed the same package meanwhile.
    """
    async with opened(authority, caller, name, "install_packages") as (unit, standing):
        workspace = standing.workspace
        known = await unit.environments.newest(workspace.id)
    await _check_policy(authority, workspace, change.add)
    if change.built is None:  # what is installed exists
        there = known.by_name if known else {}
        await see_exists(authority, workspace.name, by_name(change.add).keys() - there.keys())
    async with opened(authority, caller, name, "install_packages", write=True) as (unit, standing):
        launch_id = await launch_of(unit, caller, standing.workspace) if change.built else None
        row = await record(unit, standing.workspace, caller.name, change, launch_id=launch_id)
        return await view_of(unit, standing.workspace, row)


async def roll_back(
    authority: Authority, caller: Caller, name: str, number: int, kind: Kind = PYTHON
) -> EnvironmentView:
    """A new version with the content of an old one.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden``, ``unknown_version``; ``conflict`` for the current version.
    """
    async with opened(authority, caller, name, "install_packages", write=True) as (unit, standing):
        workspace, environments = standing.workspace, unit.environments
        old, current = await version_of(unit, workspace, number, kind), await environments.newest(workspace.id, kind)
        if old is None or current is None or old.number == current.number:
            raise MaestroError("conflict", f"Version {number} is the current one; name an older one to go back to.")
        made = await environments.add(
            workspace.id,
            current.number,
            caller.name,
            old.requirements,
            reason=f"back to version {number}",
            python_version=old.python_version,
            kind=kind,
            channels=old.channels,
        )
        await environments.copy_locks(old.id, made.id)
        await tell(unit, workspace, caller.name, current, made)
        return await view_of(unit, workspace, made, kind)


async def build_of(authority: Authority, caller: Caller, name: str, version: int, target: str) -> EnvironmentBuild:
    """What a server of this target builds for a version.

    Raises:
        MaestroError: ``unknown_workspace``, ``unknown_version``, ``invalid_request`` for what is no target.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        row = await version_of(unit, standing.workspace, version)
        return await _build(unit, row, target)


async def deposit(authority: Authority, caller: Caller, name: str, given: Deposit) -> EnvironmentBuild:
    """Keep what a server resolved for its target; the first one stays, and is the answer.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden`` for viewers, ``unknown_version``; ``conflict`` for a version
            that no server of the caller builds, and for more than :data:`MAX_TARGETS` targets.
    """
    async with opened(authority, caller, name, "install_packages", write=True) as (unit, standing):
        row = await version_of(unit, standing.workspace, given.version)
        assert row is not None  # noqa: S101 - a deposit names a version from 1 on
        kept = await unit.environments.lock(row.id, given.target)
        if kept is None or not kept.complete:
            await _see_built(unit, caller, standing.workspace, row)
            if kept is None and await unit.environments.count_locks(row.id) >= MAX_TARGETS:
                raise MaestroError(
                    "conflict",
                    f"Version {row.number} of the environment of {standing.workspace.name} has its files for "
                    f"{MAX_TARGETS} kinds of servers already; start yours from an image that is in use there.",
                    {"limit": "targets", "value": MAX_TARGETS},
                )
            await unit.environments.put_lock(row.id, given.target, given.packages, complete=True)
        return await _build(unit, row, given.target)


async def record(
    unit: Unit, workspace: WorkspaceRow, author: str, change: EnvironmentChange, *, launch_id: str | None = None
) -> EnvironmentRow | None:
    """Make the version that a change leads to, inside a write transaction; the caller has asked policy and role.

    Returns:
        the new version, or the current one (None: there is none) where there is nothing to change.

    Raises:
        MaestroError: ``unknown_version`` for a parent that is none; ``conflict``.
    """
    environments = unit.environments
    current = await environments.newest(workspace.id)
    number = current.number if current else 0
    base = await version_of(unit, workspace, number if change.parent is None else change.parent)
    before = current.by_name if current else {}
    known = base.by_name if base else {}
    asked = merged(change, known, before, number, current.author if current else "")
    lock = await _next_lock(unit, change, base, current)
    if asked == before and lock is None:
        return current
    made = await environments.add(
        workspace.id,
        number,
        author,
        tuple(asked.values()),
        reason=change.reason,
        python_version=current.python_version if current else _asked_python(workspace),
        launch_id=launch_id,
    )
    if lock is not None:
        await environments.put_lock(made.id, lock.target, lock.packages, complete=lock.complete)
    await tell(unit, workspace, author, current, made)
    return made


async def follow_settings(
    unit: Unit, workspace: WorkspaceRow, author: str, before: WorkspaceSettings, after: WorkspaceSettings
) -> None:
    """What the settings say about packages and Python becomes a version: a workspace's first one, or the next."""
    old, new = by_name(before.packages or ()), by_name(after.packages or ())
    python = after.environment.python_version if after.environment else None
    was_python = before.environment.python_version if before.environment else None
    if old == new and python == was_python:
        return
    current = await unit.environments.newest(workspace.id)
    asked = by_name(current.requirements) if current else {}
    asked = {name: text for name, text in asked.items() if name not in old or name in new} | {
        name: text for name, text in new.items() if old.get(name) != text
    }
    if current is None and not asked and python is None:
        return
    made = await unit.environments.add(
        workspace.id,
        current.number if current else 0,
        author,
        tuple(dict(sorted(asked.items())).values()),
        reason="the workspace's settings",
        python_version=python,
    )
    await tell(unit, workspace, author, current, made)


async def _check_policy(authority: Authority, workspace: WorkspaceRow, requirements: Iterable[str]) -> None:
    """Refuse what the index would refuse anyway, before it is everybody's.

    Raises:
        MaestroError: ``package_blocked``.
    """
    policy = await package_policy(authority, workspace.name)
    for text in requirements:
        wanted = Requirement(text)
        verdict = verdict_on(policy, wanted.name, str(wanted.specifier))
        if not verdict.allowed:
            raise MaestroError(
                "package_blocked", verdict.reason, {"package": name_of(text), "action": verdict.action.value}
            )


async def version_of(
    unit: Unit, workspace: WorkspaceRow, number: int | None, kind: Kind = PYTHON
) -> EnvironmentRow | None:
    """A version; None for 0, the empty one, and for the current one where there is none yet.

    Raises:
        MaestroError: ``unknown_version``.
    """
    if number == 0:
        return None
    if number is None:
        return await unit.environments.newest(workspace.id, kind)
    row = await unit.environments.get(workspace.id, number, kind)
    if row is None:
        newest = await unit.environments.number(workspace.id, kind)
        raise MaestroError(
            "unknown_version",
            f"The {TITLES[kind]} of {workspace.name} has no version {number}; the newest is {newest}.",
            {"version": number, "newest": newest},
        )
    return row


async def _next_lock(
    unit: Unit, change: EnvironmentChange, base: EnvironmentRow | None, current: EnvironmentRow | None
) -> LockRow | None:
    """The lock of the new version for the target of the server that made the change.

    It is complete only where nobody else has changed anything meanwhile: what two servers have resolved on their own
    may not go together, so the next one resolves it, with these versions where they fit.
    """
    built = change.built
    if built is None or not (built.installed or built.removed):
        return None
    there = await unit.environments.nearest_lock(current, built.target) if current else None
    before = {it.name: it for it in there.packages} if there else {}
    packages = before | {it.name: it for it in built.installed}
    packages = {name: it for name, it in packages.items() if name not in built.removed}
    own = current is None or (there is not None and there.environment_id == current.id and there.complete)
    if packages == before and own:
        return None
    alone = (base.number if base else 0) == (current.number if current else 0)
    return LockRow(0, built.target, own and alone, tuple(packages[name] for name in sorted(packages)))


async def _build(unit: Unit, row: EnvironmentRow | None, target: str) -> EnvironmentBuild:
    if row is None:
        return EnvironmentBuild(version=0, complete=True)
    lock = await unit.environments.lock(row.id, target)
    if lock is None:
        lock = await unit.environments.nearest_lock(row, target) or await unit.environments.nearest_lock(row, None)
    complete = lock is not None and lock.complete and (lock.environment_id, lock.target) == (row.id, target)
    return EnvironmentBuild(
        version=row.number,
        python_version=row.python_version,
        requirements=row.requirements,
        complete=complete or (not row.requirements and lock is None),
        packages=lock.packages if lock else (),
        locked_for=lock.target if lock else None,
    )


async def view_of(
    unit: Unit, workspace: WorkspaceRow, row: EnvironmentRow | None, kind: Kind = PYTHON
) -> EnvironmentView:
    """A version as people see it; None: the empty one."""
    current = await unit.environments.number(workspace.id, kind)
    if row is None:
        return EnvironmentView(
            workspace=workspace.name, kind=kind, version=0, parent=0, author="", at=None, current=current
        )
    lock = await unit.environments.nearest_lock(row, None)
    targets = (await unit.environments.targets([row.id])).get(row.id, ())
    return EnvironmentView(
        workspace=workspace.name,
        current=current,
        packages=_shown(lock.packages if lock else ()),
        settled=bool(targets) or not row.requirements,
        **_summary(row, targets).model_dump(),
    )


def _summary(row: EnvironmentRow, targets: tuple[str, ...]) -> EnvironmentSummary:
    return EnvironmentSummary(
        kind=row.kind,
        version=row.number,
        parent=row.parent,
        author=row.author,
        at=row.at,
        reason=row.reason,
        requirements=row.requirements,
        python_version=row.python_version,
        targets=targets,
        channels=row.channels,
    )


def _shown(packages: Iterable[Locked]) -> tuple[PackageShown, ...]:
    return tuple(PackageShown(name=it.name, version=it.version) for it in packages)


async def _see_built(unit: Unit, caller: Caller, workspace: WorkspaceRow, row: EnvironmentRow) -> None:
    """Whether somebody builds a version now: it is the current one, or was when a running server of theirs began.

    Raises:
        MaestroError: ``conflict``.
    """
    following = await unit.environments.get(workspace.id, row.number + 1)
    if following is None:
        return
    launch_id = await launch_of(unit, caller, workspace)
    launch = None if launch_id is None else await unit.launches.get(launch_id)
    if launch is None or launch.created_at > following.at:
        raise MaestroError(
            "conflict",
            f"Version {row.number} of the environment of {workspace.name} is not the current one, nor that of your "
            "server; its files are not kept any more.",
            {"version": row.number},
        )


async def launch_of(unit: Unit, caller: Caller, workspace: WorkspaceRow) -> str | None:
    """The caller's own server in a workspace, where their token is that of one."""
    user = caller.person
    for server in caller.servers or ():
        launch = await unit.launches.of_server(user.name, user.created, server)
        if launch is not None and launch.workspace_id == workspace.id:
            return launch.id
    return None


def _asked_python(workspace: WorkspaceRow) -> str | None:
    asked = WorkspaceSettings.read(workspace.settings).environment
    return asked.python_version if asked else None


async def tell(
    unit: Unit, workspace: WorkspaceRow, author: str, before: EnvironmentRow | None, made: EnvironmentRow
) -> None:
    """Leave the event; what a loop adds and removes again is counted on the first one."""
    changes = moved(before.by_name if before else {}, made.by_name)
    await unit.events.count_up(
        "environment_changed",
        author,
        user=author,
        workspace_id=workspace.id,
        launch_id=made.launch_id,
        apart=("number", "parent"),
        kind_of=made.kind,
        number=made.number,
        parent=made.parent,
        reason=made.reason,
        moved=[it.show() for it in changes],
    )
