"""The conda environment of a workspace: how a change becomes a version, and what a server builds.

Looking at versions and going back is the same for both kinds of environments: :mod:`.environments`.
"""

from __future__ import annotations

from packaging.requirements import Requirement

from maestro_core.conda_environments import (
    CONDA,
    MAX_CHANNELS,
    CondaBuild,
    CondaChange,
    LockedCondaPackage,
    channel_of,
    conda_specs,
    merged_specs,
    pip_requirements,
    spec_name,
)
from maestro_core.environments import EnvironmentView
from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy, Verdict, decide
from maestro_hub_services.store import EnvironmentRow, LockRow, Unit, WorkspaceRow

from ..authority import Authority
from ..identity import Caller
from .access import opened
from .environments import launch_of, tell, version_of, view_of
from .packages import package_policy, verdict_on


async def change(authority: Authority, caller: Caller, name: str, change: CondaChange) -> EnvironmentView:
    """Add and remove packages: a new version, or the current one where that says it all already.

    Raises:
        MaestroError: ``unknown_workspace``, ``forbidden`` for viewers; ``package_blocked`` where the policy holds one
            back; ``conflict`` where somebody else changed the same package meanwhile.
    """
    async with opened(authority, caller, name, "install_packages") as (_, standing):
        workspace = standing.workspace
    _check_policy(await package_policy(authority, workspace.name), change)
    async with opened(authority, caller, name, "install_packages", write=True) as (unit, standing):
        launch_id = await launch_of(unit, caller, standing.workspace) if change.built else None
        row = await _record(unit, standing.workspace, caller.name, change, launch_id)
        return await view_of(unit, standing.workspace, row, CONDA)


async def build_of(authority: Authority, caller: Caller, name: str, target: str) -> CondaBuild:
    """What a server of this platform builds now.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        row = await unit.environments.newest(standing.workspace.id, CONDA)
        if row is None:
            return CondaBuild()
        lock = await unit.environments.nearest_lock(row, target)
        return CondaBuild(
            version=row.number,
            requirements=row.requirements,
            channels=row.channels,
            complete=lock is not None and lock.complete and lock.environment_id == row.id,
            packages=_packages(lock),
        )


async def _record(
    unit: Unit, workspace: WorkspaceRow, author: str, change: CondaChange, launch_id: str | None
) -> EnvironmentRow | None:
    environments = unit.environments
    current = await environments.newest(workspace.id, CONDA)
    number = current.number if current else 0
    base = await version_of(unit, workspace, number if change.parent is None else change.parent, CONDA)
    before = current.by_name if current else {}
    asked = merged_specs(change, base.by_name if base else {}, before, number, current.author if current else "")
    channels = tuple(dict.fromkeys([*(current.channels if current else ()), *change.channels]))
    if len(channels) > MAX_CHANNELS:
        raise MaestroError("invalid_request", f"An environment looks in at most {MAX_CHANNELS} channels.")
    alone = (base.number if base else 0) == number
    if asked == before and not await _is_news(unit, current, change, alone):
        return current
    made = await environments.add(
        workspace.id,
        number,
        author,
        tuple(asked.values()),
        reason=change.reason,
        launch_id=launch_id,
        kind=CONDA,
        channels=channels,
    )
    if change.built is not None:
        # What two servers solved on their own may not go together: the next one solves, with these where they fit.
        theirs = {} if alone or current is None else await _known(unit, current, change.built.target)
        packages = theirs | {it.key: it for it in change.built.packages}
        await environments.put_lock(made.id, change.built.target, list(packages.values()), complete=alone)
    await tell(unit, workspace, author, current, made)
    return made


async def _is_news(unit: Unit, current: EnvironmentRow | None, change: CondaChange, alone: bool) -> bool:
    """Whether a server has files that the current version's lock has not; to be kept where it built that version."""
    if change.built is None or not alone or current is None:
        return False
    kept = await unit.environments.lock(current.id, change.built.target)
    return kept is None or not kept.complete or set(_packages(kept)) != set(change.built.packages)


async def _known(unit: Unit, row: EnvironmentRow, target: str) -> dict[str, LockedCondaPackage]:
    lock = await unit.environments.nearest_lock(row, target)
    return {it.key: it for it in _packages(lock)}


def _packages(lock: LockRow | None) -> tuple[LockedCondaPackage, ...]:
    return tuple(it for it in lock.packages if isinstance(it, LockedCondaPackage)) if lock else ()


def _check_policy(policy: CompiledPolicy, change: CondaChange) -> None:
    """Refuse what the index would refuse anyway, before it is everybody's.

    Raises:
        MaestroError: ``package_blocked``.
    """
    for package, verdict in _verdicts(policy, change):
        if not verdict.allowed:
            raise MaestroError("package_blocked", verdict.reason, {"package": package, "action": verdict.action.value})


def _verdicts(policy: CompiledPolicy, change: CondaChange) -> list[tuple[str, Verdict]]:
    found = [(text, verdict_on(policy, (it := Requirement(text)).name, str(it.specifier)))
             for text in pip_requirements(change.add)]  # fmt: skip
    # which versions these become is known by the files, each of which is judged below
    found += [(spec, verdict_on(policy, spec_name(spec), channel=channel))
              for spec in conda_specs(change.add) if (channel := channel_of(spec))]  # fmt: skip
    files = change.built.packages if change.built else ()
    return found + [(it.name, decide(policy, it.name, it.version, it.channel)) for it in files]
