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
from pathlib import Path

from maestro_core.errors import MaestroError
from maestro_core.launches import DATASETS_DIR, HOME_DIR, WORKSPACE_DIR, Mount
from maestro_core.policy import Dataset
from maestro_core.sandbox import SANDBOX_USER, sandbox_owner
from maestro_hub_services.store import WorkspaceRow

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


def _mount(name: str, source: Path, target: str, read_only: bool) -> Mount:
    return Mount(name=name, kind="directory", source=str(source), target=target, read_only=read_only)
