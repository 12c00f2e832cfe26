"""Advisories about packages."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "advisory",
        sa.Column("id", sa.String(100), nullable=False),
        sa.Column("package", sa.String(200), nullable=False),
        sa.Column("malware", sa.Boolean(), nullable=False),
        sa.Column("modified", sa.String(40), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("import_id", sa.String(32), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", "package", name="pk_advisory"),
    )
    op.create_index("ix_advisory_package", "advisory", ["package"])
    op.create_index("ix_advisory_malware", "advisory", ["malware"])
