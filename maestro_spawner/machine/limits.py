"""CPU and memory of local servers, held by cgroup v2 where the Hub may write it; where not, pages say so.

The Hub may write it as root, and where systemd gave it a subtree (``Delegate=yes``). All functions here block shortly.
"""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from pathlib import Path

from maestro_core.resources import Resources

ROOT = Path("/sys/fs/cgroup")
SERVERS, HUB = "maestro-servers", "maestro-hub"
NEEDED = frozenset({"cpu", "memory"})
USEFUL = frozenset({"pids"})
#: processes and threads of one server: far above what notebooks need, far below what ends a machine
MAX_PROCESSES = 4096
_PERIOD = 100_000  # microseconds, the kernel's default

NOT_ENFORCED = "The limits for cpu and memory are not enforced on this machine."


def limits_problem() -> str | None:
    """What pages say where limits are shown but do not hold, or None where they hold."""
    return None if servers_group() else NOT_ENFORCED


@lru_cache(maxsize=1)
def servers_group() -> Path | None:
    """The cgroup below which each server gets its own, made once; None where the Hub cannot have one."""
    try:
        base = _base()
        return None if base is None else _prepared(base)
    except OSError:
        return None


def make_group(parent: Path, launch_id: str, resources: Resources) -> Path:
    """A cgroup with the launch's amounts as hard limits.

    Raises:
        OSError: the kernel refuses it.
    """
    group = parent / launch_id
    group.mkdir(exist_ok=True)
    (group / "memory.max").write_text(str(resources.memory))
    with contextlib.suppress(OSError):  # a kernel without swap accounting, or without the pids controller
        (group / "memory.swap.max").write_text("0")
    with contextlib.suppress(OSError):
        (group / "pids.max").write_text(str(MAX_PROCESSES))
    (group / "cpu.max").write_text(f"{max(1000, int(resources.cpu * _PERIOD))} {_PERIOD}")
    return group


def ran_out_of_memory(parent: Path, launch_id: str) -> int | None:
    """The limit, in bytes, of a launch of whose processes the kernel killed one for it; None: it killed none."""
    group = parent / launch_id
    try:
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        return int((group / "memory.max").read_text()) if int(events.get("oom_kill", "0")) else None
    except (OSError, ValueError):
        return None


def remove_group(parent: Path, launch_id: str) -> None:
    """End what is left in a launch's cgroup, and remove it."""
    group = parent / launch_id
    with contextlib.suppress(OSError):  # gone, or a kernel before 5.14; its processes were ended anyway
        (group / "cgroup.kill").write_text("1")
    with contextlib.suppress(OSError):  # gone, or a process is still on its way out
        group.rmdir()


def _base() -> Path | None:
    """Where our groups may go: the top for root, else the Hub's own group if it is the Hub's to divide."""
    if not (ROOT / "cgroup.controllers").is_file():
        return None  # cgroup v1, or hybrid
    if os.geteuid() == 0:
        return ROOT
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    base = ROOT / own.strip().lstrip("/")
    if base.name == HUB and (base.parent / SERVERS).is_dir():
        base = base.parent  # the service, which the Hub moved out of the way with itself
    return base if os.access(base / "cgroup.subtree_control", os.W_OK) else None


def _prepared(base: Path) -> Path | None:
    if not _enable(base):
        return None
    group = base / SERVERS
    group.mkdir(exist_ok=True)
    return group if _enable(group) else None


def _enable(group: Path) -> bool:
    """Hand the controllers down; a group that holds processes must be emptied first, into a child of its own."""
    offered = set((group / "cgroup.controllers").read_text().split())
    if not offered >= NEEDED:
        return False
    control = group / "cgroup.subtree_control"
    if set(control.read_text().split()) >= NEEDED:
        return True
    inside = (group / "cgroup.procs").read_text().split() if (group / "cgroup.type").exists() else []
    if inside:
        if not _ours(inside):
            return False
        (group / HUB).mkdir(exist_ok=True)
        for pid in inside:
            (group / HUB / "cgroup.procs").write_text(pid)
    handed = sorted({*NEEDED, *(USEFUL & offered)})
    control.write_text(" ".join(f"+{controller}" for controller in handed))
    return True


def _ours(pids: list[str]) -> bool:
    """Whether these are the Hub and what it started: nobody else's shell is moved about."""
    parents = {}
    for pid in pids:
        stat = Path("/proc", pid, "stat").read_text(errors="replace").rpartition(")")[2].split()
        parents[pid] = stat[1]
    me = str(os.getpid())
    return all(pid == me or _descends(pid, me, parents) for pid in pids)


def _descends(pid: str, ancestor: str, parents: dict[str, str]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False
