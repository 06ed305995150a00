"""Jobs and replications over the wire."""

from __future__ import annotations

from typing import Any

import msgspec

from omavol.schema.common import Time

__all__ = [
    "CbtEntry",
    "CreatedVolume",
    "JobDetail",
    "JobDiskRow",
    "JobList",
    "JobRow",
    "JobStepRow",
    "MachineAdded",
    "NewReplication",
    "Part",
    "ProgressRow",
    "RecentJobs",
    "ReplicationPage",
    "ReplicationStarted",
    "Replications",
    "SourceVm",
]


class JobRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the unified list. Sizes in bytes; `progress` is percent of the transfer, `setup_progress` before."""

    job_id: str
    external_job_id: str
    job_type: str
    status: str
    progress: float
    setup_progress: float
    started_at: Time
    created_at: Time
    display_name: str
    data_source: str
    context_id: str
    vm_name: str
    steps_completed: int
    steps_total: int
    bytes_transferred: int
    total_bytes: int
    bytes_per_second: int
    eta_seconds: int | None = None
    sync_type: str | None = None
    current_step: str | None = None
    failed_step: str | None = None
    completed_at: Time | None = None
    duration_seconds: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_category: str | None = None
    error_severity: str | None = None
    actionable_steps: list[str] | None = None
    cancel_requested_at: Time | None = None
    parent_job_id: str | None = None


class JobList(msgspec.Struct, kw_only=True):
    """A page, newest first; ask again with `cursor=next_cursor` until that is null."""

    jobs: list[JobRow]
    count: int
    next_cursor: str | None


class JobStepRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`name` is the program's, `title` a person's."""

    name: str
    title: str
    status: str
    started_at: Time | None = None
    completed_at: Time | None = None
    error_code: str | None = None


class JobDiskRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One disk of a job. `bytes_transferred` of `total_bytes` are planned bytes done; the rest counts what moved."""

    disk_id: str
    label: str
    capacity_bytes: int
    status: str
    percent: float
    bytes_transferred: int
    total_bytes: int
    bytes_read: int
    bytes_sent: int
    bytes_zero: int
    bytes_per_second: int
    volume_id: str | None = None
    mode: str | None = None
    reason: str | None = None
    base_point: str | None = None
    point: str | None = None
    proof: str | None = None


class JobDetail(JobRow, kw_only=True, omit_defaults=True):
    """A job with its steps and disks. `details` is technical text for support: for administrators only."""

    started_by: str
    steps: list[JobStepRow]
    disks: list[JobDiskRow]
    options: dict[str, Any] | None = None
    details: str | None = None


class RecentJobs(msgspec.Struct, kw_only=True):
    context_id: str
    jobs: list[JobRow]
    count: int


# --- replications ------------------------------------------------------------------------------------------------


class SourceVm(msgspec.Struct, kw_only=True):
    """The machine to replicate, as discovery gave it; only what identifies it is used, the rest is asked anew."""

    id: str
    name: str
    path: str


class NewReplication(msgspec.Struct, kw_only=True):
    """Name the machine by `source_vm`, `context_id` or `vm_name`. `start_replication: false` only puts it under
    management. `replication_type` `initial` copies in full; otherwise an increment is made where one is possible.
    `rate_limit` is bytes a second over all its disks.
    """

    source_vm: SourceVm | None = None
    context_id: str | None = None
    vm_name: str | None = None
    source: str | None = None
    replication_type: str | None = None
    start_replication: bool = True
    rate_limit: int | None = None
    scheduled_by: str | None = None


class CreatedVolume(msgspec.Struct, kw_only=True):
    volume_id: str
    volume_name: str
    size_gb: int
    status: str


class ReplicationStarted(msgspec.Struct, kw_only=True):
    """The job is made; its set-up goes on after this answer. Volumes are those that the machine has already."""

    job_id: str
    context_id: str
    status: str
    progress_percent: float
    source_vm: SourceVm
    created_volumes: list[CreatedVolume]
    mounted_volumes: list[dict[str, str]]
    started_at: Time
    message: str


class MachineAdded(msgspec.Struct, kw_only=True):
    """The answer to `start_replication: false`."""

    context_id: str
    vm_name: str
    vmware_vm_id: str
    current_status: str
    message: str
    created_at: Time


class Replications(msgspec.Struct, kw_only=True):
    replications: list[JobRow]
    count: int
    next_cursor: str | None


class CbtEntry(msgspec.Struct, kw_only=True):
    """A point that a disk's copy reached in a job: `change_id` the point, `previous_change_id` the one it stood on."""

    job_id: str
    disk_id: str
    change_id: str
    previous_change_id: str | None
    sync_type: str | None
    bytes_transferred: int
    sync_success: bool
    created_at: Time


class ReplicationPage(msgspec.Struct, kw_only=True):
    """One replication, as older readers have it; GET /jobs/{id} has more."""

    job_id: str
    status: str
    progress_percent: float
    current_operation: str | None
    created_at: Time
    updated_at: Time
    started_at: Time | None
    completed_at: Time | None
    source_vm: SourceVm
    configuration: dict[str, Any]
    disks: list[JobDiskRow]
    mounts: list[dict[str, str]]
    cbt_history: list[CbtEntry]
    error_message: str | None
    actionable_steps: list[str]


class Part(msgspec.Struct, kw_only=True):
    """One disk in a progress object."""

    disk_id: str
    label: str
    bytes_transferred: int
    total_bytes: int
    percent: float
    throughput_mbps: float
    status: str


class ProgressRow(msgspec.Struct, kw_only=True):
    """The progress of a job as last recorded; `is_live`: its source answered within the last 30 s. MiB a second."""

    job_id: str
    status: str
    sync_type: str | None
    phase: str | None
    percentage: float
    setup_percentage: float
    current_operation: str | None
    bytes_transferred: int
    total_bytes: int
    throughput: dict[str, float]
    timing: dict[str, Any]
    disk_progresses: list[Part]
    is_live: bool
    last_polled: Time | None
    unanswered_seconds: float
