"""Hashes of access tokens and one-time links."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120800"
down_revision = "20261124120700"


def upgrade() -> None:
    op.create_table(
        "oma_tokens",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("hash"),
    )


def downgrade() -> None:
    op.drop_table("oma_tokens")
