"""Requests for packages, who asks, and the rules that decisions made."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0008"
branch_labels = None
depends_on = None

_Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward."""
    _requests()
    _askers()
    _rules()


def _requests() -> None:
    op.create_table(
        "package_request",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("package", sa.String(200), nullable=False),
        sa.Column("channel", sa.String(100), nullable=False),
        sa.Column("version", sa.String(100), server_default="", nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("rule", sa.String(250), nullable=False),
        sa.Column("sentence", sa.String(1000), nullable=False),
        sa.Column("asked_at", _Moment, nullable=False),
        sa.Column("decided_by", sa.String(255)),
        sa.Column("decided_at", _Moment),
        sa.Column("answer", sa.String(500), server_default="", nullable=False),
        sa.Column("facts", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_package_request"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_package_request_workspace_id_workspace"),
    )
    pending = sa.text("status = 'pending'")
    op.create_index(
        "uq_package_request_pending",
        "package_request",
        ["workspace_id", "package", "channel"],
        unique=True,
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_index("ix_package_request_workspace_id_asked_at", "package_request", ["workspace_id", "asked_at"])
    op.create_index("ix_package_request_status", "package_request", ["status"])


def _askers() -> None:
    op.create_table(
        "request_asker",
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("user_created", sa.String(64), nullable=False),
        sa.Column("version", sa.String(100), server_default="", nullable=False),
        sa.Column("reason", sa.String(500), server_default="", nullable=False),
        sa.Column("asked_at", _Moment, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "user", "user_created", name="pk_request_asker"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["package_request.id"], name="fk_request_asker_request_id_package_request"
        ),
    )
    op.create_index("ix_request_asker_user", "request_asker", ["user", "user_created"])


def _rules() -> None:
    op.create_table(
        "package_rule",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32)),
        sa.Column("request_id", sa.String(32)),
        sa.Column("package", sa.String(200), nullable=False),
        sa.Column("version", sa.String(100), server_default="", nullable=False),
        sa.Column("channel", sa.String(100)),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("set_by", sa.String(255), nullable=False),
        sa.Column("set_at", _Moment, nullable=False),
        sa.Column("until", _Moment),
        sa.PrimaryKeyConstraint("id", name="pk_package_rule"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_package_rule_workspace_id_workspace"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["package_request.id"], name="fk_package_rule_request_id_package_request"
        ),
    )
    op.create_index("ix_package_rule_workspace_id", "package_rule", ["workspace_id"])
    op.create_index("ix_package_rule_request_id", "package_rule", ["request_id"])
