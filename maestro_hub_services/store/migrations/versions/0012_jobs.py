"""Jobs, their code, attempts, logs and executed notebooks."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    _job()
    op.create_table(
        "job_code",
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "address", name="pk_job_code"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_job_code_workspace_id_workspace"),
    )
    _attempt()
    op.create_table(
        "job_log",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", "offset", name="pk_job_log"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_log_job_id_job"),
    )
    op.create_table(
        "job_output",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_output"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_output_job_id_job"),
    )


def _job() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "job",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("user_created", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("path", sa.String(1000), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("experiment", sa.String(250), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("ask", sa.JSON(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("timeout", sa.Integer(), nullable=False),
        sa.Column("max_concurrency", sa.Integer()),
        sa.Column("queue", sa.String(250), nullable=False),
        sa.Column("schedule", sa.String(100)),
        sa.Column("timezone", sa.String(60), nullable=False),
        sa.Column("series", sa.String(32)),
        sa.Column("sweep_id", sa.String(32)),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("work", sa.JSON(none_as_null=True)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1000)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("not_before", moment),
        sa.Column("cancel_by", sa.String(255)),
        sa.Column("cancel_at", moment),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("started_at", moment),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_job_workspace_id_workspace"),
    )
    still = sa.text("ended_at IS NULL")
    op.create_index("ix_job_open", "job", ["created_at"], sqlite_where=still, postgresql_where=still)
    op.create_index("ix_job_workspace_id_created_at", "job", ["workspace_id", "created_at"])
    op.create_index("ix_job_user_created_at", "job", ["user", "created_at"])
    op.create_index("ix_job_sweep_id", "job", ["sweep_id"])
    op.create_index("ix_job_series", "job", ["series"])


def _attempt() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "job_attempt",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("launch_id", sa.String(32), nullable=False),
        sa.Column("token_mac", sa.String(64)),
        sa.Column("token_until", moment, nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("cell", sa.Integer(), nullable=False),
        sa.Column("cells", sa.Integer(), nullable=False),
        sa.Column("heard_at", moment),
        sa.Column("run_id", sa.String(64)),
        sa.Column("parent_run", sa.String(64)),
        sa.Column("metrics", sa.JSON(none_as_null=True)),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.String(1000)),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_job_attempt"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_attempt_job_id_job"),
        sa.ForeignKeyConstraint(["launch_id"], ["launch.id"], name="fk_job_attempt_launch_id_launch"),
        sa.UniqueConstraint("launch_id", name="uq_job_attempt_launch_id"),
        sa.UniqueConstraint("token_mac", name="uq_job_attempt_token_mac"),
    )
