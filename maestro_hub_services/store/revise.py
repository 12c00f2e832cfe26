"""Writes the next migration after a change of ``tables.py``: ``python -m maestro_hub_services.store.revise "what"``.

Read what it wrote, and never change one that was released.
"""

from __future__ import annotations

import sys

from alembic import command
from sqlalchemy import create_engine

from .migrate import MIGRATIONS, alembic_config


def write_revision(message: str) -> None:
    """What ``tables.py`` has and the migrations so far do not make, as the next numbered file."""
    number = sum(path.name[:4].isdigit() for path in (MIGRATIONS / "versions").glob("*.py")) + 1
    with create_engine("sqlite://").begin() as connection:
        config = alembic_config(connection)
        command.upgrade(config, "head")
        command.revision(config, message, autogenerate=True, rev_id=f"{number:04d}")


if __name__ == "__main__":
    write_revision(" ".join(sys.argv[1:]))
