"""Wakes whoever waits for a launch's notices."""

from __future__ import annotations

import asyncio
import contextlib


class Bell:
    """One event a launch that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def ring(self, launch_id: str) -> None:
        """The notices of a launch may have changed."""
        for event in self._waiting.get(launch_id, ()):
            event.set()

    async def wait(self, launch_id: str, seconds: float) -> None:
        """Until it rings, or the time is over."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(launch_id, set())
        waiting.add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        finally:
            waiting.discard(event)
            if not waiting and self._waiting.get(launch_id) is waiting:
                del self._waiting[launch_id]
