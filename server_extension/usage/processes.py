"""The processes that this server can see, and which of them are its own (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
        cpu: seconds of its own and of its children that ended and were waited for.
    """

    pid: int
    parent: int
    cpu: float


@dataclass(frozen=True)
class Table:
    """All processes that are visible here, at one moment."""

    processes: dict[int, Process]
    proc: Path = PROC

    @classmethod
    def read(cls, proc: Path = PROC) -> Table:
        """Read it; a process that ends meanwhile is left out."""
        pids = [int(entry) for entry in os.listdir(proc) if entry.isdigit()]
        found = (_process(proc, pid) for pid in pids)
        return cls({process.pid: process for process in found if process}, proc)

    def tree(self, root: int) -> set[int]:
        """A process and all that descend from it; empty if it has ended."""
        children: dict[int, list[int]] = {}
        for process in self.processes.values():
            children.setdefault(process.parent, []).append(process.pid)
        found: set[int] = set()
        waiting = [root] if root in self.processes else []
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += children.get(pid, [])
        return found

    def ancestors(self, pid: int) -> list[int]:
        """The parent, its parent, and so on, as far as they can be seen."""
        return list(self._ancestors(pid))

    def _ancestors(self, pid: int) -> Iterator[int]:
        seen = {pid}
        while (process := self.processes.get(pid)) and process.parent in self.processes and process.parent not in seen:
            pid = process.parent
            seen.add(pid)
            yield pid

    def cpu(self, pids: Iterable[int]) -> float:
        """Seconds of CPU time of these and of what they waited for."""
        return sum(self.processes[pid].cpu for pid in pids if pid in self.processes)

    def memory(self, pids: Iterable[int]) -> int:
        """Bytes that these hold: what is each one's own, and the largest of what they share.

        A child that was forked counts once more what it has not changed since; smaps would tell, and costs too much.
        """
        own, shared = 0, 0
        for pid in pids:
            anonymous, shmem = _resident(self.proc, pid)
            own += anonymous
            shared = max(shared, shmem)
        return own + shared


def _process(proc: Path, pid: int) -> Process | None:
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
        # the name is in brackets and may hold anything
        fields = text.rpartition(")")[2].split()
        return Process(pid, int(fields[1]), sum(map(int, fields[11:15])) / _TICKS)
    except (OSError, ValueError, IndexError):
        return None


def _resident(proc: Path, pid: int) -> tuple[int, int]:
    """Bytes of RssAnon and RssShmem."""
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return 0, 0
    values = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return _kilobytes(values.get("RssAnon")), _kilobytes(values.get("RssShmem"))


def _kilobytes(words: list[str] | None) -> int:
    return int(words[0]) * 1024 if words and words[0].isdigit() else 0
