"""Volumes on one machine: ``state/workspaces/<workspace id>`` and ``state/homes/<user>/<workspace id>``.

Servers run as one system user (a Hub that is root drops to it; else it is the Hub's own), so what they write belongs to
it; who sees which directory is the sandbox's mount view.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path

from maestro_core.errors import MaestroError
from maestro_core.launches import DATASETS_DIR, HOME_DIR, WORKSPACE_DIR, Mount
from maestro_core.lifecycle import Removed
from maestro_core.policy import Dataset
from maestro_core.sandbox import SANDBOX_USER, sandbox_owner
from maestro_hub_services.store import WorkspaceRow

from . import Removal

log = logging.getLogger("maestro.volumes")


class LocalVolumes:
    """Directories below the state.

    Args:
        state: the installation's state directory.
    """

    holds_size = False

    def __init__(self, state: Path) -> None:
        self._workspaces = state / "workspaces"
        self._homes = state / "homes"

    async def ensure(self, workspace_id: str, name: str, size: int | None) -> None:
        """Make the directory; a size is not enforced here."""
        await self._make(self._workspaces, workspace_id)

    async def discard(self, workspace_id: str, name: str) -> None:
        """Remove the directory if it is empty."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread((self._workspaces / workspace_id).rmdir)

    async def remove(self, workspace: WorkspaceRow) -> Removal:
        """Files, then the private homes; what cannot be removed is left, and tried again."""
        homes = await asyncio.to_thread(_homes_of, self._homes, workspace.id)
        found: list[Removed] = []
        for what, paths in (("files", [self._workspaces / workspace.id]), ("files in private homes", homes)):
            counts = [await asyncio.to_thread(_remove_tree, path) for path in paths]
            left = [path for path in paths if await asyncio.to_thread(os.path.lexists, path)]
            if left:
                log.error("Of workspace %s is left: %s", workspace.id, ", ".join(map(str, left)))
                return Removal(left=(what,))
            files, size = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
            found.append(Removed(what=what, count=files, bytes=size, detail=_homes_counted(len(homes), what)))
        return Removal(removed=tuple(found))

    async def mounts(
        self, workspace: WorkspaceRow, home: str, datasets: tuple[Dataset, ...], *, read_only: bool
    ) -> tuple[Mount, ...]:
        """Workspace, home (made here), and the datasets whose path exists."""
        await self._make(self._homes, home, workspace.id)
        found = [
            _mount("workspace", self._workspaces / workspace.id, WORKSPACE_DIR, read_only),
            _mount("home", self._homes / home / workspace.id, HOME_DIR, False),
        ]
        for dataset in datasets:
            if dataset.path is None:
                continue
            if await asyncio.to_thread(os.path.isdir, dataset.path):
                found.append(
                    _mount(f"dataset-{dataset.name}", Path(dataset.path), f"{DATASETS_DIR}/{dataset.name}", True)
                )
            else:
                log.warning("The dataset %s is left out: there is no directory %s", dataset.name, dataset.path)
        return tuple(found)

    async def close(self) -> None:
        """Nothing is open."""

    async def _make(self, base: Path, *parts: str) -> None:
        try:
            await asyncio.to_thread(_make, base, parts)
        except KeyError:
            raise MaestroError(
                "start_failed",
                f"This machine has no user {SANDBOX_USER}, which servers run as; the admin starts the Hub again, which "
                "makes it.",
            ) from None
        except OSError as error:
            log.error("Making %s failed: %s", base.joinpath(*parts), error)
            raise MaestroError(
                "start_failed", f"The directory of the workspace cannot be made ({error.strerror}); ask the admin."
            ) from None


def _make(base: Path, parts: tuple[str, ...]) -> None:
    """Blocking, in a thread. Only the last directory is the servers'; those above are ours."""
    path = base.joinpath(*parts)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    owner = sandbox_owner(os.geteuid(), pwd.getpwnam)
    if owner is not None and path.stat().st_uid != owner.uid:  # also one that was made just before a crash
        os.chown(path, owner.uid, owner.gid)


def _homes_of(base: Path, workspace_id: str) -> list[Path]:
    """Every user's private home in one workspace. Blocking, in a thread."""
    if not base.is_dir():
        return []
    return [home / workspace_id for home in base.iterdir() if (home / workspace_id).is_dir()]


def _homes_counted(homes: int, what: str) -> str:
    return "" if what == "files" else f"{homes} home{'' if homes == 1 else 's'}"


def _remove_tree(path: Path) -> tuple[int, int]:
    """Count a tree's files and bytes and remove it; links are removed, never followed. Blocking, in a thread."""
    files = size = 0
    for folder, _, names in os.walk(path, onerror=None):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size
            files += 1

    def try_again(function: Callable[[str], object], name: str, error: BaseException) -> None:
        """A user's own folder without the right to write in it keeps its files."""
        if isinstance(error, PermissionError):
            with contextlib.suppress(OSError):
                os.chmod(os.path.dirname(name), 0o700)
                if os.path.isdir(name) and not os.path.islink(name):
                    os.chmod(name, 0o700)
                    shutil.rmtree(name, ignore_errors=True)
                else:
                    os.unlink(name)

    with contextlib.suppress(OSError):
        shutil.rmtree(path, onerror=lambda function, name, info: try_again(function, name, info[1]))
    return files, size


def _mount(name: str, source: Path, target: str, read_only: bool) -> Mount:
    return Mount(name=name, kind="directory", source=str(source), target=target, read_only=read_only)
