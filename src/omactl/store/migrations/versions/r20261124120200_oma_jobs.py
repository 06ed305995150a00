"""Jobs of every kind, at most one live one a machine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120200"
down_revision = "20261124120100"


def upgrade() -> None:
    op.create_table(
        "oma_jobs",
        sa.Column("id", sa.String(length=191), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=32), server_default="pending", nullable=False),
        sa.Column("context_id", sa.String(length=64), nullable=False),
        sa.Column("parent_id", sa.String(length=191), nullable=True),
        sa.Column(
            "live_machine",
            sa.String(length=64),
            sa.Computed(
                "CASE WHEN parent_id IS NULL AND status NOT IN ('completed', 'failed', 'cancelled')"
                " THEN context_id END",
                persisted=False,
            ),
            nullable=True,
        ),
        sa.Column("appliance", sa.String(length=64), server_default="", nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.Double(), server_default="0", nullable=False),
        sa.Column("options", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("started_by", sa.String(length=191), server_default="", nullable=False),
        sa.Column("sync_type", sa.String(length=50), nullable=True),
        sa.Column("phase", sa.String(length=100), nullable=True),
        sa.Column("percent", sa.Double(), server_default="0", nullable=False),
        sa.Column("setup_percent", sa.Double(), server_default="0", nullable=False),
        sa.Column("bytes_transferred", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_per_second", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("eta_seconds", sa.BigInteger(), nullable=True),
        sa.Column("answered_at", UtcTime(), nullable=True),
        sa.Column("unanswered_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("cancel_requested_at", UtcTime(), nullable=True),
        sa.Column("cancel_requested_by", sa.String(length=191), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error_details", sa.Text(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=True),
        sa.Column("completed_at", UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["context_id"],
            ["vm_replication_contexts.context_id"],
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"],
            ["oma_jobs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("oma_jobs_context", "oma_jobs", ["context_id", "created_at"], unique=False)
    op.create_index("oma_jobs_created", "oma_jobs", ["created_at", "id"], unique=False)
    op.create_index("oma_jobs_live_machine", "oma_jobs", ["live_machine"], unique=True)
    op.create_index("oma_jobs_status", "oma_jobs", ["status", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_table("oma_jobs")
