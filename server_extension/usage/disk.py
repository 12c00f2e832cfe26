"""What the volumes of a launch hold: room that is left (cheap), and what takes the space (a walk, bounded in time)."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: seconds and entries that one walk may take; what is larger is not known, rather than a load on the volume
WALK_SECONDS, WALK_ENTRIES = 60.0, 1_000_000
#: after so many entries the walk lets others at the disk and the processor
_PAUSE_EVERY, _PAUSE = 500, 0.005
#: a volume with less room than this, or than two percent where it is small, is full
FULL_BYTES, FULL_SHARE = 64 * 1024**2, 0.02
FULL_FILES = 16
#: folders deeper than this count into those above them
_DEPTH = 4
_MIN_SHOWN = 1024**2


@dataclass(frozen=True)
class Room:
    """A volume.

    Attributes:
        total, free: bytes, ``free`` of them for this user.
        files_free: how many more files it takes, or None where that has no limit.
    """

    total: int
    free: int
    files_free: int | None

    @property
    def full(self) -> bool:
        """Whether nothing worth speaking of can be saved there."""
        few_files = self.files_free is not None and self.files_free < FULL_FILES
        return few_files or self.free < min(FULL_BYTES, self.total * FULL_SHARE)


def room(folder: Path) -> Room:
    """The volume of a folder.

    Raises:
        OSError: it does not answer.
    """
    found = os.statvfs(folder)
    return Room(
        total=found.f_blocks * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        files_free=found.f_favail if found.f_files else None,
    )


@dataclass
class Survey:
    """What lies in a folder.

    Attributes:
        size: bytes on disk, a file with several names counted once.
        complete: whether the walk came to its end; if not, ``size`` is less than there is.
        entries: path below the folder -> bytes, of folders not too deep and of large files.
    """

    size: int = 0
    complete: bool = True
    entries: dict[str, int] = field(default_factory=dict)

    def largest(self, count: int = 5) -> list[tuple[str, int]]:
        """The folders and files that say most about where the space went, the largest first.

        A folder of which one entry makes more than half is replaced by its entries: ``data/raw/2024.parquet`` says more
        than ``data``.
        """
        chosen = dict(self._inside(""))
        while True:
            deeper = next((name for name in chosen if self._mostly_one(name)), None)
            if deeper is None:
                break
            del chosen[deeper]
            chosen |= self._inside(deeper)
        ranked = sorted(chosen.items(), key=lambda item: (-item[1], item[0]))
        return [(name, size) for name, size in ranked[:count] if size >= _MIN_SHOWN]

    def _inside(self, folder: str) -> dict[str, int]:
        return {name: size for name, size in self.entries.items() if name and os.path.dirname(name) == folder}

    def _mostly_one(self, folder: str) -> bool:
        return any(size * 2 > self.entries[folder] for size in self._inside(folder).values())


def survey(folder: Path, seconds: float = WALK_SECONDS, limit: int = WALK_ENTRIES) -> Survey:
    """Walk through a folder, without following links and without leaving its volume. Blocks: call it in a thread.

    Args:
        seconds: after which it stops; limit: entries after which it stops.
    """
    found, seen = Survey(), set[tuple[int, int]]()
    until = time.monotonic() + seconds
    for number, (path, entry) in enumerate(_walk(folder)):
        if number >= limit or time.monotonic() > until:
            found.complete = False
            break
        if number % _PAUSE_EVERY == _PAUSE_EVERY - 1:
            time.sleep(_PAUSE)
        if entry.st_nlink > 1 and not path.endswith("/"):
            if (entry.st_dev, entry.st_ino) in seen:
                continue
            seen.add((entry.st_dev, entry.st_ino))
        _count(found, path, entry.st_blocks * 512)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Paths below the folder, folders with a slash at the end, the shallow ones first."""
    try:
        device = os.stat(folder).st_dev
    except OSError:
        return
    waiting = deque([""])
    while waiting:
        below = waiting.popleft()
        try:
            entries = list(os.scandir(folder / below))
        except OSError:
            continue  # gone meanwhile, or closed to this user
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                inside = entry.is_dir(follow_symlinks=False) and found.st_dev == device
            except OSError:
                continue
            path = f"{below}{entry.name}"
            yield (f"{path}/" if inside else path), found
            if inside:
                waiting.append(f"{path}/")


def _count(found: Survey, path: str, size: int) -> None:
    found.size += size
    parts = path.split("/")  # a folder's last part is empty
    for depth in range(1, min(len(parts), _DEPTH + 1)):
        above = "/".join(parts[:depth])
        found.entries[above] = found.entries.get(above, 0) + size
    if parts[-1] and len(parts) <= _DEPTH + 1 and size >= _MIN_SHOWN:
        found.entries[path] = size
