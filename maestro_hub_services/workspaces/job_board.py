"""What the queue knows for as long as the service runs: why jobs wait, which start, when their workers were heard.

All of it can be lost: the next look at the store and at the runner finds it out again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class JobBoard:
    """Kept by the loops of jobs.

    Attributes:
        waits: by job id, the sentence why it does not run yet.
        starting: launches that a task of this process starts.
        heard: by launch id, when its worker last gave a sign of life.
        missing: by launch id, since when the runner does not know it (seconds of the steady clock).
        tasks: starts and stops under way, by what they are about.
    """

    waits: dict[str, str] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)
    heard: dict[str, datetime] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        """Something changed that a waiting job may wait for."""
        self._bell.set()

    async def wait(self, seconds: float) -> None:
        """Until that, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        self._bell.clear()

    def begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the loop, once at a time under each name."""
        if name in self.tasks:
            work.close()
            return
        task = asyncio.ensure_future(work)
        self.tasks[name] = task
        task.add_done_callback(lambda _: self.tasks.pop(name, None))

    async def close(self) -> None:
        """Stop what is under way; jobs go on."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
