"""What ends a sweep: a program that writes the summary into the parent run, and ends that run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

from .order import SUCCEEDED, End, Order

#: characters of the program's last line that a reason quotes
_QUOTED = 300


class Summary:
    """The summary of a sweep, written by :mod:`.sweep_summary` in a process of its own.

    It runs in the image's Python, not in the workspace's: what somebody installed there does not break it.

    Args:
        order: of kind ``sweep-summary``. wrote: takes what it prints.
    """

    def __init__(self, order: Order, wrote: Callable[[str], None]) -> None:
        self._order, self._wrote = order, wrote
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> End:
        """Write it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "server_extension.jobs.sweep_summary",
            str(self._order.parent_run),
            env={**os.environ, "MPLBACKEND": "agg"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await self._process.communicate(self._order.content.encode())
        text = printed.decode("utf-8", "replace")
        self._wrote(text)
        if self._process.returncode == 0:
            return SUCCEEDED
        last = [line for line in text.splitlines() if line.strip()][-1:] or ["it said nothing"]
        return End("failed", f"The summary was not written: {last[0][-_QUOTED:]}".rstrip(".") + ".")

    async def interrupt(self) -> None:
        """End it: what it wrote stays, and it can be run again."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
