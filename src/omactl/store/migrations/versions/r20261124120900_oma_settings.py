"""Settings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124120900"
down_revision = "20261124120800"


def upgrade() -> None:
    op.create_table(
        "oma_settings",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("oma_settings")
