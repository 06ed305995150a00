"""The tables (BEHAVIOUR.md section 10), the same on SQLite and MariaDB."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

from omactl.rules.transitions import FINAL, ContextStatus, JobStatus, StepStatus

__all__ = [
    "Counter",
    "UtcTime",
    "claims",
    "contexts",
    "disks",
    "events",
    "job_disks",
    "job_steps",
    "jobs",
    "machines",
    "metadata",
    "schema_migrations",
    "settings",
    "sources",
    "tokens",
]

metadata = sa.MetaData()

Counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A number given by the database: only INTEGER PRIMARY KEY counts by itself on SQLite."""


class UtcTime(sa.TypeDecorator[datetime]):
    """An aware time, stored as UTC with microseconds: both databases drop the offset, so it is made UTC before."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        exact = mysql.DATETIME(fsp=6) if dialect.name in ("mysql", "mariadb") else sa.DateTime()
        return dialect.type_descriptor(exact)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(none_as_null=True))


def _time(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, UtcTime(), **options)


def _id(name: str, *rest: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String(191), *rest, **options)


def _number(name: str, default: int | None = 0) -> sa.Column[Any]:
    text = None if default is None else str(default)
    return sa.Column(name, sa.BigInteger(), nullable=default is None, server_default=text)


def _context_id(*rest: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column("context_id", sa.String(64), *rest, **options)


contexts = sa.Table(
    "vm_replication_contexts",
    metadata,
    _context_id(primary_key=True),
    sa.Column("vm_name", sa.String(255), nullable=False),
    sa.Column("vmware_vm_id", sa.String(255), nullable=False),
    sa.Column("vm_path", sa.String(500), nullable=False),
    sa.Column("vcenter_host", sa.String(255), nullable=False),
    sa.Column("datacenter", sa.String(255), nullable=False, server_default=""),
    sa.Column("current_status", sa.String(32), nullable=False, server_default=ContextStatus.DISCOVERED.value),
    _id("current_job_id"),
    sa.Column("total_jobs_run", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("successful_jobs", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("failed_jobs", sa.Integer(), nullable=False, server_default="0"),
    _id("last_successful_job_id"),
    sa.Column("cpu_count", sa.Integer()),
    sa.Column("memory_mb", sa.Integer()),
    sa.Column("os_type", sa.String(255)),
    sa.Column("power_state", sa.String(32)),
    sa.Column("vm_tools_version", sa.String(255)),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("first_job_at"),
    _time("last_job_at"),
    _time("last_status_change", nullable=False),
    sa.Column("auto_added", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("scheduler_enabled", sa.Boolean(), nullable=False, server_default=sa.true()),
    _id("last_scheduled_job_id"),
    _time("next_scheduled_at"),
    sa.Column("credential_id", sa.Integer()),
    sa.Column("ossea_config_id", sa.Integer()),
    _json("last_operation_summary"),
    sa.UniqueConstraint("vmware_vm_id", "vcenter_host", name="uniq_vm_vcenter_id"),
    sa.UniqueConstraint("vm_name", "vcenter_host", name="uniq_vm_vcenter_name"),
)

jobs = sa.Table(
    "oma_jobs",
    metadata,
    _id("id", primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("status", sa.String(32), nullable=False, server_default=JobStatus.PENDING.value),
    _context_id(sa.ForeignKey("vm_replication_contexts.context_id"), nullable=False),
    _id("parent_id", sa.ForeignKey("oma_jobs.id")),
    # The machine while the job is live and not a part of another, else NULL: with its unique index the database itself
    # refuses a second live job of a machine.
    sa.Column(
        "live_machine",
        sa.String(64),
        sa.Computed(
            "CASE WHEN parent_id IS NULL AND status NOT IN ("
            + ", ".join(f"'{status.value}'" for status in JobStatus if status in FINAL)
            + ") THEN context_id END",
            persisted=False,
        ),
    ),
    sa.Column("appliance", sa.String(64), nullable=False, server_default=""),
    sa.Column("owner", sa.String(64)),
    _number("epoch"),
    sa.Column("lease_until", sa.Double(), nullable=False, server_default="0"),
    _json("options"),
    sa.Column("started_by", sa.String(191), nullable=False, server_default=""),
    sa.Column("sync_type", sa.String(50)),
    sa.Column("phase", sa.String(100)),
    sa.Column("percent", sa.Double(), nullable=False, server_default="0"),
    sa.Column("setup_percent", sa.Double(), nullable=False, server_default="0"),
    _number("bytes_transferred"),
    _number("total_bytes"),
    _number("bytes_per_second"),
    _number("eta_seconds", None),
    _time("answered_at"),
    sa.Column("unanswered_seconds", sa.Double(), nullable=False, server_default="0"),
    _time("cancel_requested_at"),
    sa.Column("cancel_requested_by", sa.String(191)),
    sa.Column("error_code", sa.String(64)),
    _json("error_facts"),
    sa.Column("error_details", sa.Text()),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("started_at"),
    _time("completed_at"),
    sa.Index("oma_jobs_live_machine", "live_machine", unique=True),
    sa.Index("oma_jobs_created", "created_at", "id"),
    sa.Index("oma_jobs_context", "context_id", "created_at"),
    sa.Index("oma_jobs_status", "status", "created_at"),
    sa.Index("oma_jobs_kind", "kind", "created_at"),
)

job_steps = sa.Table(
    "oma_job_steps",
    metadata,
    _id("job_id", sa.ForeignKey("oma_jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False, server_default=StepStatus.PENDING.value),
    _time("started_at"),
    _time("completed_at"),
    sa.Column("error_code", sa.String(64)),
    sa.UniqueConstraint("job_id", "name", name="oma_job_steps_name"),
)

job_disks = sa.Table(
    "oma_job_disks",
    metadata,
    _id("job_id", sa.ForeignKey("oma_jobs.id", ondelete="CASCADE"), primary_key=True),
    _id("disk_id", primary_key=True),
    sa.Column("label", sa.String(255), nullable=False, server_default=""),
    _number("capacity"),
    sa.Column("volume_id", sa.String(64)),
    sa.Column("session_id", sa.String(64)),
    sa.Column("uri", sa.String(500)),
    sa.Column("mode", sa.String(16)),
    sa.Column("reason", sa.String(255)),
    _id("base_point"),
    sa.Column("status", sa.String(32), nullable=False, server_default="pending"),
    sa.Column("percent", sa.Double(), nullable=False, server_default="0"),
    _number("bytes_transferred"),
    _number("total_bytes"),
    _number("bytes_read"),
    _number("bytes_sent"),
    _number("bytes_zero"),
    _number("bytes_per_second"),
    _id("point"),
    sa.Column("incarnation", sa.String(64)),
    sa.Column("proof", sa.String(16)),
)

disks = sa.Table(
    "oma_disks",
    metadata,
    _context_id(sa.ForeignKey("vm_replication_contexts.context_id", ondelete="CASCADE"), primary_key=True),
    _id("disk_id", primary_key=True),
    sa.Column("label", sa.String(255), nullable=False, server_default=""),
    sa.Column("path", sa.String(500), nullable=False, server_default=""),
    sa.Column("unit_number", sa.Integer(), nullable=False, server_default="0"),
    _number("capacity"),
    sa.Column("present", sa.Boolean(), nullable=False, server_default=sa.true()),
    sa.Column("volume_id", sa.String(64), unique=True),
    sa.Column("holds", sa.String(16), nullable=False, server_default="nothing"),
    _id("point"),
    _number("generation", None),
    _time("proved_at"),
    _time("updated_at", nullable=False),
)

sources = sa.Table(
    "oma_sources",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("url", sa.String(500), nullable=False),
    sa.Column("token_file", sa.String(500), nullable=False),
    sa.Column("agent_id", sa.String(191)),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
)

machines = sa.Table(
    "oma_machines",
    metadata,
    _context_id(sa.ForeignKey("vm_replication_contexts.context_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("source", sa.String(64), sa.ForeignKey("oma_sources.name"), nullable=False),
    sa.Index("oma_machines_source", "source"),
)

tokens = sa.Table(
    "oma_tokens",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.String(191), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    _time("created_at", nullable=False),
    _time("expires_at"),
)

settings = sa.Table("oma_settings", metadata, sa.Column("name", sa.String(64), primary_key=True), _json("value"))

claims = sa.Table(
    "oma_claims",
    metadata,
    sa.Column("epoch", sa.BigInteger(), primary_key=True, autoincrement=False),
    _id("job_id", nullable=False),
    sa.Column("owner", sa.String(64), nullable=False),
    _time("claimed_at", nullable=False),
)

events = sa.Table(
    "oma_events",
    metadata,
    sa.Column("id", Counter, primary_key=True),
    _time("at", nullable=False),
    _id("job_id"),
    sa.Column("kind", sa.String(64), nullable=False),
    _json("data"),
    sa.Index("oma_events_job", "job_id", "id"),
    sqlite_autoincrement=True,
)

schema_migrations = sa.Table(
    "schema_migrations",
    metadata,
    sa.Column("version", sa.String(14), primary_key=True),
    sa.Column("description", sa.String(255), nullable=False),
    _time("applied_at", nullable=False),
    sa.Column("checksum", sa.String(64)),
)
