"""Turns: each asker has a few downloads running, and the rest of theirs wait, so that nobody keeps others waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Hashable


class Turns:
    """Work of which each asker may have so much running.

    Work that several askers wait for runs as soon as one of them has a turn left.

    Args:
        limit: running at once, of one asker.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[str] = Counter()
        self._waiting: dict[Hashable, tuple[set[str], asyncio.Future[str]]] = {}

    def count(self, asker: str) -> int:
        """What runs or waits of one asker."""
        return self._running[asker] + sum(asker in askers for askers, _ in self._waiting.values())

    def ask(self, work: Hashable, asker: str) -> asyncio.Future[str]:
        """Stand in line with a piece of work; :meth:`taken` then waits for the turn."""
        turn: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[work] = ({asker}, turn)
        self._give()
        return turn

    def join(self, work: Hashable, asker: str) -> None:
        """Somebody else wants that work too."""
        if work in self._waiting:
            self._waiting[work][0].add(asker)
            self._give()

    @contextlib.asynccontextmanager
    async def taken(self, work: Hashable, turn: asyncio.Future[str]) -> AsyncIterator[None]:
        """Wait for the turn, and have it.

        Raises:
            Exception: what was set on the turn by who gave it up.
        """
        try:
            await turn
            yield
        finally:
            self._waiting.pop(work, None)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._running[turn.result()] -= 1
                self._running += Counter()  # leaves out who has none
            self._give()

    def _give(self) -> None:
        for work, (askers, turn) in list(self._waiting.items()):
            free = next((asker for asker in askers if self._running[asker] < self._limit), None)
            if free is not None and not turn.done():
                self._running[free] += 1
                del self._waiting[work]
                turn.set_result(free)
