"""Answers of somebody else, kept for moments: asked again after 5 s, and for 5 minutes if nobody answers.

"At once" means within 5 s, so that is how long an answer counts. When the other side is away, what it said last counts
for 5 minutes; what it never said counts for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

FRESH_SECONDS = 5.0
AWAY_SECONDS = 300.0
#: after a failure a known key is not asked for again for this long, so that not every request waits for a time-out
PAUSE_SECONDS = 1.0

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Unreachable(Exception):
    """The other side did not answer, or answered that it cannot."""


@dataclass
class _Entry(Generic[V]):
    value: V
    asked: float
    failed: float = float("-inf")


class Fresh(Generic[K, V]):
    """A cache over one question; many askers of the same key wait for one answer.

    Args:
        size: how many keys are remembered.
        clock: seconds, monotonic.
    """

    def __init__(self, size: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The value of ``key``, at most 5 s old; at most 5 minutes if the other side is away.

        Args:
            ask: fetches it; raises :class:`Unreachable` when the other side is away.

        Raises:
            Unreachable: the other side is away and never spoke of this key (or too long ago).
        """
        entry = self._entries.get(key)
        known = entry is not None and self._clock() - entry.asked < AWAY_SECONDS
        if entry is not None and self._clock() - entry.asked < FRESH_SECONDS:
            return entry.value
        if entry is not None and known and self._clock() - entry.failed < PAUSE_SECONDS:
            return entry.value
        try:
            return await asyncio.shield(self._question(key, ask))
        except Unreachable:
            if entry is None or not known:
                raise
            entry.failed = self._clock()
            return entry.value

    def _question(self, key: K, ask: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._fetch(key, ask))
            task.add_done_callback(lambda done: self._forget_question(key, done))
        return task

    def _forget_question(self, key: K, task: asyncio.Task[V]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # every asker may have gone; then nobody else looks at it

    async def _fetch(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        asked = self._clock()
        value = await ask()
        self._entries[key] = _Entry(value, asked)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return value
