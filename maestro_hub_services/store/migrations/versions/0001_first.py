"""The first tables: workspace, member, launch, event."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ACTIVE: dict[str, Any] = {
    "sqlite_where": sa.text("status != 'ended'"),
    "postgresql_where": sa.text("status != 'ended'"),
}
_Moment = sa.DateTime(timezone=True)
_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Forward."""
    _workspace()
    _member()
    _launch()
    _event()


def _workspace() -> None:
    op.create_table(
        "workspace",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(30), nullable=False),
        sa.Column("description", sa.String(1000), server_default="", nullable=False),
        sa.Column("personal", sa.Boolean(), nullable=False),
        sa.Column("personal_user", sa.String(255)),
        sa.Column("personal_created", sa.String(64)),
        sa.Column("gid", sa.Integer(), nullable=False),
        sa.Column("template", sa.String(30)),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("archived_by", sa.String(255)),
        sa.Column("archived_at", _Moment),
        sa.PrimaryKeyConstraint("id", name="pk_workspace"),
        sa.UniqueConstraint("name", name="uq_workspace_name"),
        sa.UniqueConstraint("gid", name="uq_workspace_gid"),
        sa.UniqueConstraint("personal_user", "personal_created", name="uq_workspace_personal_user_personal_created"),
    )


def _member() -> None:
    op.create_table(
        "member",
        sa.Column("id", _Serial, nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created", sa.String(64), server_default="", nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("added_by", sa.String(255), nullable=False),
        sa.Column("added_at", _Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_member"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_member_workspace_id_workspace"),
        sa.UniqueConstraint("workspace_id", "kind", "name", name="uq_member_workspace_id_kind_name"),
    )
    op.create_index("ix_member_kind_name", "member", ["kind", "name"])


def _launch() -> None:
    op.create_table(
        "launch",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(8), server_default="server", nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("user_created", sa.String(64), nullable=False),
        sa.Column("server_name", sa.String(30), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("profile", sa.String(30), nullable=False),
        sa.Column("cpu", sa.Float(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Integer(), nullable=False),
        sa.Column("gpu_type", sa.String(63)),
        sa.Column("experiment", sa.String(250), nullable=False),
        sa.Column("default_url", sa.String(300), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("token_mac", sa.String(64)),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("started_at", _Moment),
        sa.Column("ended_at", _Moment),
        sa.Column("ended_reason", sa.String(200)),
        sa.PrimaryKeyConstraint("id", name="pk_launch"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_launch_workspace_id_workspace"),
    )
    op.create_index(
        "uq_launch_active_server", "launch", ["user", "user_created", "server_name"], unique=True, **_ACTIVE
    )
    op.create_index("ix_launch_active_workspace", "launch", ["workspace_id"], **_ACTIVE)
    op.create_index("uq_launch_token_mac", "launch", ["token_mac"], unique=True)
    op.create_index("ix_launch_user_created_at", "launch", ["user", "created_at"])


def _event() -> None:
    op.create_table(
        "event",
        sa.Column("id", _Serial, nullable=False),
        sa.Column("at", _Moment, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("workspace_id", sa.String(32)),
        sa.Column("launch_id", sa.String(32)),
        sa.Column("user", sa.String(255)),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_workspace_id_id", "event", ["workspace_id", "id"])
    op.create_index("ix_event_kind_id", "event", ["kind", "id"])
