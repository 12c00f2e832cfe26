"""Single files that admins let in."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "package_grant",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.String(32), nullable=False),
        sa.Column("package", sa.String(200), nullable=False),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_package_grant"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name="fk_package_grant_workspace_id_workspace"),
    )
    op.create_index("ix_package_grant_workspace_id", "package_grant", ["workspace_id"])
