"""Quotas: limits that admins set at runtime, charges (who held what how long), groups of launches, measured storage."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_Moment = sa.DateTime(timezone=True)
_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Forward."""
    op.add_column("workspace", sa.Column("storage_used", sa.BigInteger()))
    op.add_column("workspace", sa.Column("storage_measured_at", _Moment))
    op.add_column("launch", sa.Column("image", sa.String(500)))
    op.add_column("launch", sa.Column("idle_minutes", sa.Integer()))
    _quota_override()
    _launch_group()
    _charge()
    _charge_what_was()


def _quota_override() -> None:
    op.create_table(
        "quota_override",
        sa.Column("id", _Serial, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), server_default="", nullable=False),
        sa.Column("stamp", sa.String(64), server_default="", nullable=False),
        sa.Column("limit_name", sa.String(40), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("set_by", sa.String(255), nullable=False),
        sa.Column("set_at", _Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quota_override"),
        sa.UniqueConstraint(
            "level", "name", "stamp", "limit_name", name="uq_quota_override_level_name_stamp_limit_name"
        ),
    )


def _launch_group() -> None:
    op.create_table(
        "launch_group",
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("group_name", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("launch_id", "group_name", name="pk_launch_group"),
        sa.ForeignKeyConstraint(["launch_id"], ["launch.id"], name="fk_launch_group_launch_id_launch"),
    )
    op.create_index("ix_launch_group_group_name", "launch_group", ["group_name"])


def _charge() -> None:
    op.create_table(
        "charge",
        sa.Column("id", _Serial, nullable=False),
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("user_created", sa.String(64), nullable=False),
        sa.Column("cpu", sa.Float(), nullable=False),
        sa.Column("gpu", sa.Integer(), nullable=False),
        sa.Column("began", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float()),
        sa.PrimaryKeyConstraint("id", name="pk_charge"),
        sa.ForeignKeyConstraint(["launch_id"], ["launch.id"], name="fk_charge_launch_id_launch"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_charge_workspace_id_workspace"),
    )
    op.create_index("ix_charge_launch_id", "charge", ["launch_id"])
    op.create_index("ix_charge_user_ended", "charge", ["user", "ended"])
    op.create_index("ix_charge_workspace_id_ended", "charge", ["workspace_id", "ended"])
    op.create_index("ix_charge_ended", "charge", ["ended"])


def _charge_what_was() -> None:
    """Launches from before there were charges: their hours count too."""
    names = ["launch_id", "workspace_id", "user", "user_created", "cpu", "gpu", "began", "ended"]
    charge = sa.table("charge", *map(sa.column, names))
    launch = sa.table(
        "launch",
        *map(sa.column, ("id", "workspace_id", "user", "user_created", "cpu", "gpu")),
        sa.column("started_at", _Moment),
        sa.column("ended_at", _Moment),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(launch).where(launch.c.started_at.is_not(None))).mappings().all():
        values = {name: row[name] for name in names if name in row}
        began, ended = _seconds(row["started_at"]), _seconds(row["ended_at"])
        connection.execute(sa.insert(charge), {**values, "launch_id": row["id"], "began": began, "ended": ended})


def _seconds(moment: datetime | None) -> float | None:
    """Of the epoch; sqlite keeps moments of UTC without their zone."""
    if moment is None:
        return None
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()
