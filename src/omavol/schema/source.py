"""The source API (BEHAVIOUR.md section 8): what an agent tells of its machines, and how it is asked to copy them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from omavol.schema.common import Name, Problem, Size, Time

__all__ = [
    "AgentHealth",
    "AgentVersion",
    "ChangeRate",
    "Cleanup",
    "Discover",
    "Discovered",
    "DiskDescription",
    "DiskProgress",
    "DiskProof",
    "Machine",
    "NbdTarget",
    "NetworkDescription",
    "PowerState",
    "Progress",
    "Replicate",
    "Replicating",
    "Replications",
    "SourceStatus",
    "Status",
    "Throughput",
    "Timing",
    "VmInfo",
]


class PowerState(StrEnum):
    ON = "poweredOn"
    OFF = "poweredOff"
    SUSPENDED = "suspended"


class DiskDescription(msgspec.Struct, kw_only=True):
    """`id` is the source's own key (VMware's device key is 2000 and up); `tracks_changes`: an increment is possible."""

    id: Name
    label: str
    path: str
    capacity_bytes: Size
    size_gb: int
    format: str
    unit_number: int
    datastore: str = ""
    provisioning_type: str = "thin"
    vmdk_path: str = ""
    tracks_changes: bool = False


class NetworkDescription(msgspec.Struct, kw_only=True):
    label: str
    network_name: str = ""
    adapter_type: str = ""
    mac_address: str = ""
    connected: bool = True
    type: str = ""


class Machine(msgspec.Struct, kw_only=True):
    """A machine as its source knows it. `id` is stable over renames; `path` is what `vm_paths` of Replicate takes."""

    id: Name
    name: str
    path: str
    datacenter: str = ""
    power_state: PowerState
    guest_os: str = ""
    os_type: str = ""
    memory_mb: int = 0
    num_cpu: int = 0
    cpus: int = 0
    display_name: str = ""
    annotation: str = ""
    disks: list[DiskDescription]
    networks: list[NetworkDescription] = []


class Discover(msgspec.Struct, kw_only=True):
    """`filter` is a comma list of substrings of names, case ignored; the rest is for sources that need it."""

    vcenter: str = ""
    username: str = ""
    password: str = ""
    datacenter: str = ""
    filter: str = ""


class Discovered(msgspec.Struct, kw_only=True):
    """`problems`: what is wrong with each machine that could not be described; `instance` is its path."""

    vcenter: dict[str, str]
    vms: list[Machine]
    problems: list[Problem] = []


# --- replicate ---------------------------------------------------------------------------------------------------


class NbdTarget(msgspec.Struct, kw_only=True):
    """One disk's destination. `base_point`: send only what changed since it; None sends everything.

    The export's size must equal the disk's capacity, or the job fails before a byte is sent.
    """

    device_path: str
    vmware_disk_key: Name
    base_point: Name | None = None


class Replicate(msgspec.Struct, kw_only=True):
    job_id: Name
    vm_paths: list[str]
    nbd_targets: list[NbdTarget]
    rate_limit: int | None = None
    connections: int = 4
    # What an older control plane sends to a VMware source and this agent does not need:
    vcenter: str = ""
    username: str = ""
    password: str = ""
    oma_url: str = ""


class Replicating(msgspec.Struct, kw_only=True):
    job_id: Name
    status: str
    vm_count: int
    started_at: Time


class ChangeRate(msgspec.Struct, kw_only=True):
    """Bytes a second over all disks of the job; None lifts the limit."""

    rate_limit: int | None


class Cleanup(msgspec.Struct, kw_only=True):
    """What an older control plane asks after a failure: `action` delete_snapshot or cleanup_all gives the point up."""

    job_id: Name
    action: str
    status: str = ""


# --- progress ----------------------------------------------------------------------------------------------------


class SourceStatus(StrEnum):
    """A job at the source. Final: completed (every disk flushed, digests kept until commit), failed, cancelled."""

    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DiskProof(msgspec.Struct, kw_only=True):
    """What the source claims of a finished disk; the digests themselves: GET .../disks/{disk_id}/digests."""

    point: Name
    base_point: Name | None
    incarnation: str
    pieces: int


class DiskProgress(msgspec.Struct, kw_only=True):
    """`bytes_transferred` of `total_bytes` are planned bytes done; read, sent and zero count what really moved."""

    disk_id: Name
    label: str
    mode: str  # full | incremental
    reason: str
    status: SourceStatus
    bytes_transferred: int
    total_bytes: int
    percent: float
    throughput_mbps: float
    capacity_bytes: int
    bytes_read: int
    bytes_sent: int
    bytes_zero: int
    proof: DiskProof | None = None
    error: str | None = None


class Throughput(msgspec.Struct, kw_only=True):
    """MiB a second, as the older API has it."""

    current_mbps: float
    average_mbps: float
    peak_mbps: float
    last_update: Time


class Timing(msgspec.Struct, kw_only=True):
    start_time: Time
    last_update: Time
    elapsed_ms: int
    eta_seconds: int | None


class VmInfo(msgspec.Struct, kw_only=True):
    name: str
    path: str
    disk_size_bytes: int
    cbt_enabled: bool


class Progress(msgspec.Struct, kw_only=True):
    """The progress object of BEHAVIOUR.md section 8; sums over all disks, disk by disk beneath.

    `error_code` is stable (see agent.errors); `last_error` is its sentence. `committed`: the points are now the base.
    """

    job_id: Name
    status: SourceStatus
    sync_type: str  # full | incremental
    phase: str
    percentage: float
    current_operation: str
    bytes_transferred: int
    total_bytes: int
    throughput: Throughput
    timing: Timing
    vm_info: VmInfo
    disk_progresses: list[DiskProgress]
    committed: bool = False
    rate_limit: int | None = None
    errors: list[str] = []
    last_error: str | None = None
    error_code: str | None = None
    sequence: int = 0


class Replications(msgspec.Struct, kw_only=True):
    """Every job whose `sequence` is greater than `since`; ask again with `cursor`."""

    replications: list[Progress]
    cursor: int
    agent_id: str


class Status(msgspec.Struct, kw_only=True):
    job_id: Name
    status: str
    progress_percent: float
    current_operation: str
    start_time: Time
    last_update: Time
    vm_path: str | None = None


class AgentHealth(msgspec.Struct, kw_only=True):
    status: str
    timestamp: Time
    uptime: float


class AgentVersion(msgspec.Struct, kw_only=True):
    """Features by name: a client asks for what it needs, not for a version."""

    agent_id: str
    version: str
    features: list[str]
    details: dict[str, Any] = {}
