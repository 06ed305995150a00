"""What a job does with each disk."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261124120400"
down_revision = "20261124120300"


def upgrade() -> None:
    op.create_table(
        "oma_job_disks",
        sa.Column("job_id", sa.String(length=191), nullable=False),
        sa.Column("disk_id", sa.String(length=191), nullable=False),
        sa.Column("label", sa.String(length=255), server_default="", nullable=False),
        sa.Column("capacity", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("volume_id", sa.String(length=64), nullable=True),
        sa.Column("session_id", sa.String(length=64), nullable=True),
        sa.Column("uri", sa.String(length=500), nullable=True),
        sa.Column("mode", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.String(length=255), nullable=True),
        sa.Column("base_point", sa.String(length=191), nullable=True),
        sa.Column("status", sa.String(length=32), server_default="pending", nullable=False),
        sa.Column("percent", sa.Double(), server_default="0", nullable=False),
        sa.Column("bytes_transferred", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_read", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_zero", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_per_second", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("point", sa.String(length=191), nullable=True),
        sa.Column("incarnation", sa.String(length=64), nullable=True),
        sa.Column("proof", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["oma_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "disk_id"),
    )


def downgrade() -> None:
    op.drop_table("oma_job_disks")
