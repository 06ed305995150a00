"""The machines under management."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from omactl.store.schema import UtcTime

revision = "20261124120100"
down_revision = "20261124120000"


def upgrade() -> None:
    op.create_table(
        "vm_replication_contexts",
        sa.Column("context_id", sa.String(length=64), nullable=False),
        sa.Column("vm_name", sa.String(length=255), nullable=False),
        sa.Column("vmware_vm_id", sa.String(length=255), nullable=False),
        sa.Column("vm_path", sa.String(length=500), nullable=False),
        sa.Column("vcenter_host", sa.String(length=255), nullable=False),
        sa.Column("datacenter", sa.String(length=255), server_default="", nullable=False),
        sa.Column("current_status", sa.String(length=32), server_default="discovered", nullable=False),
        sa.Column("current_job_id", sa.String(length=191), nullable=True),
        sa.Column("total_jobs_run", sa.Integer(), server_default="0", nullable=False),
        sa.Column("successful_jobs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_jobs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_successful_job_id", sa.String(length=191), nullable=True),
        sa.Column("cpu_count", sa.Integer(), nullable=True),
        sa.Column("memory_mb", sa.Integer(), nullable=True),
        sa.Column("os_type", sa.String(length=255), nullable=True),
        sa.Column("power_state", sa.String(length=32), nullable=True),
        sa.Column("vm_tools_version", sa.String(length=255), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.Column("first_job_at", UtcTime(), nullable=True),
        sa.Column("last_job_at", UtcTime(), nullable=True),
        sa.Column("last_status_change", UtcTime(), nullable=False),
        sa.Column("auto_added", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("scheduler_enabled", sa.Boolean(), server_default=sa.text("1"), nullable=False),
        sa.Column("last_scheduled_job_id", sa.String(length=191), nullable=True),
        sa.Column("next_scheduled_at", UtcTime(), nullable=True),
        sa.Column("credential_id", sa.Integer(), nullable=True),
        sa.Column("ossea_config_id", sa.Integer(), nullable=True),
        sa.Column("last_operation_summary", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("context_id"),
        sa.UniqueConstraint("vm_name", "vcenter_host", name="uniq_vm_vcenter_name"),
        sa.UniqueConstraint("vmware_vm_id", "vcenter_host", name="uniq_vm_vcenter_id"),
    )


def downgrade() -> None:
    op.drop_table("vm_replication_contexts")
