"""The agents that machines come from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120600"
down_revision = "20261124120500"


def upgrade() -> None:
    op.create_table(
        "oma_sources",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=500), nullable=False),
        sa.Column("token_file", sa.String(length=500), nullable=False),
        sa.Column("agent_id", sa.String(length=191), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("oma_sources")
