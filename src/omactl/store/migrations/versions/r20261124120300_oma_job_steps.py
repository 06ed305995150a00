"""The steps of a job, all declared from its creation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120300"
down_revision = "20261124120200"


def upgrade() -> None:
    op.create_table(
        "oma_job_steps",
        sa.Column("job_id", sa.String(length=191), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), server_default="pending", nullable=False),
        sa.Column("started_at", UtcTime(), nullable=True),
        sa.Column("completed_at", UtcTime(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["oma_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq"),
        sa.UniqueConstraint("job_id", "name", name="oma_job_steps_name"),
    )


def downgrade() -> None:
    op.drop_table("oma_job_steps")
