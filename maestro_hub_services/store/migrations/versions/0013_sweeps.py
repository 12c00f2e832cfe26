"""Sweeps and their trials."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "sweep",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("user_created", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("path", sa.String(1000), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("experiment", sa.String(250), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1000)),
        sa.Column("parent_run", sa.String(64)),
        sa.Column("summary_job", sa.String(32)),
        sa.Column("cancel_by", sa.String(255)),
        sa.Column("stopped", sa.String(1000)),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_sweep"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_sweep_workspace_id_workspace"),
    )
    still = sa.text("ended_at IS NULL")
    op.create_index("ix_sweep_open", "sweep", ["created_at"], sqlite_where=still, postgresql_where=still)
    op.create_index("ix_sweep_workspace_id_created_at", "sweep", ["workspace_id", "created_at"])
    op.create_index("ix_sweep_user_created_at", "sweep", ["user", "created_at"])
    op.create_table(
        "sweep_trial",
        sa.Column("sweep_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1000)),
        sa.Column("value", sa.Float()),
        sa.Column("run_id", sa.String(64)),
        sa.PrimaryKeyConstraint("sweep_id", "number", name="pk_sweep_trial"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name="fk_sweep_trial_sweep_id_sweep"),
    )
