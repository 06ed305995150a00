"""The disks of a machine and the volumes that hold their copies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120500"
down_revision = "20261124120400"


def upgrade() -> None:
    op.create_table(
        "oma_disks",
        sa.Column("context_id", sa.String(length=64), nullable=False),
        sa.Column("disk_id", sa.String(length=191), nullable=False),
        sa.Column("label", sa.String(length=255), server_default="", nullable=False),
        sa.Column("path", sa.String(length=500), server_default="", nullable=False),
        sa.Column("unit_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("capacity", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("present", sa.Boolean(), server_default=sa.text("1"), nullable=False),
        sa.Column("volume_id", sa.String(length=64), nullable=True),
        sa.Column("holds", sa.String(length=16), server_default="nothing", nullable=False),
        sa.Column("point", sa.String(length=191), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=True),
        sa.Column("proved_at", UtcTime(), nullable=True),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["context_id"], ["vm_replication_contexts.context_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("context_id", "disk_id"),
        sa.UniqueConstraint("volume_id"),
    )


def downgrade() -> None:
    op.drop_table("oma_disks")
