"""Lifecycle: settings and purging of workspaces, what will end a launch, invitations, usage."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward."""
    op.add_column("workspace", sa.Column("settings", sa.JSON()))
    op.add_column("workspace", sa.Column("purged_name", sa.String(30)))
    op.add_column("workspace", sa.Column("purge_by", sa.String(255)))
    op.add_column("workspace", sa.Column("purge_at", _Moment))
    op.add_column("workspace", sa.Column("purge_report", sa.JSON()))
    op.add_column("workspace", sa.Column("purged_at", _Moment))
    op.add_column("launch", sa.Column("ends_at", _Moment))
    op.add_column("launch", sa.Column("ends_kind", sa.String(8)))
    op.add_column("launch", sa.Column("ends_reason", sa.String(200)))
    op.add_column("launch", sa.Column("kept_at", _Moment))
    _invitation()
    _usage()


def _invitation() -> None:
    op.create_table(
        "invitation",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("user_created", sa.String(64), server_default="", nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("invited_by", sa.String(255), nullable=False),
        sa.Column("inviter_created", sa.String(64)),
        sa.Column("invited_at", _Moment, nullable=False),
        sa.Column("expires_at", _Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_invitation"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_invitation_workspace_id_workspace"),
        sa.UniqueConstraint("workspace_id", "user", name="uq_invitation_workspace_id_user"),
    )
    op.create_index("ix_invitation_user", "invitation", ["user"])


def _usage() -> None:
    op.create_table(
        "usage",
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("span", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("cpu_seconds", sa.Float(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("memory_peak", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Float()),
        sa.Column("gpu_memory", sa.BigInteger(), nullable=False),
        sa.Column("busy", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["launch_id"], ["launch.id"], name="fk_usage_launch_id_launch"),
    )
    op.create_index("ix_usage_launch_id_at", "usage", ["launch_id", "at"])
    op.create_index("ix_usage_span_at", "usage", ["span", "at"])
