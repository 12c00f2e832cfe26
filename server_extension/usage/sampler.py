"""One sample of what this server uses, from its cgroup where it has one of its own, else from its processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroup
from .processes import PROC, Table

#: of a core; what a program uses that does no more than wait is well below
WORKING = 0.01


@dataclass(frozen=True)
class Programs:
    """What kernels and terminals are: the pid of each by its id or name."""

    kernels: Mapping[str, int] = field(default_factory=dict)
    terminals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What the server used at one moment.

    Attributes:
        cpu_seconds: since the server's start; never less than in the sample before.
        memory: bytes; limit: bytes or None; peak: the most so far, 0 where nobody says.
        enforced: whether a cgroup of the server's own says so; else memory is an estimate and nothing limits it.
        oom_kills: of this cgroup, else of the machine; None where the kernel does not say.
        kernels: kernel id -> bytes that it and what it started hold.
        working: whether a program that a kernel or a terminal started has used CPU since the sample before.
    """

    cpu_seconds: float = 0.0
    memory: int = 0
    limit: int | None = None
    peak: int = 0
    enforced: bool = False
    oom_kills: int | None = None
    kernels: Mapping[str, int] = field(default_factory=dict)
    working: bool = False


class Sampler:
    """Takes samples; remembers of the last one what must not go back.

    Args:
        proc: where /proc is, for tests.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._me = os.getpid()
        table = Table.read(proc)
        ancestors, tree = table.ancestors(self._me), table.tree(self._me)
        # At its start, when nothing runs yet: with nobody else to be seen, this is a sandbox or pod of the server's
        # own, and a program that loses its parent there is still its own.
        alone = set(table.processes) <= {*ancestors, *tree}
        self._root = ancestors[-1] if alone and ancestors else self._me
        own = {*ancestors, *tree}
        self._memory = cgroup.find("memory", table, own, proc)
        self._cpu = cgroup.find("cpuacct", table, own, proc)
        self._cpu_seconds = 0.0
        self._cpu_before: float | None = None
        self._programs: dict[str, float] = {}
        self._programs_at = 0.0

    def memory(self) -> cgroup.MemoryReading | None:
        """The memory controller alone, which is cheap; None without one."""
        if self._memory is None:
            return None
        try:
            return self._memory.memory()
        except (OSError, ValueError):
            return None

    def oom_kills(self) -> int | None:
        """How often the kernel stopped a process for want of memory: here, or without a cgroup on this machine."""
        if self._memory is not None:
            reading = self.memory()
            return reading.oom_kills if reading else None
        try:
            lines = (self._proc / "vmstat").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)

    def take(self, programs: Programs, now: float) -> Sample:
        """Take a sample; about 2 ms with twenty processes.

        Args:
            programs: the kernels and terminals of now.
            now: a monotonic clock, seconds.
        """
        table = Table.read(self._proc)
        tree = table.tree(self._root)
        reading = self.memory()
        return Sample(
            cpu_seconds=self._cpu_so_far(table, tree),
            memory=reading.used if reading else table.memory(tree),
            limit=reading.limit if reading else None,
            peak=reading.peak if reading else 0,
            enforced=reading is not None,
            oom_kills=reading.oom_kills if reading else self.oom_kills(),
            kernels={name: table.memory(table.tree(pid)) for name, pid in programs.kernels.items()},
            working=self._working(table, programs, now),
        )

    def _cpu_so_far(self, table: Table, tree: set[int]) -> float:
        """The sum of what was added from sample to sample; a smaller total (a child nobody waited for) adds nothing."""
        total: float | None = None
        if self._cpu is not None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                total = self._cpu.cpu_seconds()
        if total is None:
            total = table.cpu(tree)
        if self._cpu_before is None:
            self._cpu_seconds = total
        else:
            self._cpu_seconds += max(0.0, total - self._cpu_before)
        self._cpu_before = total
        return self._cpu_seconds

    def _working(self, table: Table, programs: Programs, now: float) -> bool:
        """A kernel's own process says by itself whether it is busy; a terminal's programs do not."""
        spent = {f"t/{name}": table.cpu(table.tree(pid)) for name, pid in programs.terminals.items()}
        spent |= {f"k/{name}": table.cpu(table.tree(pid) - {pid}) for name, pid in programs.kernels.items()}
        before, elapsed = self._programs, now - self._programs_at
        self._programs, self._programs_at = spent, now
        return any(name in before and seconds - before[name] > WORKING * elapsed for name, seconds in spent.items())
