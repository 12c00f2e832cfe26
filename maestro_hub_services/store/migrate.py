"""Brings the tables up to date at the start of the service (alembic, without a file of its own)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncEngine

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config(connection: Any = None) -> Config:
    """What alembic needs to know."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(engine: AsyncEngine) -> None:
    """Migrate to the newest revision; all of it or nothing.

    Raises:
        alembic.util.CommandError: the database is of a newer version of Maestro.
    """
    begin = engine.execution_options(maestro_begin="BEGIN IMMEDIATE") if engine.dialect.name == "sqlite" else engine
    async with begin.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), "head"))
