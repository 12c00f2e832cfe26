"""Back-off after failed sign-ins: counters in the accounts database, so that a restart forgets nothing.

An attempt is counted before the password is looked at, so that parallel attempts cannot slip through, and taken back
when it succeeds. Names are counted whether or not an account exists. Keys are hashes: what people type into the wrong
field (passwords) is not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from .accounts import Accounts, throttle_table

FORGET_SECONDS = 3600.0


@dataclass(frozen=True)
class Limit:
    """After ``free`` failures the wait is 1 s, and doubles with each further one up to ``longest`` seconds."""

    free: int
    longest: float

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        over = failures - self.free
        return min(self.longest, 2.0 ** min(over - 1, 30)) if over > 0 else 0.0


#: what is counted, and how far. A name alone is slowed mildly, and not for a browser in which its owner has signed in
#: before: else anybody could lock anybody out.
LIMITS: dict[str, Limit] = {
    "name and address": Limit(free=5, longest=900),
    "name and device": Limit(free=5, longest=900),
    "name": Limit(free=50, longest=30),
    "address": Limit(free=100, longest=900),
    "sign-ups of address": Limit(free=20, longest=900),
}


class TooMany(Exception):
    """Refused without looking; ``seconds`` says how long to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"wait {seconds:.0f} s")
        self.seconds = max(1, round(seconds + 0.5))


class Throttle:
    """The counters. ``clock`` gives seconds since the epoch."""

    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.time) -> None:
        self._accounts = accounts
        self._clock = clock
        self._lock = asyncio.Lock()  # one Hub is one process: this makes look-and-count one step

    async def attempt(self, keys: dict[str, str]) -> None:
        """Count one attempt under each of ``keys`` (a kind of :data:`LIMITS` -> the text that is counted).

        Raises:
            TooMany: if one of them has to wait still; then nothing is counted.
        """
        now = self._clock()
        async with self._lock, self._accounts.begin() as db:
            await db.execute(sa.delete(throttle_table).where(throttle_table.c.last_at < now - FORGET_SECONDS))
            failures: dict[str, int] = {}
            for kind, text in keys.items():
                row = await self._row(db, _key(kind, text))
                if row and row.blocked_until > now:
                    raise TooMany(row.blocked_until - now)
                failures[kind] = (row.failures if row else 0) + 1
            for kind, count in failures.items():
                values = {
                    "failures": count,
                    "blocked_until": now + LIMITS[kind].wait(count),
                    "last_at": now,
                }
                statement = insert(throttle_table).values(key=_key(kind, keys[kind]), **values)
                await db.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))

    async def success(self, keys: dict[str, str]) -> None:
        """Take the attempt back: a person's own counters are cleared, an address keeps its other failures."""
        async with self._lock, self._accounts.begin() as db:
            for kind, text in keys.items():
                same = throttle_table.c.key == _key(kind, text)
                if kind == "address":
                    less = {"failures": throttle_table.c.failures - 1, "blocked_until": 0.0}
                    await db.execute(sa.update(throttle_table).where(same).values(less))
                else:
                    await db.execute(sa.delete(throttle_table).where(same))

    @staticmethod
    async def _row(db: AsyncConnection, key: str) -> sa.Row | None:
        return (await db.execute(sa.select(throttle_table).where(throttle_table.c.key == key))).one_or_none()


def _key(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}\0{text}".encode()).hexdigest()
