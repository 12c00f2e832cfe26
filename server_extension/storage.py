"""The volumes of a launch: how much the workspace takes, and what to delete when one is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from .memory import amount
from .usage import disk

#: heartbeats from the start to the first walk through the workspace, and from one to the next
FIRST_WALK, NEXT_WALK = 1, 20
#: seconds that the walk for a notice may take: somebody waits for it
_QUICK_WALK = 15.0


class Storage:
    """The workspace's folder and the home.

    Args:
        workspace, home: their folders.
        title: the workspace's name.
        seconds: from one heartbeat to the next; every twentieth one brings a new figure.
        tell: shows a sentence under an id, or with None takes it back.
    """

    def __init__(
        self, workspace: Path, home: Path, title: str, seconds: float, tell: Callable[[str, str | None], None]
    ) -> None:
        self._volumes = {
            "full-workspace": (workspace, f"the workspace {title}"),
            "full-home": (home, "your private home (~ in a terminal)"),
        }
        self._workspace = workspace
        self._seconds = seconds
        self._tell = tell
        self._full: set[str] = set()
        self.workspace_bytes: int | None = None

    async def measure(self) -> None:
        """Measure the workspace for as long as the server runs."""
        await asyncio.sleep(FIRST_WALK * self._seconds)
        while True:
            found = await asyncio.to_thread(disk.survey, self._workspace)
            self.workspace_bytes = found.size if found.complete else None
            await asyncio.sleep(NEXT_WALK * self._seconds)

    async def watch(self) -> None:
        """Look for full volumes, from the start on, for as long as the server runs."""
        while True:
            await self.look()
            await asyncio.sleep(self._seconds)

    async def look(self) -> None:
        """Tell of each volume that has become full, and take it back when there is room again."""
        for name, (folder, title) in self._volumes.items():
            try:
                room = await asyncio.to_thread(disk.room, folder)
            except OSError:
                continue
            if room.full and name not in self._full:
                self._full.add(name)
                found = await asyncio.to_thread(disk.survey, folder, _QUICK_WALK)
                self._tell(name, full_sentence(title, room, found))
            elif not room.full and name in self._full:
                self._full.discard(name)
                self._tell(name, None)


def full_sentence(title: str, room: disk.Room, found: disk.Survey) -> str:
    """What is full, and the five folders and files that take most."""
    what = "holds as many files as it can" if room.free and not _few_bytes(room) else "is full"
    largest = ", ".join(f"{name} ({amount(size)})" for name, size in found.largest())
    where = f" Most space is taken by {largest}." if largest else " What fills it lies elsewhere on the same disk."
    return f"The volume of {title} {what} ({amount(room.total)}): delete something before you save.{where}"


def _few_bytes(room: disk.Room) -> bool:
    return disk.Room(room.total, room.free, None).full
