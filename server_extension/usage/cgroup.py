"""This server's own cgroup, version 2 or 1, if it has one: a container, a pod, or a sandbox with limits.

A cgroup that other people's processes are in as well (a login session, the Hub's container) says nothing about this
server, and is not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from .processes import PROC, Table

#: what version 1 calls "no limit" is the largest page-aligned number; nothing real is near it
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class MemoryReading:
    """What the memory controller says.

    Attributes:
        used: bytes without the page cache that can be dropped at once, as kubelet counts (its "working set").
        limit: bytes, or None.
        peak: the most that was ever in use, page cache included; 0 where the kernel does not say.
        oom_kills: how often the kernel stopped a process here for want of memory; None where it does not say.
    """

    used: int
    limit: int | None
    peak: int
    oom_kills: int | None


@dataclass(frozen=True)
class Controller:
    """One controller of this server's own cgroup.

    Attributes:
        folder: its directory.
        version: 1 or 2.
    """

    folder: Path
    version: int

    def memory(self) -> MemoryReading:
        """Read the memory controller.

        Raises:
            OSError, ValueError: it cannot be read (any more).
        """
        return _memory_2(self.folder) if self.version == 2 else _memory_1(self.folder)

    def cpu_seconds(self) -> float:
        """CPU time since the group was made.

        Raises:
            OSError, ValueError: it cannot be read (any more).
        """
        if self.version == 2:
            return _table(self.folder / "cpu.stat")["usage_usec"] / 1e6
        return int((self.folder / "cpuacct.usage").read_text()) / 1e9


def find(controller: str, table: Table, own: Collection[int], proc: Path = PROC) -> Controller | None:
    """This server's own group of a controller.

    Args:
        controller: ``memory`` or ``cpuacct`` (which is in ``cpu`` in version 2).
        table: the processes.
        own: pids that belong to this server: itself, what it started, and what started it alone.
    """
    file_2 = {"memory": "memory.current", "cpuacct": "cpu.stat"}[controller]
    for version, folder in _places(controller, proc):
        needed = file_2 if version == 2 else {"memory": "memory.usage_in_bytes", "cpuacct": "cpuacct.usage"}[controller]
        if (folder / needed).is_file() and _is_own(folder, table, own):
            return Controller(folder, version)
    return None


def _is_own(folder: Path, table: Table, own: Collection[int]) -> bool:
    """Whether this process is in it, and only processes of this server; those of other namespaces show as 0."""
    try:
        members = {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    except (OSError, ValueError):
        return False
    # one that was started or ended since the table was read is no stranger
    strangers = {pid for pid in members - set(own) if pid == 0 or pid in table.processes}
    return os.getpid() in members and not strangers


def _places(controller: str, proc: Path) -> Iterator[tuple[int, Path]]:
    """Version and directory where this process's group may be; a container sees its own group at the mount's top."""
    paths = dict(_own_paths(proc))
    for version, name, root, mount in _mounts(proc):
        if version == 1 and controller not in name:
            continue
        path = paths.get(controller if version == 1 else "")
        if path is None:
            continue
        below = os.path.relpath(path, root) if (path + "/").startswith(root.rstrip("/") + "/") else "."
        yield version, Path(os.path.normpath(os.path.join(mount, below)))
        if below != ".":
            yield version, Path(mount)


def _own_paths(proc: Path) -> Iterator[tuple[str, str]]:
    """Controller -> path (cgroups(7)): ``4:memory:/kubepods/...``, or ``0::/...`` of version 2, which has no name."""
    for line in _lines(proc / "self/cgroup"):
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            yield name, path


def _mounts(proc: Path) -> Iterator[tuple[int, set[str], str, str]]:
    """Version, controllers, root and place of each mounted hierarchy (proc(5), mountinfo)."""
    for line in _lines(proc / "self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if kind[0] in ("cgroup", "cgroup2"):
            root, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text) for text in fields[3:5])
            yield (2 if kind[0] == "cgroup2" else 1), set(kind[2].split(",")), root, place


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _memory_2(folder: Path) -> MemoryReading:
    used = int((folder / "memory.current").read_text()) - _table(folder / "memory.stat").get("inactive_file", 0)
    limit = (folder / "memory.max").read_text().strip() if (folder / "memory.max").exists() else "max"
    peak = folder / "memory.peak"  # Linux 5.19
    return MemoryReading(
        used=max(0, used),
        limit=None if limit == "max" else int(limit),
        peak=int(peak.read_text()) if peak.exists() else 0,
        oom_kills=_table(folder / "memory.events").get("oom_kill") if (folder / "memory.events").exists() else None,
    )


def _memory_1(folder: Path) -> MemoryReading:
    used = int((folder / "memory.usage_in_bytes").read_text())
    limit = int((folder / "memory.limit_in_bytes").read_text())
    return MemoryReading(
        used=max(0, used - _table(folder / "memory.stat").get("total_inactive_file", 0)),
        limit=None if limit >= _NO_LIMIT else limit,
        peak=int((folder / "memory.max_usage_in_bytes").read_text()),
        oom_kills=_table(folder / "memory.oom_control").get("oom_kill"),  # Linux 4.13
    )


def _table(path: Path) -> dict[str, int]:
    """A file of names and numbers, one a line."""
    return {name: int(value) for name, value in (line.split(None, 1) for line in path.read_text().splitlines())}
