"""What bubblewrap reports (``--json-status-fd``): the number of the sandbox's first process, seen from outside."""

from __future__ import annotations

import asyncio
import json
import os


class Report:
    """A pipe that bubblewrap writes to. It stays open: bubblewrap writes the exit code there at the end."""

    def __init__(self) -> None:
        self._reading, self.descriptor = os.pipe()

    async def first_process(self, seconds: float) -> int | None:
        """Wait for the number.

        Args:
            seconds: how long at most.

        Returns:
            the process's number, or None if bubblewrap failed or did not say it in time.
        """
        os.close(self.descriptor)  # bubblewrap has it now; else its end would not be seen
        self.descriptor = -1
        os.set_blocking(self._reading, False)
        try:
            return await asyncio.wait_for(self._read(), seconds)
        except TimeoutError:
            return None

    async def _read(self) -> int | None:
        said = b""
        while True:
            data = await self._next()
            if not data:
                return None
            said += data
            for line in said.split(b"\n")[:-1]:
                number = _child(line)
                if number is not None:
                    return number

    async def _next(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._reading, _done, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._reading)
        return os.read(self._reading, 4096)

    def close(self) -> None:
        """Close what is open; more than once is allowed."""
        for descriptor in (self.descriptor, self._reading):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._reading = -1


def _child(line: bytes) -> int | None:
    try:
        number = json.loads(line).get("child-pid")
    except (ValueError, AttributeError):
        return None
    return number if isinstance(number, int) else None


def _done(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
