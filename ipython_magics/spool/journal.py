"""One process's journal: calls for MLflow in the order in which they were made, until they are sent.

A journal is a folder, so that what belongs together goes together:

``lock``     locked by the process that it belongs to; who can lock it, finds that process ended
``owner``    JSON: which kernel, launch and process that is
``calls``    a line a record: CRC-32 in hex, a blank, JSON
``sent``     how many bytes of ``calls`` MLflow has; none if it is missing
``runs``     a line a run: ``+id`` begun here, ``-id`` ended here; ``bye`` the process ended as it meant to
``files``    copies of artifacts

What a process has written outlives it; what is not on the disk when the machine fails is lost (synced once a second). A
torn or damaged line is skipped. Where a file cannot be written, ``sent`` says too little, never too much: what is sent
again changes nothing (``sender``), what is passed over is lost.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: bytes of calls and of copied files that one journal holds; bytes that stay free on the disk
MAX_CALLS, MAX_FILES, LEAST_FREE = 128 * 1024 * 1024, 1024 * 1024 * 1024, 64 * 1024 * 1024
#: bytes of one record
MAX_RECORD = 16 * 1024 * 1024


#: those of this process: a lock of POSIX holds against others alone, and looking at it would let it go
_mine: set[Path] = set()


class JournalFull(Exception):
    """There is no room for another record."""


@dataclass(frozen=True)
class Entry:
    """A record that is to be sent.

    Attributes:
        end: the place behind it, for :meth:`Journal.mark_sent`.
    """

    record: Mapping[str, Any]
    end: int


class Journal:
    """A journal that this process has locked. Its methods may be called from several threads."""

    def __init__(self, place: Path, lock: int) -> None:
        self.place = place
        _mine.add(place)
        self._lock_file = lock
        self._lock = threading.Lock()
        self._calls = os.open(place / "calls", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._calls).st_size
        self._synced = self._size
        self._sent = min(_number(place / "sent"), self._size)
        self._unnamed = ""  # the copy whose record comes next
        self._files = sum(file.stat().st_size for file in self._copies())
        self._mend()

    @classmethod
    def create(cls, folder: Path, owner: Mapping[str, Any]) -> Journal:
        """A new journal of this process.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = folder / f"{os.getpid()}-{os.urandom(6).hex()}"
        # made under another name: nobody finds it before it is locked
        hidden = folder / f".{place.name}"
        hidden.mkdir(mode=0o700)
        if (lock := _locked(hidden)) is None:
            raise OSError(f"{hidden} cannot be locked")
        (hidden / "owner").write_text(json.dumps(dict(owner)))
        hidden.rename(place)
        return cls(place, lock)

    @classmethod
    def adopt(cls, place: Path) -> Journal | None:
        """The journal of another process that has ended; None if it has not, or if this is none.

        Raises:
            OSError: it cannot be read.
        """
        if place in _mine or not (place / "lock").is_file():
            return None
        lock = _locked(place)
        return cls(place, lock) if lock is not None else None

    @property
    def owner(self) -> dict[str, Any]:
        """Whose it is: ``kernel``, ``launch``."""
        try:
            found = json.loads((self.place / "owner").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a record.

        Raises:
            JournalFull: there is no room for it.
            OSError: it cannot be written.
        """
        text = json.dumps(record, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        with self._lock:
            self._unnamed = ""
            waiting = self._size - self._sent + len(line)
            if len(line) > MAX_RECORD or waiting > MAX_CALLS or self._size > 2 * MAX_CALLS or not _room(self.place):
                raise JournalFull
            written = os.write(self._calls, line)
            if written < len(line):
                os.ftruncate(self._calls, self._size)  # needs no room; the next record must not begin in this one
                raise JournalFull
            self._size += written

    def copy(self, file: Path) -> str:
        """Keep a copy of a file, whose record is the next one; the name to :meth:`file` it by.

        Raises:
            JournalFull: there is no room for it.
            OSError: it cannot be read or written.
        """
        size, name = file.stat().st_size, os.urandom(8).hex()
        with self._lock:
            if self._files + size > MAX_FILES or not _room(self.place, size):
                raise JournalFull
            self._files += size
            self._unnamed = name
        try:
            self.file(name).parent.mkdir(exist_ok=True, mode=0o700)
            shutil.copyfile(file, self.file(name))
        except BaseException:  # a full disk, or the user who interrupts the cell
            self.file(name).unlink(missing_ok=True)
            with self._lock:
                self._files -= size
                self._unnamed = ""
            raise
        return name

    def file(self, name: str) -> Path:
        """The copy of this name.

        Raises:
            ValueError: it is no name that :meth:`copy` gave.
        """
        if len(name) != 16 or not name.isalnum():
            raise ValueError(name)
        return self.place / "files" / name

    def entries(self, most: int) -> list[Entry]:
        """The next records that are to be sent; a damaged line counts as sent."""
        with self._lock:
            at, size = self._sent, self._size
        found: list[Entry] = []
        for line, end in _lines(self._calls, at, size):
            record = _record(line)
            if record is not None:
                found.append(Entry(record, end))
            elif not found:
                self.mark_sent(end)
            if len(found) >= most:
                break
        return found

    def mark_sent(self, end: int) -> None:
        """MLflow has everything up to ``end``; with everything sent, the file begins anew.

        Raises:
            OSError: that cannot be noted; it will be sent again, which changes nothing.
        """
        with self._lock:
            self._sent = end
            if self._sent < self._size or self._unnamed:
                _write(self.place / "sent", str(self._sent))
                return
            # first the place, by what needs no room on the disk: new calls below an old place would never be sent
            (self.place / "sent").unlink(missing_ok=True)
            os.ftruncate(self._calls, 0)
            self._size = self._sent = self._synced = self._files = 0
            shutil.rmtree(self.place / "files", ignore_errors=True)

    @property
    def waiting(self) -> bool:
        """Whether something is still to be sent."""
        with self._lock:
            return self._sent < self._size

    def sync(self) -> None:
        """Bring it to the disk, if there is anything new."""
        with self._lock:
            new, self._synced = self._synced < self._size, self._size
        if new:
            os.fsync(self._calls)

    def note(self, line: str) -> None:
        """A line of ``runs``.

        Raises:
            OSError: it cannot be written.
        """
        text = f"{line}\n".encode()
        with self._lock, (self.place / "runs").open("ab", buffering=0) as runs:
            before = os.fstat(runs.fileno()).st_size
            if runs.write(text) < len(text):
                runs.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_runs(self) -> list[str]:
        """Runs that were begun and not ended here; none of a process that ended as it meant to."""
        return open_runs(self.place)

    def remove(self) -> None:
        """Nothing of it is needed any more. It stays locked: a thread may still look into it."""
        shutil.rmtree(self.place, ignore_errors=True)

    def close(self) -> None:
        """Let it go, when nobody uses it in this process any more."""
        os.close(self._calls)
        os.close(self._lock_file)
        _mine.discard(self.place)

    def _copies(self) -> list[Path]:
        files = self.place / "files"
        return [file for file in files.iterdir() if file.is_file()] if files.is_dir() else []

    def _mend(self) -> None:
        """Take off a line that was cut off, so that the next record begins one; that needs no room on the disk."""
        if self._size and os.pread(self._calls, 1, self._size - 1) != b"\n":
            self._size = max((end for _, end in _lines(self._calls, 0, self._size)), default=0)
            os.ftruncate(self._calls, self._size)
            self._sent, self._synced = min(self._sent, self._size), self._size


def open_runs(place: Path) -> list[str]:
    """As :meth:`Journal.open_runs`, of a journal that somebody else may have locked."""
    found: dict[str, None] = {}
    try:
        lines = (place / "runs").read_text(errors="replace").split("\n")
    except OSError:
        return []
    for line in lines:
        if line == "bye":
            return []
        if line.startswith("+"):
            found[line[1:]] = None
        elif line.startswith("-"):
            found.pop(line[1:], None)
    return list(found)


def _locked(place: Path) -> int | None:
    """A descriptor that holds the lock (of POSIX: a forked child does not inherit it); None if another process does."""
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _room(place: Path, size: int = 0) -> bool:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize > LEAST_FREE + size


def _number(file: Path) -> int:
    try:
        return max(0, int(file.read_text()))
    except (OSError, ValueError):
        return 0


def _write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def _lines(descriptor: int, at: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Each whole line with the place behind it."""
    rest = b""
    while at < size:
        chunk = os.pread(descriptor, min(1024 * 1024, size - at), at)
        if not chunk:
            return
        at += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        end = at - len(rest) - sum(len(line) + 1 for line in whole)
        for line in whole:
            end += len(line) + 1
            yield line, end


def _record(line: bytes) -> dict[str, Any] | None:
    check, _, text = line.partition(b" ")
    try:
        found = json.loads(text) if int(check, 16) == zlib.crc32(text) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
