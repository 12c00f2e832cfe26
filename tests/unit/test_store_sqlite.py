"""sqlite under the store: durable, one trip to the driver's thread a statement, nothing left of what was given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from maestro_hub_services.store import Store


@pytest.fixture
async def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'maestro.sqlite'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = await Store.open(url)
    yield store
    await store.close()


async def test_what_was_answered_is_on_the_disk_and_keys_hold(store: Store) -> None:
    """WAL with FULL: each commit waits for the disk (2), and so it does on every connection of the pool."""
    async with store._engine.connect() as one, store._engine.connect() as another:
        for connection in (one, another):
            found = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert found == ["wal", 2, 1, 10_000]


async def test_a_statement_is_one_trip_and_so_are_begin_and_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.read() as unit:  # what a connection sets up is set up
        await unit.workspaces.by_name("demo")
    trips = 0
    real = aiosqlite.Connection._execute

    async def counted(*arguments: object) -> object:
        nonlocal trips
        trips += 1
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    async with store.write() as unit:
        await unit.workspaces.by_name("demo")  # a statement with rows
        await unit.events.append("workspace_archived", "ann", name="demo")  # and one without
    assert trips == 4


async def test_rows_counts_and_errors_come_as_the_driver_says_them(store: Store) -> None:
    async with store._engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE thing (name TEXT UNIQUE, size INTEGER)")
        many = [{"name": f"n{number}", "size": number} for number in range(100)]
        await connection.execute(text("INSERT INTO thing VALUES (:name, :size)"), many)
        done = await connection.execute(text("UPDATE thing SET size = -1 WHERE size < 3"))
        assert done.rowcount == 3
        made = await connection.execute(text("INSERT INTO thing VALUES ('new', 7) RETURNING name, size"))
        assert made.mappings().all() == [{"name": "new", "size": 7}]
        found = await connection.execute(text("SELECT name FROM thing WHERE size < 5 ORDER BY name"))
        assert found.keys() == ["name"] and found.scalars().all() == ["n0", "n1", "n2", "n3", "n4"]
    with pytest.raises(IntegrityError, match="UNIQUE"):
        async with store._engine.begin() as connection:
            await connection.execute(text("INSERT INTO thing VALUES ('n1', 1)"))
    with pytest.raises(OperationalError, match="no such table"):
        async with store._engine.begin() as connection:
            await connection.exec_driver_sql("SELECT * FROM absent")


async def test_a_change_that_is_given_up_while_it_waits_leaves_no_transaction(store: Store, url: str) -> None:
    """Else its connection would go back to the pool with the lock, and nobody would be admitted any more."""
    other = await Store.open(url)
    async with store.write() as unit:
        await unit.workspaces.add("demo", "ann")
        waiting = asyncio.create_task(_add(other, "never"))
        await asyncio.sleep(0.1)  # it waits in the driver's thread; there is nothing to look at
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await _add(store, "first")
        await _add(other, "second")
    async with store.read() as unit:
        assert [row.name for row in await unit.workspaces.every()] == ["demo", "first", "second"]
    await other.close()


async def _add(store: Store, name: str) -> None:
    async with store.write() as unit:
        await unit.workspaces.add(name, "ann")
