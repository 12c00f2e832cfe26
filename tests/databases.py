"""Databases with the store's tables, all empty: migrated once in a run of the tests, then copied."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from maestro_hub_services.store.migrate import alembic_config


def place_sqlite(path: Path) -> None:
    """A database at ``path``, unless there is one."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "migrated.sqlite"
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            command.upgrade(alembic_config(connection), "head")
        engine.dispose()
        return path.read_bytes()
