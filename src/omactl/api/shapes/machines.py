"""Machines and discovery over the wire."""

from __future__ import annotations

from typing import Any

import msgspec

from omactl.api.shapes.jobs import CbtEntry, JobRow
from omavol.schema.common import Time

__all__ = [
    "AddMachines",
    "Added",
    "ContextDisk",
    "ContextPage",
    "ContextRow",
    "Contexts",
    "Discover",
    "DiscoveredMachine",
    "Discovery",
    "ProcessedMachine",
]


class ContextRow(msgspec.Struct, kw_only=True):
    """A machine under management."""

    context_id: str
    vm_name: str
    vmware_vm_id: str
    vm_path: str
    vcenter_host: str
    datacenter: str
    source: str | None
    current_status: str
    current_job_id: str | None
    cpu_count: int | None
    memory_mb: int | None
    os_type: str | None
    power_state: str | None
    total_jobs_run: int
    successful_jobs: int
    failed_jobs: int
    last_successful_job_id: str | None
    auto_added: bool
    scheduler_enabled: bool
    created_at: Time
    updated_at: Time
    first_job_at: Time | None
    last_job_at: Time | None
    last_status_change: Time
    current_job: JobRow | None


class ContextDisk(msgspec.Struct, kw_only=True):
    """`holds`: `nothing`, `point` (a proved copy as of `point`) or `torn` (a copy that was not finished)."""

    disk_id: str
    label: str
    path: str
    unit_number: int
    capacity_bytes: int
    size_gb: int
    volume_id: str | None
    holds: str
    point: str | None
    proved_at: Time | None


class Contexts(msgspec.Struct, kw_only=True):
    vm_contexts: list[ContextRow]
    count: int


class ContextPage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`job_history` the newest 10, `cbt_history` the newest 20; `last_operation` the summary of the last job."""

    context: ContextRow
    job_history: list[JobRow]
    disks: list[ContextDisk]
    cbt_history: list[CbtEntry]
    current_job: JobRow | None = None
    last_operation: dict[str, Any] | None = None


class Discover(msgspec.Struct, kw_only=True):
    """`source` may be left out where there is one. `create_context` puts the selected (or all) under management."""

    source: str | None = None
    filter: str | None = None
    selected_vms: list[str] | None = None
    create_context: bool = False


class DiscoveredMachine(msgspec.Struct, kw_only=True):
    id: str
    name: str
    path: str
    power_state: str
    guest_os: str
    num_cpu: int
    memory_mb: int
    disks: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    existing: bool
    context_id: str | None


class ProcessedMachine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`status`: `added`, `known` or `failed`."""

    vm_name: str
    status: str
    context_id: str | None = None
    error_message: str | None = None


class Added(msgspec.Struct, kw_only=True):
    success: bool
    message: str
    vms_added: int
    vms_failed: int
    total_vms: int
    processed_vms: list[ProcessedMachine]


class Discovery(msgspec.Struct, kw_only=True):
    """`processing_time` in seconds."""

    discovered_vms: list[DiscoveredMachine]
    addition_result: Added | None
    discovery_count: int
    processing_time: float
    status: str
    message: str


class AddMachines(msgspec.Struct, kw_only=True):
    vm_names: list[str]
    source: str | None = None
