"""Rows as values: what the store gives out, never a live object of the database library."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from omactl.rules.context import Holds
from omactl.rules.transitions import FINAL, ContextStatus, JobStatus, StepStatus

__all__ = ["Context", "Disk", "Hold", "Job", "JobDisk", "JobStep", "Source", "columns_of", "of_row"]

R = TypeVar("R")


@dataclass(frozen=True)
class Hold:
    """The right to write a job: held by one owner at a time, void once a newer epoch is handed out."""

    job_id: str
    epoch: int


@dataclass(frozen=True)
class Job:
    """A row of oma_jobs. Sizes in bytes; `unanswered_seconds` is time spent asking the source in vain."""

    id: str
    kind: str
    status: JobStatus
    context_id: str
    parent_id: str | None
    owner: str | None
    epoch: int
    options: dict[str, Any] | None
    started_by: str
    sync_type: str | None
    phase: str | None
    percent: float
    setup_percent: float
    bytes_transferred: int
    total_bytes: int
    bytes_per_second: int
    eta_seconds: int | None
    answered_at: datetime | None
    unanswered_seconds: float
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    error_code: str | None
    error_facts: dict[str, Any] | None
    error_details: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", JobStatus(self.status))

    @property
    def live(self) -> bool:
        return self.status not in FINAL

    @property
    def hold(self) -> Hold:
        return Hold(self.id, self.epoch)


@dataclass(frozen=True)
class JobStep:
    """A row of oma_job_steps."""

    job_id: str
    seq: int
    name: str
    status: StepStatus
    started_at: datetime | None
    completed_at: datetime | None
    error_code: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", StepStatus(self.status))


@dataclass(frozen=True)
class JobDisk:
    """A row of oma_job_disks: one disk in one job. `uri` holds the one-time export name: never shown to anyone."""

    job_id: str
    disk_id: str
    label: str = ""
    capacity: int = 0
    volume_id: str | None = None
    session_id: str | None = None
    uri: str | None = None
    mode: str | None = None
    reason: str | None = None
    base_point: str | None = None
    status: str = "pending"
    percent: float = 0.0
    bytes_transferred: int = 0
    total_bytes: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_zero: int = 0
    bytes_per_second: int = 0
    point: str | None = None
    incarnation: str | None = None
    proof: str | None = None


@dataclass(frozen=True)
class Context:
    """A row of vm_replication_contexts with the name of its source."""

    context_id: str
    vm_name: str
    vmware_vm_id: str
    vm_path: str
    vcenter_host: str
    datacenter: str
    current_status: ContextStatus
    current_job_id: str | None
    total_jobs_run: int
    successful_jobs: int
    failed_jobs: int
    last_successful_job_id: str | None
    cpu_count: int | None
    memory_mb: int | None
    os_type: str | None
    power_state: str | None
    created_at: datetime
    updated_at: datetime
    first_job_at: datetime | None
    last_job_at: datetime | None
    last_status_change: datetime
    auto_added: bool
    scheduler_enabled: bool
    last_operation_summary: dict[str, Any] | None
    source: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "current_status", ContextStatus(self.current_status))


@dataclass(frozen=True)
class Disk:
    """A row of oma_disks: a disk of a machine, the volume of its copy, and what that held when last seen."""

    context_id: str
    disk_id: str
    label: str
    path: str
    unit_number: int
    capacity: int
    present: bool
    volume_id: str | None
    holds: Holds
    point: str | None
    generation: int | None
    proved_at: datetime | None
    updated_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", Holds(self.holds))


@dataclass(frozen=True)
class Source:
    """A row of oma_sources. The token itself is in a file, never in the database."""

    name: str
    url: str
    token_file: str
    agent_id: str | None
    created_at: datetime
    updated_at: datetime


def columns_of(kind: type[Any], table: sa.Table) -> list[sa.Column[Any]]:
    """The columns of a table that a row value has."""
    return [table.c[field.name] for field in fields(kind) if field.name in table.c]


def of_row(kind: type[R], row: sa.Row[Any]) -> R:
    """The row as a value."""
    return kind(**row._asdict())
