"""Processes by number and start time: which are ours, which of them live, and how they end. Reads ``/proc`` (Linux).

A number alone says nothing after a reboot or a crash: it may be another's process by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

_POLL_SECONDS = 0.05
#: the worker's module, which stands in the command lines of jobs
JOBS = "server_extension.jobs"


@dataclass(frozen=True)
class Process:
    """One process of the machine's life.

    Attributes:
        pid: its number.
        started: its start in clock ticks since the boot (``/proc/<pid>/stat``, field 22).
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now, or None (also for one that has ended and waits to be reaped)."""
        fields = _stat(pid)
        return cls(pid, int(fields[19])) if fields and fields[0] not in ("Z", "X") else None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def send(self, number: int) -> None:
        """Send a signal, if it still is this process."""
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(self.pid)  # holds on to the process, so that its number cannot be given away
            try:
                if self.alive:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def command(self) -> list[str]:
        """Its command line; empty if it is gone."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
        except OSError:
            return []


def descendants(pid: int, without: Callable[[list[str]], bool] | None = None) -> list[Process]:
    """All processes below ``pid``, children before their children.

    Args:
        without: of a command line: whether this process and those below it are left out.
    """
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[Process] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(0), ()):
            process = Process.of(child)
            if without is not None and process is not None and without(process.command()):
                continue
            waiting.append(child)
            if process is not None:
                found.append(process)
    return found


def end(processes: Iterable[Process], grace_seconds: float) -> None:
    """End them: SIGTERM, and SIGKILL to those that are there after the grace time. Returns when all are gone."""
    left = [process for process in processes if process.alive]
    for process in left:
        process.send(signal.SIGTERM)
    left = wait_gone(left, grace_seconds)
    for process in left:
        process.send(signal.SIGKILL)
    wait_gone(left, 5.0)


def wait_gone(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Wait until they are gone; those that are not after ``seconds``."""
    left = list(processes)
    limit = time.monotonic() + seconds
    while left := [process for process in left if process.alive]:
        if time.monotonic() > limit:
            break
        time.sleep(_POLL_SECONDS)
    return left


class Record:
    """``run/processes.json``: what the run before started, for a start after it was killed.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: list[Process] | None = None

    def read(self) -> list[Process]:
        """What was recorded; nothing if there is no file or it cannot be read."""
        try:
            entries = json.loads(self._path.read_text())
            return [Process(int(entry["pid"]), int(entry["started"])) for entry in entries]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def write(self, processes: Iterable[Process]) -> None:
        """Keep these; the file is replaced as a whole, and only when they changed."""
        wanted = sorted(processes, key=lambda process: process.pid)
        if wanted == self._written:
            return
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps([asdict(process) for process in wanted]))
        draft.replace(self._path)
        self._written = wanted

    def clear(self) -> None:
        """Nothing of ours runs."""
        self._path.unlink(missing_ok=True)
        self._written = None


def parts_of(hub: Process) -> list[Process]:
    """The Hub, its proxy and its services with what they started, but no notebook server and no job: those may outlive
    a Hub."""
    below = descendants(hub.pid, _is_job)
    tops = [process for process in below if _is_part(process.command())]
    found = {hub.pid: hub} if hub.alive else {}
    for top in tops:
        found |= {process.pid: process for process in (top, *descendants(top.pid, _is_job))}
    return list(found.values())


def _is_part(command: list[str]) -> bool:
    return any(word.startswith("maestro_hub_services.") or word.endswith("configurable-http-proxy") for word in command)


def _is_job(command: list[str]) -> bool:
    return JOBS in command


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on (the name before them may hold anything)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
