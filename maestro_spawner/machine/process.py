"""Processes of this machine by number and start time, so that a number that was given again is nobody of ours."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, past or present.

    Attributes:
        pid: its number.
        started: clock ticks between boot and its start (``/proc/<pid>/stat``, field 22).
        boot: the boot that the ticks are counted from.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now, or None."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, int(stat[19]), boot_id())

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        if self.boot != boot_id():
            return False
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started and stat[0] not in ("Z", "X")

    def signal(self, number: int) -> bool:
        """Send a signal.

        Returns:
            False if the process is gone.
        """
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> bool:
        """SIGKILL; see :meth:`signal`."""
        return self.signal(signal.SIGKILL)

    def name(self) -> str:
        """Of its program, shortened by the kernel; empty if it is gone."""
        try:
            name = (_PROC / str(self.pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            return ""
        return name if self.alive() else ""

    def children(self) -> list[Process]:
        """Its children, the oldest first."""
        found = [
            child for pid in _pids() if (stat := _stat(pid)) and int(stat[1]) == self.pid and (child := Process.of(pid))
        ]
        return sorted(found, key=lambda child: (child.started, child.pid))

    def descendants(self) -> list[Process]:
        """All processes below it; of those that lost their parent, the ones whose new parent is among them."""
        below: dict[int, list[int]] = {}
        for pid in _pids():
            if stat := _stat(pid):
                below.setdefault(int(stat[1]), []).append(pid)
        found, waiting = [], [self.pid]
        while waiting:
            children = below.get(waiting.pop(), [])
            waiting += children
            found += [process for pid in children if (process := Process.of(pid))]
        return found

    def as_json(self) -> dict[str, Any]:
        """For a Hub's state."""
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @classmethod
    def from_json(cls, data: object) -> Process | None:
        """Read :meth:`as_json` back; None for anything else."""
        if not isinstance(data, Mapping):
            return None
        pid, started, boot = data.get("pid"), data.get("started"), data.get("boot")
        if isinstance(pid, int) and isinstance(started, int) and isinstance(boot, str) and pid > 1:
            return cls(pid, started, boot)
        return None


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The kernel's name of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def with_variable(name: str, value: str) -> list[Process]:
    """Processes whose environment was given ``name=value`` when they started; those of others cannot be seen."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in _pids():
        try:
            given = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in given and (process := Process.of(pid)) and pid != os.getpid():
            found.append(process)
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir(_PROC) if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/<pid>/stat`` from the state on (the command's name may hold spaces and brackets)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
