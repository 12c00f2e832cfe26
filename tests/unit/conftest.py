"""Fixtures of more than one unit test.

certificates      are read once
``database_url``   an empty database of the store, on sqlite and on Postgres (skipped where its programs are missing)
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from tests.databases import place_sqlite
from tests.postgres import Postgres, binaries, running_postgres


@pytest.fixture(scope="session", autouse=True)
def _certificates() -> Iterator[None]:
    """Every client of httpx reads the world's certificates anew, which takes longer than most tests."""
    with mock.patch("ssl.create_default_context", cache(ssl.create_default_context)):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests."""
    programs = binaries()
    if programs is None:
        pytest.skip("Postgres is not installed (Debian: postgresql)")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The SQLAlchemy URL of an empty database."""
    if request.param == "sqlite":
        place_sqlite(tmp_path / "maestro.sqlite")
        return f"sqlite+aiosqlite:///{tmp_path / 'maestro.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return await server.database()
