"""Secrets of this installation: one file each below ``keys/``, mode 0600, made once.

Machine tokens are the Hub's service tokens: both ends read the same file, nothing is typed and nothing is in the
process list.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from .settings import SettingsError

#: token files of the Hub's services, by service name
SERVICE_TOKENS = ("workspaces", "packages", "mlflow", "maestro-spawner")

#: what may lie in an installation's directory; lost+found is a volume's own
OF_A_STATE = {
    "accounts", "homes", "hub", "keys", "log", "lost+found", "maestro.yaml", "mlflow", "packages", "run", "service",
    "workspaces",
}  # fmt: skip


class KeyFileError(Exception):
    """A key file that others may read, or that holds nothing; the message is one sentence for the admin."""


def make_private_directory(path: Path) -> Path:
    """Create ``path`` and its parents, and close ``path`` itself to everybody else (mode 0700).

    Raises:
        OSError: if it cannot be made or is not ours to close.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def make_state_directory(path: Path) -> Path:
    """The directory of an installation, as :func:`make_private_directory` makes it.

    Raises:
        SettingsError: it is there, open to others, and holds what is none of ours: somebody else's would be closed.
        OSError: as there.
    """
    if path.is_dir() and path.stat().st_mode & 0o077:
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in OF_A_STATE)
        if foreign:
            raise SettingsError(
                f"{path} holds other things already ({foreign[0][:40]!r}), and Maestro would close it to all others: "
                "name a directory of its own in MAESTRO_STATE."
            )
    return make_private_directory(path)


def key_path(state: Path, name: str) -> Path:
    """Where the key ``name`` of the installation at ``state`` lies."""
    return state / "keys" / name


def ensure_key(state: Path, name: str, size: int = 32) -> str:
    """Return the key ``name``, made first if it does not exist: ``size`` random bytes in hex.

    Two processes that make it at the same moment get the same key. A file that others may read is closed again.

    Raises:
        KeyFileError: if the file is empty.
        OSError: if it cannot be read or written.
    """
    path = key_path(state, name)
    if not path.exists():
        make_private_directory(path.parent)
        _create(path, secrets.token_hex(size))
    if path.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):  # a mounted Secret is closed by whoever mounts it
            path.chmod(0o600)
    key = path.read_text(encoding="ascii").strip()
    if not key:
        raise KeyFileError(f"The key file {path} is empty: delete it, and start again to have a new one made.")
    return key


def _create(path: Path, text: str) -> None:
    """Write the whole file or none, and leave an existing one alone: link() fails where the name is taken."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
