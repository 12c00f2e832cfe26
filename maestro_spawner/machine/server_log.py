"""What a server writes: one file each, of which the newest part is kept.

The server holds the file itself, so that it writes on while the Hub is away; the Hub cuts it as it polls. All functions
read or write files, and are for threads.
"""

from __future__ import annotations

import os
from pathlib import Path

#: bytes beyond which the file is cut; what was written last before that is kept beside it
LIMIT = 8 * 1024**2
KEPT = 1024**2
#: bytes at the end in which the last lines are looked for
TAIL = 8 * 1024


def begin(path: Path) -> int:
    """An empty file to append to, for its owner alone; returns the descriptor."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before(path).unlink(missing_ok=True)
    # appending: after a cut the server goes on at the new end, not where it was
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def before(path: Path) -> Path:
    """Where the end of what was cut off is kept."""
    return path.with_name(f"{path.name}.1")


def cut(path: Path) -> bool:
    """Keep the end of a file that has grown beyond :data:`LIMIT` beside it and empty it; whether it was so."""
    try:
        if path.stat().st_size <= LIMIT:
            return False
        end = _end(path, KEPT)
        handle = os.open(before(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as kept:
            kept.write(end)
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines, or none where there is no file; however large it is, little of it is read."""
    try:
        return _end(path, TAIL).decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def _end(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)
