"""What a job says, on its way to the service: kept while that is away, sent in order, each byte once."""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable

from .service import NotAnswered

#: characters of one piece; bytes that wait at most: the service keeps no more of an attempt anyway
PIECE, MOST_WAITING = 48 * 1024, 1024 * 1024


class Spool:
    """The log of one attempt.

    Args:
        send: takes a piece and the byte at which it begins.
    """

    def __init__(self, send: Callable[[int, str], Awaitable[None]]) -> None:
        self._send = send
        self._waiting = bytearray()
        self._begins = 0

    def say(self, text: str) -> None:
        """Add text; of what waits the oldest goes when it is too much."""
        self._waiting += text.encode("utf-8", "replace")
        if (over := len(self._waiting) - MOST_WAITING) > 0:
            while over < len(self._waiting) and self._waiting[over] & 0xC0 == 0x80:
                over += 1  # not in the middle of a character
            del self._waiting[:over]
            self._begins += over

    @property
    def empty(self) -> bool:
        """Whether all of it is at the service."""
        return not self._waiting

    async def deliver(self) -> None:
        """Send what waits.

        Raises:
            NotAnswered: the service does not answer; what is not there yet waits on.
        """
        while self._waiting:
            begins, text = self._begins, _whole(self._waiting[:PIECE])
            try:
                await self._send(begins, text)
            except NotAnswered as error:
                if not error.refused or error.over:
                    raise
            sent = begins + len(text.encode()) - self._begins
            if sent > 0:
                del self._waiting[:sent]
                self._begins += sent


def _whole(data: bytes | bytearray) -> str:
    """The characters that are complete."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(data))
