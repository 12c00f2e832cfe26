"""Fixtures of more than one unit test.

``database_url``   an empty database of the store, on sqlite and on Postgres (skipped where its programs are missing)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres, binaries, running_postgres


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
        return f"sqlite+aiosqlite:///{tmp_path / 'maestro.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return await server.database()
