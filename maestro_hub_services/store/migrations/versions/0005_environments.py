"""Environments: versions of what a workspace's servers install, and their locks."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "environment",
        sa.Column("id", serial, nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("author", sa.String(255), nullable=False),
        sa.Column("launch_id", sa.String(32)),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(200), server_default="", nullable=False),
        sa.Column("python_version", sa.String(16)),
        sa.Column("requirements", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_environment"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_environment_workspace_id_workspace"),
        sa.UniqueConstraint("workspace_id", "kind", "number", name="uq_environment_workspace_id_kind_number"),
    )
    op.create_table(
        "environment_lock",
        sa.Column("environment_id", serial, nullable=False),
        sa.Column("target", sa.String(80), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("packages", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "target", name="pk_environment_lock"),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environment.id"], name="fk_environment_lock_environment_id_environment"
        ),
    )
