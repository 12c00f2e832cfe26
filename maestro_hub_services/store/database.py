"""The engine: transactions, the admission lock, the one process that may open the store.

sqlite: WAL, and every change is ``BEGIN IMMEDIATE``, so the one writer that sqlite allows is also the admission lock.
Postgres: every change takes one advisory lock for its transaction. Within the process writers queue on an asyncio lock,
which is fair and does not poll.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from maestro_core.errors import MaestroError

from .advisories import AdvisoryRepository
from .charges import ChargeRepository
from .clock import StepWatch, steady
from .counts import CountRepository
from .environments import EnvironmentRepository
from .events import EventRepository
from .invitations import InvitationRepository
from .jobs import JobRepository
from .launches import LaunchRepository
from .members import MemberRepository
from .migrate import upgrade
from .quotas import QuotaRepository
from .requests import RequestRepository, RuleRepository
from .snapshots import SnapshotRepository
from .sqlite import sqlite_engine
from .sweeps import SweepRepository
from .usage import UsageRepository
from .workspaces import WorkspaceRepository

#: any number that is ours alone in the database
ADMISSION_KEY = 0x4D41455354524F  # "MAESTRO"
#: seconds to wait for a connection to Postgres
CONNECT_SECONDS = 5
#: seconds between two tries to reach a database that is away
REACH_PAUSE = 0.5
log = logging.getLogger("maestro.store")


class StoreLocked(Exception):
    """Another process has the store open; the message is one sentence for the admin."""


class Unit:
    """One transaction, seen through the repositories."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.workspaces = WorkspaceRepository(connection)
        self.members = MemberRepository(connection)
        self.launches = LaunchRepository(connection)
        self.events = EventRepository(connection)
        self.quotas = QuotaRepository(connection)
        self.charges = ChargeRepository(connection)
        self.counts = CountRepository(connection)
        self.invitations = InvitationRepository(connection)
        self.advisories = AdvisoryRepository(connection)
        self.snapshots = SnapshotRepository(connection)
        self.usage = UsageRepository(connection)
        self.requests = RequestRepository(connection)
        self.rules = RuleRepository(connection)
        self.environments = EnvironmentRepository(connection)
        self.jobs = JobRepository(connection)
        self.sweeps = SweepRepository(connection)


class Store:
    """The database of the workspaces service. Made by :meth:`open`."""

    def __init__(self, engine: AsyncEngine, lock_file: int | None) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._begin = engine.execution_options(maestro_begin="BEGIN IMMEDIATE") if self._sqlite else engine
        self._writer = asyncio.Lock()
        self._clock = StepWatch()
        self._following = asyncio.Lock()
        self._lock_file = lock_file

    @classmethod
    async def open(cls, url: str, lock: Path | None = None, patience: float = 0.0) -> Store:
        """Lock the store for this process, open it, bring its tables up to date.

        Args:
            url: of SQLAlchemy: ``sqlite+aiosqlite:///...`` or ``postgresql+asyncpg://...``.
            lock: a file that is locked as long as the store is open.
            patience: seconds to wait for a database that is away: after the machine's start it may come later than we.

        Raises:
            StoreLocked: another process has it open.
            MaestroError: ``service_unavailable``: the database is away.
            sqlalchemy.exc.SQLAlchemyError: it cannot be migrated.
        """
        lock_file = None if lock is None else _take(lock)
        engine = _engine(url)
        store = cls(engine, lock_file)
        try:
            await store._reach(patience)
            await upgrade(engine)
        except BaseException:
            await store.close()
            raise
        return store

    async def _reach(self, patience: float) -> None:
        limit = steady() + patience
        while True:
            try:
                async with self.read():
                    return
            except MaestroError:
                if steady() >= limit:
                    raise
            await asyncio.sleep(REACH_PAUSE)

    async def close(self) -> None:
        """Close the connections and give the lock back."""
        await self._engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Unit]:
        """A consistent look; nothing is kept of what it would write.

        Raises:
            MaestroError: ``service_unavailable``: the database is away.
        """
        async with _speaking(self._engine.connect()) as connection:
            yield Unit(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Unit]:
        """A change: committed at the end, rolled back by any exception.

        Every change holds THE admission lock: between its first look and its commit nobody else is admitted, and no
        two can each leave it to the other to keep a workspace's last owner.

        Raises:
            MaestroError: ``service_unavailable``: the database is away; what was asked for has happened, if at all, as
                a whole.
        """
        await self._follow_clock()
        async with self._writer, _speaking(self._begin.begin()) as connection:
            if not self._sqlite:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADMISSION_KEY})
            yield Unit(connection)

    async def _follow_clock(self) -> None:
        """Where the clock was set since the last change, see that it cost and gave nobody an hour."""
        if self._clock.step() is None:
            return
        async with self._following:
            step = self._clock.step()
            if step is None:
                return
            async with self._writer, _speaking(self._begin.begin()) as connection:
                await ChargeRepository(connection).follow_clock(*step)
            self._clock.accept(step)


@asynccontextmanager
async def _speaking(connecting: AbstractAsyncContextManager[AsyncConnection]) -> AsyncIterator[AsyncConnection]:
    """A connection; where the database is away or goes away that is said as such, for it comes back."""
    try:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(connecting)
            except Exception as error:  # each driver has its own
                raise _away(error) from None
            yield connection
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise _away(error) from None


def _away(error: Exception) -> MaestroError:
    log.warning("The database does not answer: %s: %.200s", type(error).__name__, getattr(error, "orig", error))
    return MaestroError("service_unavailable", "Maestro's database does not answer; try again in a moment.")


def _take(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreLocked(
            f"Another workspaces service has the store open ({path} is locked): stop it first, or give this one its "
            "own MAESTRO_STATE."
        ) from None
    return handle


def _engine(url: str) -> AsyncEngine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return sqlite_engine(parsed)
    return create_async_engine(
        parsed, pool_pre_ping=True, pool_size=5, max_overflow=10, connect_args={"timeout": CONNECT_SECONDS}
    )
