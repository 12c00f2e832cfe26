"""``experiments/`` of a workspace: each entry is a link to one whole version, and a new version replaces it at once.

    experiments/churn -> .versions/churn-1f0c9a7b21d4/
    experiments/.versions/churn-1f0c9a7b21d4/runs.csv ...

A link is replaced by one rename, so whoever is killed at any moment leaves the version before or the one after.
Versions are read-only: what somebody kept in one would be gone with the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from maestro_core.errors import MaestroError

FOLDER = "experiments"
_VERSIONS = ".versions"
_LOCK = ".lock"
_DIGITS = 12
_CHUNK = 1024 * 1024
_READ_ONLY_FILE = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_READ_ONLY_FOLDER = _READ_ONLY_FILE | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class Tree:
    """The folder ``experiments`` of a workspace.

    Args:
        workspace: the workspace's folder.
    """

    def __init__(self, workspace: Path) -> None:
        self._root = workspace / FOLDER
        self._versions = self._root / _VERSIONS

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder, keep other syncs of the workspace out, and remove what a killed one left.

        Raises:
            MaestroError: ``invalid_request`` when the folder is something else, or another sync runs; ``forbidden``
                where one may not write.
        """
        try:
            for place in (self._root, self._versions):
                place.mkdir(exist_ok=True)
                if place.is_symlink():  # it would lead out of the workspace
                    raise FileExistsError(place)
            lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o664)
            with contextlib.suppress(OSError):  # made by somebody else
                os.fchmod(lock, 0o664)
        except FileExistsError:
            raise MaestroError(
                "invalid_request", f"{FOLDER} is no folder of this workspace; move it away, then sync again."
            ) from None
        except OSError as error:
            raise MaestroError(
                "forbidden", f"The folder {FOLDER} cannot be written: {error.strerror}; editors of a workspace may."
            ) from None
        try:
            _lock(lock)
            self._tidy()
            try:
                yield
            finally:
                self._tidy()
        finally:
            os.close(lock)

    def begin(self) -> Path:
        """A new empty folder for a version; :meth:`publish` it within :meth:`opened`."""
        place = self._versions / f"new-{secrets.token_hex(6)}"
        place.mkdir()
        return place

    def current(self, name: str) -> Path | None:
        """The version that ``name`` shows now."""
        link = self._root / name
        return self._versions / Path(os.readlink(link)).name if self._ours(link) else None

    def publish(self, name: str, new: Path) -> bool:
        """Show ``new`` as ``name``; whether that is another version than before.

        Raises:
            MaestroError: ``invalid_request`` when somebody keeps a file or a folder there.
            OSError: the volume is full, say; what was shown before still is.
        """
        link = self._root / name
        if os.path.lexists(link) and not self._ours(link):
            raise MaestroError(
                "invalid_request", f"{FOLDER}/{name} is no folder of a sync; move it away, then sync again."
            )
        version = self._versions / f"{name}-{_digest(new)}"
        if version == self.current(name) and version.is_dir():
            return False
        if not version.is_dir():  # a killed sync may have come this far
            _close(new)
            new.rename(version)
            version.chmod(_READ_ONLY_FOLDER)
            _sync(self._versions)
        waiting = self._versions / f"link-{secrets.token_hex(6)}"
        waiting.symlink_to(Path(_VERSIONS) / version.name)
        waiting.replace(link)
        _sync(self._root)
        return True

    def _ours(self, link: Path) -> bool:
        return link.is_symlink() and Path(os.readlink(link)).parent == Path(_VERSIONS)

    def _tidy(self) -> None:
        """Remove every version that nothing shows."""
        shown = {Path(os.readlink(one)).name for one in self._root.iterdir() if self._ours(one)}
        for one in self._versions.iterdir():
            if one.name not in shown:
                with contextlib.suppress(OSError):  # of another user of the volume: it goes with their next sync
                    _remove(one)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MaestroError(
            "invalid_request", "Another sync of this workspace is running; wait until it has ended, then try again."
        ) from None
    except OSError:
        pass  # a volume without locks: two at once would only do the work twice


def _digest(folder: Path) -> str:
    """Of all that is in a folder: paths and contents."""
    found = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                content.update(chunk)
        found.update(f"{path.relative_to(folder)}\0{content.hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:_DIGITS]


def _close(folder: Path) -> None:
    """Make it read-only, and have it on the disk before it is shown."""
    for place, _, files in os.walk(folder, topdown=False):
        for file in files:
            path = Path(place) / file
            path.chmod(_READ_ONLY_FILE)
            _sync(path)
        _sync(Path(place))
        if Path(place) != folder:  # that one is still to be renamed
            os.chmod(place, _READ_ONLY_FOLDER)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for place, _, _ in os.walk(path):
        os.chmod(place, _READ_ONLY_FOLDER | stat.S_IWUSR)
    shutil.rmtree(path)
