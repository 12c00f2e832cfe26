"""What a start is doing now, for the Hub's progress page; any number of pages may look on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Steps:
    """The messages of one start, in order, each sent to every listener from the beginning."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._over = False
        self._changed = asyncio.Event()

    def add(self, progress: int, message: str) -> None:
        """Tell the next step.

        Args:
            progress: percent, 0 to 100.
            message: plain text; the Hub escapes it.
        """
        self._events.append({"progress": progress, "message": message})
        self._notify()

    def finish(self) -> None:
        """There is nothing more to tell."""
        self._over = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """All messages so far and to come, until :meth:`finish`."""
        told = 0
        while True:
            changed = self._changed
            while told < len(self._events):
                told += 1
                yield dict(self._events[told - 1])
            if self._over:
                return
            await changed.wait()
