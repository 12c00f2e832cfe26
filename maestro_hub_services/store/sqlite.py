"""sqlite as the store uses it: what is answered is on the disk, and a statement takes one trip to the driver's thread.

aiosqlite keeps the loop free by a thread a connection. Through SQLAlchemy's adapter each statement goes there four
times (make a cursor, execute, fetch, close), and a trip costs more than most of our statements; here all four are one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import aiosqlite
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

BUSY_SECONDS = 10
#: why each is set: docs/decisions.md, "what is answered is on the disk"
PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",
    "foreign_keys": "ON",
    "busy_timeout": str(BUSY_SECONDS * 1000),
}


def sqlite_engine(url: URL) -> AsyncEngine:
    """An engine whose transactions begin as the execution option ``maestro_begin`` says; ``BEGIN`` without it."""
    # isolation_level: the driver's own BEGIN is deferred and late; without it we say when a transaction starts, and how
    options = {"timeout": BUSY_SECONDS, "isolation_level": None, "async_creator_fn": _connect}
    engine = create_async_engine(url, connect_args=options)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Any) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("maestro_begin", "BEGIN"))


def _connect(path: str, **options: Any) -> aiosqlite.Connection:
    """What SQLAlchemy awaits for a connection."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, **options)
        for name, value in PRAGMAS.items():
            connection.execute(f"PRAGMA {name}={value}").close()
        return connection

    made = _Connection(connect, iter_chunk_size=64)
    made._thread.daemon = True  # as SQLAlchemy has it: a connection that nobody closed does not keep the process
    return made


class _Connection(aiosqlite.Connection):
    _settled = False

    def cursor(self) -> _Cursor:  # type: ignore[override]  # SQLAlchemy's adapter enters it itself
        return _Cursor(self)

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        self._settled = False
        return await super()._execute(fn, *args, **kwargs)

    async def commit(self) -> None:
        """As it says."""
        await super().commit()
        self._settled = True

    async def rollback(self) -> None:
        """As it says; the pool asks for one after each commit too, and then there is nothing to take back."""
        if not self._settled:
            await super().rollback()


class _Cursor(aiosqlite.Cursor):
    """A cursor that is made, used, emptied and closed in one trip."""

    _cursor: sqlite3.Cursor

    def __init__(self, connection: _Connection) -> None:
        self._conn = connection
        self._rows: list[Any] = []

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> _Cursor:
        """Run one statement and keep its rows."""
        await self._execute(self._run, sqlite3.Cursor.execute, sql, () if parameters is None else parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> _Cursor:
        """Run one statement for each set of parameters."""
        await self._execute(self._run, sqlite3.Cursor.executemany, sql, parameters)
        return self

    def _run(self, how: Any, sql: str, parameters: Any) -> None:
        self._cursor = cursor = self._conn._conn.cursor()
        try:
            how(cursor, sql, parameters)
            self._rows = cursor.fetchall() if cursor.description else []
        finally:
            cursor.close()

    async def fetchall(self) -> Iterable[Any]:
        """The rows of the statement."""
        return self._rows

    async def close(self) -> None:
        """It is closed since its statement."""
