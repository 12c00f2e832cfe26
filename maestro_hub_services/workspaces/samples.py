"""Samples of usage between a heartbeat and the store: written together, so that a heartbeat costs no transaction.

What is here and not yet written when the process is killed is lost: some seconds of figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from maestro_core.usage import Heartbeat
from maestro_hub_services.store import UsageRow

#: seconds; samples that come faster are not kept
CLOSEST = 5.0
#: samples that wait; beyond that the oldest go (the store does not answer)
MAX_WAITING = 20_000


@dataclass(frozen=True)
class _Seen:
    at: float
    cpu_seconds: float


class Samples:
    """The last look at each launch, and what waits to be written."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._busy: dict[str, float] = {}
        self._rows: list[UsageRow] = []
        self._storage: dict[str, tuple[int, float]] = {}

    def note(self, launch_id: str, beat: Heartbeat, at: float) -> None:
        """Take a heartbeat.

        Args:
            at: seconds of the epoch, of our own clock.
        """
        if beat.busy:
            self._busy[launch_id] = at
        before = self._seen.get(launch_id)
        if before is not None and 0 <= at - before.at < CLOSEST:
            return
        self._seen[launch_id] = _Seen(at, beat.cpu_seconds)
        passed = max(0.0, at - before.at) if before else 0.0
        used = max(0.0, beat.cpu_seconds - before.cpu_seconds) if before and passed else 0.0
        loads = [gpu.utilization for gpu in beat.gpus if gpu.utilization is not None]
        row = UsageRow(
            launch_id=launch_id,
            span=0,
            at=int(at),
            samples=1,
            seconds=passed,
            cpu_seconds=used,
            memory=beat.memory,
            memory_peak=beat.memory,
            gpu=sum(loads) / len(loads) if loads else None,
            gpu_memory=sum(gpu.memory for gpu in beat.gpus),
            busy=1.0 if beat.busy else 0.0,
        )
        self._rows.append(row)
        del self._rows[:-MAX_WAITING]

    def note_storage(self, workspace_id: str, used: int, at: float) -> None:
        """What a workspace's files take, as one of its servers measured it."""
        self._storage[workspace_id] = (used, at)

    def take(self) -> tuple[list[UsageRow], dict[str, tuple[int, float]]]:
        """All that waits, to be written; bytes and moment of each measured workspace."""
        rows, storage = self._rows, self._storage
        self._rows, self._storage = [], {}
        return rows, storage

    def busy_at(self, launch_id: str) -> float | None:
        """When something was last seen to work, in seconds of the epoch, as far as this process knows."""
        return self._busy.get(launch_id)

    def keep_only(self, launch_ids: set[str]) -> None:
        """Forget the launches that have ended."""
        for known in (self._seen, self._busy):
            for launch_id in known.keys() - launch_ids:
                del known[launch_id]
