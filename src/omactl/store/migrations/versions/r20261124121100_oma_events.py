"""What happened, in order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import Counter, UtcTime

revision = "20261124121100"
down_revision = "20261124121000"


def upgrade() -> None:
    op.create_table(
        "oma_events",
        sa.Column("id", Counter, nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("job_id", sa.String(length=191), nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("oma_events_job", "oma_events", ["job_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_table("oma_events")
