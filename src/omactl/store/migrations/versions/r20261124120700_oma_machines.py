"""Which source a machine comes from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124120700"
down_revision = "20261124120600"


def upgrade() -> None:
    op.create_table(
        "oma_machines",
        sa.Column("context_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["context_id"], ["vm_replication_contexts.context_id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["source"],
            ["oma_sources.name"],
        ),
        sa.PrimaryKeyConstraint("context_id"),
    )
    op.create_index("oma_machines_source", "oma_machines", ["source"], unique=False)


def downgrade() -> None:
    op.drop_table("oma_machines")
