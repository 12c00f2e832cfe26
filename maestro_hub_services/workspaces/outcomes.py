"""Tells the request that started a server what the admission decided on it, in words the Hub's answer loses.

The Hub's start-server API carries a refusal's sentence, not its code and details; and it may answer "pending" before
the spawner has asked for a plan. Both ends are in this process, because one process alone opens the store.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from maestro_core.errors import MaestroError


class Outcomes:
    """One set of waiting requests a server."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], set[asyncio.Future[str | MaestroError]]] = defaultdict(set)

    @contextmanager
    def expect(self, user: str, server_name: str) -> Iterator[asyncio.Future[str | MaestroError]]:
        """A future of what is decided next on this server: a launch's id, or the refusal."""
        key = (user, server_name)
        future: asyncio.Future[str | MaestroError] = asyncio.get_running_loop().create_future()
        self._waiting[key].add(future)
        try:
            yield future
        finally:
            future.cancel()
            self._waiting[key].discard(future)
            if not self._waiting[key]:
                del self._waiting[key]

    def tell(self, user: str, server_name: str, outcome: str | MaestroError) -> None:
        """Hand the decision to everyone who waits for it."""
        for future in self._waiting.get((user, server_name), ()):
            if not future.done():
                future.set_result(outcome)
