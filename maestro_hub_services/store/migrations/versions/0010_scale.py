"""Scale: since when the amounts of a running launch are being changed."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("launch", sa.Column("resizing_at", sa.DateTime(timezone=True)))
