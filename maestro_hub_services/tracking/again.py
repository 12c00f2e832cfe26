"""A loop beside MLflow: what it does may fail, and is done again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("maestro.tracking")


async def for_ever(once: Callable[[], Awaitable[None]], what: str, seconds: float) -> None:
    """Do something again and again, until it is cancelled.

    Args:
        what: before "are looked at later" in the log; said once for all of an outage: the service may be starting.
        seconds: the pause between two times.
    """
    failing = False
    while True:
        try:
            await once()
            failing = False
        except Exception as error:
            level = logging.DEBUG if failing else logging.WARNING
            log.log(level, "%s are looked at later: %s", what, error or type(error).__name__)
            failing = True
        await asyncio.sleep(seconds)
