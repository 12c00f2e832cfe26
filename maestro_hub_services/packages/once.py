"""Work that many want at the same time is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def shared(running: dict[str, asyncio.Task[T]], key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Wait for the task that runs under ``key``, started now if there is none.

    One who gives up waiting does not end it for the others.

    Raises:
        Exception: what the task raised, to everybody who waits.
    """
    task = running.get(key)
    if task is None:
        task = running[key] = asyncio.create_task(start())
        task.add_done_callback(lambda done: _forget(running, key, done))
    return await asyncio.shield(task)


def _forget(running: dict[str, asyncio.Task[T]], key: str, task: asyncio.Task[T]) -> None:
    running.pop(key, None)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain when nobody waited to the end
