"""Ctrl-C and its like, as something to wait for.

Not a ``threading.Event``: a signal's handler runs in the main thread, and may run while that thread holds the Event's
lock, which is then waited for by its own holder.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable


class Stop:
    """Counts the signals that ask for the end.

    Args:
        numbers: the signals; their handlers are replaced.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._asked = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in numbers:
            signal.signal(number, self._on_signal)

    @property
    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked > 0

    @property
    def hurry(self) -> bool:
        """Whether it was asked for more than once."""
        return self._asked > 1

    def wait(self, seconds: float) -> bool:
        """Wait until the end is asked for, at most ``seconds``; whether it was."""
        if not self.asked:
            select.select([self._read], [], [], seconds)
        return self.asked

    def _on_signal(self, number: int, frame: object) -> None:
        self._asked += 1
        if self._asked == 1:
            os.write(self._write, b"!")
