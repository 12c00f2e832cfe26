"""Where a notebook server's things lie, read from the environment that the launch plan gave it."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: what maestro_core.launches calls ENVIRONMENT_DIR; not imported, since pydantic costs more time than all of a start
DEFAULT_ENVIRONMENT = "/opt/maestro/env"


class StartError(Exception):
    """The server cannot start here; the message is one sentence for the Hub's log and the person who reads it."""


@dataclass(frozen=True)
class Launch:
    """The folders of one launch.

    Attributes:
        workspace: the workspace's name, shown in the kernel's name.
        workspace_dir: the workspace's files; read-only for a viewer.
        environment: the virtual environment that kernels and terminals use; on local disk, made anew by each start.
        home: the user's private folder of this workspace.
        prefix: what the server runs from; read-only.
        viewer: whether the user is a viewer, for whom the workspace is read-only.
        home_full: whether nothing can be written into the home, because its volume is full.
    """

    workspace: str
    workspace_dir: Path
    environment: Path
    home: Path
    prefix: Path
    viewer: bool = False
    home_full: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], prefix: str = sys.prefix) -> Launch:
        """Read the launch.

        Raises:
            StartError: a folder is missing, is no absolute path, or cannot be used.
        """
        workspace_dir = _folder(environ, "MAESTRO_WORKSPACE_DIR")
        if not os.access(workspace_dir, os.R_OK | os.X_OK):
            raise StartError(f"The workspace's folder {workspace_dir} cannot be read; tell an admin.")
        home = _folder(environ, "HOME")
        if not os.access(home, os.W_OK | os.X_OK):
            raise StartError(f"The home folder {home} cannot be written; tell an admin.")
        environment = Path(environ.get("MAESTRO_ENV") or DEFAULT_ENVIRONMENT)
        taken = environment in (Path("/"), home) or environment.is_relative_to(workspace_dir)
        if taken or not environment.is_absolute():
            raise StartError(f"MAESTRO_ENV={environment} cannot hold the kernels' packages; name a folder of its own.")
        return cls(
            workspace=environ.get("MAESTRO_WORKSPACE", ""),
            workspace_dir=workspace_dir,
            environment=environment,
            home=home,
            prefix=Path(prefix),
            viewer=environ.get("MAESTRO_ROLE") == "viewer",
            home_full=_is_full(home),
        )

    @property
    def python(self) -> Path:
        """The interpreter of kernels."""
        return self.environment / "bin" / "python"

    @property
    def kernels(self) -> Path:
        """Where the kernels lie that this launch made itself: kernels alone, and nothing else that Jupyter loads."""
        return self.private / "kernels"

    @property
    def installed_data(self) -> Path:
        """Where packages of the environment put what is Jupyter's; the server takes nothing from there but kernels."""
        return self.environment / "share" / "jupyter"

    @property
    def own_data(self) -> Path:
        """The user's own Jupyter data, kept from launch to launch: kernels, and which notebooks are trusted."""
        return self.settings / ".local" / "share" / "jupyter"

    @property
    def private(self) -> Path:
        """What the server writes and no later launch may read: configuration folder, connection files."""
        return self.environment / "var" / "jupyter"

    @property
    def settings(self) -> Path:
        """Where JupyterLab's settings, caches and databases go: the home, or while that is full, a place beside it."""
        return self.private / "home" if self.home_full else self.home

    @property
    def uv_cache(self) -> Path:
        """uv's cache of this launch: on the environment's own disk, so that files are linked and not copied."""
        return self.environment / "var" / "uv"

    @property
    def terminal(self) -> Path:
        """The program that a terminal runs."""
        return self.environment / "bin" / "maestro-terminal"


def _folder(environ: Mapping[str, str], name: str) -> Path:
    folder = Path(environ.get(name, ""))
    if not folder.is_absolute() or not folder.is_dir():
        raise StartError(f"{name}={folder} is no folder; the launch has to name one that exists.")
    return folder


#: enough for a settings file, a database and its journal
_PROBE_BYTES = 256 * 1024


def _is_full(folder: Path) -> bool:
    """Whether a small file finds no room; tried, since a quota of the user's shows nowhere else."""
    try:
        with tempfile.TemporaryDirectory(prefix=".maestro-", dir=folder) as probe:
            (Path(probe) / "probe").write_bytes(os.urandom(_PROBE_BYTES))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
