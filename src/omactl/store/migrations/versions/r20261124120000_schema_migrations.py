"""The list of applied revisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120000"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "schema_migrations",
        sa.Column("version", sa.String(length=14), nullable=False),
        sa.Column("description", sa.String(length=255), nullable=False),
        sa.Column("applied_at", UtcTime(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("version"),
    )


def downgrade() -> None:
    op.drop_table("schema_migrations")
