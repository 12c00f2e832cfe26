"""The volumes of a launch: how much the workspace takes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .usage import disk

#: heartbeats from the start to the first walk through the workspace, and from one to the next
FIRST_WALK, NEXT_WALK = 1, 20


class Storage:
    """What the workspace's files take.

    Args:
        workspace: its folder.
        seconds: from one heartbeat to the next; every twentieth one brings a new figure.
    """

    def __init__(self, workspace: Path, seconds: float) -> None:
        self._workspace = workspace
        self._seconds = seconds
        self.workspace_bytes: int | None = None

    async def run(self) -> None:
        """Measure for as long as the server runs."""
        await asyncio.sleep(FIRST_WALK * self._seconds)
        while True:
            found = await asyncio.to_thread(disk.survey, self._workspace)
            self.workspace_bytes = found.size if found.complete else None
            await asyncio.sleep(NEXT_WALK * self._seconds)
