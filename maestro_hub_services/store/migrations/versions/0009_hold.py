"""What holds against one person's loops: who made a workspace, and refusals that repeat are counted."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0004"
branch_labels = None
depends_on = None

#: members are keyed on the creation stamp, so the creator's stands with their membership
_CREATORS = """
UPDATE workspace SET creator_created = (
    SELECT member.created FROM member
    WHERE member.workspace_id = workspace.id AND member.kind = 'user' AND member.name = workspace.created_by
)
"""


def upgrade() -> None:
    """Forward."""
    op.add_column("workspace", sa.Column("creator_created", sa.String(64)))
    op.create_index("ix_workspace_created_by", "workspace", ["created_by"])
    op.execute(_CREATORS)
    op.add_column("event", sa.Column("count", sa.Integer(), server_default="1", nullable=False))
    op.add_column("event", sa.Column("last_at", sa.DateTime(timezone=True)))
    op.add_column("event", sa.Column("same", sa.String(64)))
    told = sa.text("same IS NOT NULL")
    op.create_index("ix_event_same", "event", ["same"], sqlite_where=told, postgresql_where=told)
    op.create_index("ix_event_user_kind_at", "event", ["user", "kind", "at"])
