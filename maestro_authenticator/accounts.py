"""The accounts: a database of their own, ``accounts/accounts.sqlite``, opened by the Hub and by ``run``.

An account is pending (asked for by sign-up), approved or disabled. What the Hub knows of a user (admin, groups,
servers) stays with the Hub; the name is the link, and :meth:`Accounts.remove` keeps both in step.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

SCHEMA = 1
#: more waiting sign-ups than this are not kept: a script must not fill the disk
MAX_PENDING = 200

metadata = sa.MetaData()

account_table = sa.Table(
    "account",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("password", sa.String(255), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("must_change", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
)

throttle_table = sa.Table(
    "throttle",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("blocked_until", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False, index=True),
)

schema_table = sa.Table("schema", metadata, sa.Column("version", sa.Integer, primary_key=True))


class Status(StrEnum):
    """Where an account stands."""

    PENDING = "pending"
    APPROVED = "approved"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Account:
    """One account.

    Attributes:
        name: normal form, as the Hub's user name.
        password: argon2 hash; kept out of every repr.
        must_change: the password is a one-time one, good for choosing another and for nothing else.
        created_at, changed_at: UTC.
    """

    name: str
    password: str
    status: Status
    must_change: bool
    created_at: datetime
    changed_at: datetime

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.status.value})"


class NewerDatabase(Exception):
    """The database was written by a newer Maestro; the message is one sentence for the admin."""


class Accounts:
    """The one way to the accounts database.

    Args:
        path: the sqlite file; made with its directory (modes 0600 and 0700) at the first use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # no pool: a pooled connection is a thread, which would outlive the Hub's loop
        self._engine: AsyncEngine = create_async_engine(
            sa.URL.create("sqlite+aiosqlite", database=str(path)), poolclass=NullPool
        )
        self._opening = asyncio.Lock()
        self._open = False

    async def find(self, name: str) -> Account | None:
        """The account of this (normal) name."""
        async with self.begin() as db:
            row = (await db.execute(sa.select(account_table).where(account_table.c.name == name))).one_or_none()
        return _account(row) if row else None

    async def list(self) -> list[Account]:
        """All accounts, by name."""
        async with self.begin() as db:
            rows = await db.execute(sa.select(account_table).order_by(account_table.c.name))
            return [_account(row) for row in rows]

    async def ask(self, name: str, password: str) -> bool:
        """Keep a sign-up for the admin; False, and nothing changed, if the name is taken or too many wait."""
        async with self.begin() as db:
            pending = sa.select(sa.func.count()).where(account_table.c.status == Status.PENDING.value)
            if (await db.execute(pending)).scalar_one() >= MAX_PENDING:
                return False
            values = _values(password, Status.PENDING, must_change=False) | {"name": name, "created_at": _now()}
            result = await db.execute(insert(account_table).values(values).on_conflict_do_nothing())
            return bool(result.rowcount)

    async def give(self, name: str, password: str, *, must_change: bool) -> None:
        """Set a password for this name and approve it: the admin's reset, or a new account by the admin's hand."""
        values = _values(password, Status.APPROVED, must_change=must_change)
        statement = insert(account_table).values(values | {"name": name, "created_at": _now()})
        async with self.begin() as db:
            await db.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))

    async def choose(self, name: str, password: str) -> bool:
        """Set the password that an approved person chose; False if there is no such account (any more)."""
        values = {"password": password, "must_change": False, "changed_at": _now()}
        return await self._change(name, values, Status.APPROVED)

    async def rehash(self, name: str, known: str, password: str) -> None:
        """Replace a hash by one of the same password with newer parameters, unless it was changed meanwhile."""
        async with self.begin() as db:
            same = (account_table.c.name == name) & (account_table.c.password == known)
            await db.execute(sa.update(account_table).where(same).values(password=password))

    async def approve(self, name: str) -> bool:
        """Let a waiting person in; False if nobody of that name waits."""
        return await self._change(name, {"status": Status.APPROVED.value, "changed_at": _now()}, Status.PENDING)

    async def enable(self, name: str) -> bool:
        """Let a disabled person in again; False if there is none of that name."""
        return await self._change(name, {"status": Status.APPROVED.value, "changed_at": _now()}, Status.DISABLED)

    async def disable(self, name: str) -> bool:
        """Shut an approved person out; False if there is none of that name."""
        return await self._change(name, {"status": Status.DISABLED.value, "changed_at": _now()}, Status.APPROVED)

    async def remove(self, name: str, only: Status | None = None) -> bool:
        """Forget an account (only one in the given state); False if there was none."""
        where = account_table.c.name == name
        if only:
            where &= account_table.c.status == only.value
        async with self.begin() as db:
            return bool((await db.execute(sa.delete(account_table).where(where))).rowcount)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction. The file and its tables are there.

        Raises:
            NewerDatabase: if the file is from a newer version.
        """
        async with self._opening:
            if not self._open:
                await self._prepare()
                self._open = True
        async with self._engine.begin() as db:
            yield db

    async def _change(self, name: str, values: dict[str, object], only: Status) -> bool:
        where = (account_table.c.name == name) & (account_table.c.status == only.value)
        async with self.begin() as db:
            return bool((await db.execute(sa.update(account_table).where(where).values(values))).rowcount)

    async def _prepare(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        async with self._engine.begin() as db:
            await db.run_sync(metadata.create_all)
            await db.execute(insert(schema_table).values(version=SCHEMA).on_conflict_do_nothing())
            version = (await db.execute(sa.select(sa.func.max(schema_table.c.version)))).scalar_one()
        if version > SCHEMA:
            raise NewerDatabase(f"{self._path} is from a newer Maestro (schema {version}); start that version with it.")


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _values(password: str, status: Status, *, must_change: bool) -> dict[str, object]:
    return {"password": password, "status": status.value, "must_change": must_change, "changed_at": _now()}


def _account(row: sa.Row) -> Account:
    return Account(
        name=row.name,
        password=row.password,
        status=Status(row.status),
        must_change=row.must_change,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        changed_at=datetime.fromtimestamp(row.changed_at, UTC),
    )
