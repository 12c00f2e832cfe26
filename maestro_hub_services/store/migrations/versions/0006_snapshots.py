"""Saved versions of notebooks."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "snapshot_content",
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("cells", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "address", name="pk_snapshot_content"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_snapshot_content_workspace_id_workspace"),
    )
    op.create_table(
        "snapshot",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("path", sa.String(1000), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("author", sa.String(255), nullable=False),
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_snapshot"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_snapshot_workspace_id_workspace"),
    )
    op.create_index("ix_snapshot_workspace_id_path_id", "snapshot", ["workspace_id", "path", "id"])
    op.create_index("ix_snapshot_workspace_id_address", "snapshot", ["workspace_id", "address"])
