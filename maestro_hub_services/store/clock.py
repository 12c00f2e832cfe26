"""The time and the ids of the store, in one place so that tests can look at what they get."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime

#: seconds by which the wall clock may leave the steady one before it is called a step
STEP_SECONDS = 2.0


#: what is read; a test's own clocks stand here instead
read_wall, read_steady = time.time, time.monotonic


def wall() -> float:
    """Seconds of the epoch. The clock that people see; it can be set."""
    return read_wall()


def steady() -> float:
    """Seconds that nobody can set."""
    return read_steady()


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.fromtimestamp(wall(), UTC)


def new_id(prefix: str) -> str:
    """A random id that starts with a letter (it names directories and labels): ``w-3f0c...``, 80 random bits."""
    return f"{prefix}-{secrets.token_hex(10)}"


class StepWatch:
    """Tells when the wall clock was set: it then has moved by another amount than the steady one."""

    def __init__(self) -> None:
        self._offset = wall() - steady()

    def step(self) -> tuple[float, float] | None:
        """The old clock's time of this moment and the new one's, or None when it was not set."""
        before, after = steady() + self._offset, wall()
        return None if abs(after - before) < STEP_SECONDS else (before, after)

    def accept(self, step: tuple[float, float]) -> None:
        """The step is dealt with."""
        self._offset += step[1] - step[0]
