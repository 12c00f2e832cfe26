"""The folder of one local launch, ``run/launches/<launch id>`` or ``run/jobs/<launch id>``: what is its alone.

``etc/`` package clients' configuration, shown read-only at ``/etc/maestro``; ``env/`` the kernels' environment;
``system/`` passwd and group inside; ``process.json`` its processes, so that a Hub that died while starting it leaves
no server behind. All functions here block and are called in threads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from maestro_core import sandbox
from maestro_core.clients import client_files
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.sandbox import Owner

from .process import Process, with_variable

PROCESSES = "process.json"
#: the variable by which the processes of a launch without a sandbox are known: it names a place in the launch's folder
MARK = "MAESTRO_ENV"


def make(folder: Path, plan: LaunchPlan, owner: Owner | None) -> None:
    """Make a launch's folder.

    Args:
        folder: absolute; its parents are made, closed to everyone else.
        plan: what the service decided.
        owner: who runs the server, where that is not the Hub's own user.

    Raises:
        MaestroError: ``internal`` for an index that no client's file can name; ``conflict`` when files are missing.
        OSError: it cannot be written.
    """
    for mount in plan.mounts:
        if mount.kind == "directory" and not os.path.isdir(mount.source):
            raise MaestroError(
                "conflict",
                f"The folder of {mount.name!r} is missing on this machine, so nothing was started; tell an admin.",
            )
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove(folder)
    folder.mkdir(mode=0o700)
    _write(folder / sandbox.SYSTEM, sandbox.system_files(), 0o444, owner)
    _write(folder / sandbox.ETC, _client_files(plan), 0o400, owner)
    _write(folder / sandbox.ENV, {}, 0o600, owner)


def _client_files(plan: LaunchPlan) -> Mapping[str, str]:
    if not plan.index_url:
        return {}
    try:
        return client_files(plan.index_url, plan.index_token)
    except ValueError as error:
        raise MaestroError("internal", f"The plan's package index cannot be used: {error}.") from None


def _write(folder: Path, files: Mapping[str, str], mode: int, owner: Owner | None) -> None:
    folder.mkdir(mode=0o700)
    made = [folder]
    for name, content in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        made.append(folder / name)
    if owner is not None:
        for path in made:
            os.chown(path, *owner)


def remember(folder: Path, processes: Mapping[str, Process | None]) -> None:
    """Write down a launch's processes."""
    known = {name: process.as_json() for name, process in processes.items() if process is not None}
    new = folder / f"{PROCESSES}.new"
    new.write_text(json.dumps(known))
    new.replace(folder / PROCESSES)


def recall(folder: Path) -> dict[str, Process]:
    """The processes that :func:`remember` wrote, alive or not, by their names."""
    try:
        known = json.loads((folder / PROCESSES).read_text())
    except (OSError, ValueError):
        return {}
    found = {name: Process.from_json(data) for name, data in known.items()} if isinstance(known, dict) else {}
    return {name: process for name, process in found.items() if process is not None}


def remove(folder: Path) -> None:
    """Remove it with all that is in it (shutil.rmtree follows no link)."""
    shutil.rmtree(folder, ignore_errors=True)


def end_leftovers(launches: Path, keep: Collection[str]) -> list[str]:
    """End the servers that a Hub left which died while it started them, and remove their folders.

    Args:
        launches: ``run/launches``.
        keep: the launches that this Hub knows.

    Returns:
        the launches that were left.
    """
    left = [launches / name for name in names(launches) if name not in keep]
    for folder in left:
        for process in recall(folder).values():
            for child in process.children() if process.alive() else []:
                child.kill()  # of bubblewrap: the first process of the sandbox, and with it all
            process.kill()
        end_marked(folder)
        remove(folder)
    return [folder.name for folder in left]


def end_marked(folder: Path) -> None:
    """End the processes of a launch that ran without a sandbox; other Hubs' on this machine have other folders."""
    for process in with_variable(MARK, str(folder / sandbox.ENV)):
        process.kill()


def names(launches: Path) -> list[str]:
    """The launches that have a folder there."""
    try:
        return [entry.name for entry in os.scandir(launches) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
