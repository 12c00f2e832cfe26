"""Conda environments: versions as those of Python's packages, with the channels that they are looked for in."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("environment", sa.Column("channels", sa.JSON()))
