"""Files on disk within a set size: the longest unused ones go first.

Whatever lies here can be fetched again, so nothing is lost when it is deleted, by us or by anybody. All methods that
touch the disk run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

_log = logging.getLogger(__name__)

#: what the smallest file takes on a disk
_BLOCK = 4096


class DiskCache:
    """A directory of files by name.

    Args:
        root: made if missing, mode 0700.
        limit: bytes, of files and of what is being written.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit
        self.size = 0
        self.drafting = 0
        self._drafts = root / "drafts"
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._writing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until what is to be kept is on the disk."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def open(self) -> None:
        """Take over what an earlier process left; what it had not finished is removed.

        Raises:
            OSError: if the directory cannot be used.
        """
        for name, size in await asyncio.to_thread(self._scan):
            self._sizes[name] = size
            self.size += size
        await self._shrink()

    async def find(self, name: str) -> Path | None:
        """The file of that name, which then counts as used; None if there is none."""
        path = self._path(name)
        if name not in self._sizes:
            return None
        if not await asyncio.to_thread(_touch, path):
            self.size -= self._sizes.pop(name, 0)
            return None
        if name in self._sizes:
            self._sizes.move_to_end(name)
        return path

    def draft(self) -> tuple[int, Path]:
        """A new empty file to write into: an open descriptor and its path. :meth:`keep` or unlink it."""
        handle, path = tempfile.mkstemp(dir=self._drafts)
        return handle, Path(path)

    async def grow(self, more: int) -> None:
        """So many bytes more lie in drafts; make room for them. Who ends a draft takes them from ``drafting``."""
        self.drafting += more
        await self._shrink()

    async def keep(self, name: str, draft: Path) -> Path:
        """Take a finished draft into the cache under that name, and make room for it.

        Readers that have it open, or anything that goes, read on: a file's content is never changed.
        """
        path = self._path(name)
        await self._count(name, await asyncio.to_thread(_move, draft, path))
        return path

    async def write(self, name: str, content: bytes) -> None:
        """Keep a small file at once."""

        def store() -> int:
            handle, draft = self.draft()
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            return _move(draft, self._path(name))

        await self._count(name, await asyncio.to_thread(store))

    async def _count(self, name: str, size: int) -> None:
        self.size += size - self._sizes.pop(name, 0)
        self._sizes[name] = size
        await self._shrink(spare=name)

    def write_soon(self, name: str, content: bytes) -> None:
        """Keep a small file, and let nobody wait for it; if it cannot be kept, a line in the log says why."""

        async def write() -> None:
            try:
                await self.write(name, content)
            except OSError as error:
                _log.warning("A page could not be kept: %s", error.strerror)

        task = asyncio.create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _shrink(self, spare: str = "") -> None:
        gone = []
        for name in list(self._sizes):
            if self.size + self.drafting <= self.limit:
                break
            if name != spare:
                self.size -= self._sizes.pop(name)
                gone.append(self._path(name))
        if gone:
            await asyncio.to_thread(_remove, gone)

    def _path(self, name: str) -> Path:
        return self.root / name[:2] / name

    def _scan(self) -> list[tuple[str, int]]:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._drafts.mkdir(mode=0o700, exist_ok=True)
        _remove(list(self._drafts.iterdir()))
        found = []
        for path in self.root.glob("??/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, path.name, max(status.st_size, _BLOCK)))
        return [(name, size) for _, name, size in sorted(found)]


def _touch(path: Path) -> bool:
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _move(draft: Path, path: Path) -> int:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft.replace(path)
    return max(path.stat().st_size, _BLOCK)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
