"""The volume API of the daemon (BEHAVIOUR.md section 2): volumes, operations, write sessions, exports, health."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from omavol.schema.common import Name, Problem, Size, Time

__all__ = [
    "AtPoint",
    "AttachVolume",
    "Base",
    "Content",
    "CreateVolume",
    "DeviceMapping",
    "Export",
    "Exports",
    "Finding",
    "Health",
    "OpenSession",
    "Operation",
    "OperationStatus",
    "OperationType",
    "ProofLevel",
    "ProveSession",
    "Provider",
    "Session",
    "SessionKind",
    "SessionState",
    "Torn",
    "UnknownContent",
    "Validation",
    "Volume",
    "VolumeStatus",
]


# --- what a volume holds ----------------------------------------------------------------------------------------


class ProofLevel(StrEnum):
    """How sure we are: `flushed` by the incarnation that took the writes, or read again and compared by `digest`."""

    FLUSHED = "flushed"
    DIGEST = "digest"


class UnknownContent(msgspec.Struct, tag="unknown", tag_field="state", frozen=True):
    """Nothing is known: the volume is new, or something else may have written to it."""


class AtPoint(msgspec.Struct, tag="point", tag_field="state", frozen=True, kw_only=True):
    """The volume equals its source disk at `point`, proved at `proof`."""

    point: Name
    proof: ProofLevel


class Torn(msgspec.Struct, tag="torn", tag_field="state", frozen=True, kw_only=True):
    """A pass began to write and was not proved. `base` is the last proved point: an incremental from it heals."""

    since_session: str
    job: str
    base: Name | None = None


Content = UnknownContent | AtPoint | Torn


class VolumeStatus(StrEnum):
    CREATING = "creating"
    DETACHED = "detached"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"


class Volume(msgspec.Struct, kw_only=True):
    """One volume. `size` is the source disk's, and what an export shows; `capacity` what the cloud allocated.

    `generation` grows with anything that may have changed the content outside a copy. `epoch` is the highest that a
    session asked with: a lower one is refused, so a new writer asks with `epoch + 1`.
    """

    volume_id: str
    name: str
    persistent_name: str
    size: Size
    capacity: Size
    status: VolumeStatus
    content: Content
    generation: int
    epoch: int = 0
    vm_id: str | None = None
    device_path: str | None = None
    session: Session | None = None
    created_at: Time
    updated_at: Time


# --- operations -------------------------------------------------------------------------------------------------


class OperationType(StrEnum):
    CREATE = "create"
    ATTACH = "attach"
    DETACH = "detach"
    DELETE = "delete"
    PROVE = "prove"
    MEND = "mend"


class OperationStatus(StrEnum):
    PENDING = "pending"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Operation(msgspec.Struct, kw_only=True):
    """A recorded piece of work on a volume; its row stands before the first side effect. `error` only when failed."""

    id: str
    type: OperationType
    status: OperationStatus
    volume_id: str
    vm_id: str | None = None
    request: dict[str, Any]
    response: dict[str, Any] | None = None
    error: Problem | None = None
    step: str | None = None
    created_at: Time
    updated_at: Time
    completed_at: Time | None = None


class CreateVolume(msgspec.Struct, kw_only=True):
    """`size` is the source disk's exact size; the provider rounds its own allocation up to 1 GiB."""

    name: Name
    size: Size
    disk_offering_id: str | None = None
    zone_id: str | None = None
    metadata: dict[str, str] = {}


class AttachVolume(msgspec.Struct, kw_only=True):
    """`vm_id` the machine to attach to; the appliance's own id is in GET /api/v1/provider."""

    vm_id: Name
    volume_id: str | None = None


class Provider(msgspec.Struct, kw_only=True):
    """The cloud in use and the appliance's own machine id in it. Read anew for every operation."""

    kind: str
    appliance_vm_id: Name
    settings: dict[str, str] = {}


# --- write sessions ---------------------------------------------------------------------------------------------


class SessionKind(StrEnum):
    COPY = "copy"


class SessionState(StrEnum):
    OPEN = "open"  # exported, may be written
    PROVING = "proving"  # export gone, being compared
    PROVED = "proved"  # content recorded
    ENDED = "ended"  # ended without proof: by its owner, a newer epoch, or a crash


class Base(msgspec.Struct, kw_only=True, frozen=True):
    """What an incremental stands on: the volume's generation and the point it held then."""

    generation: int
    point: Name


class OpenSession(msgspec.Struct, kw_only=True):
    """Ask for the right to write. `epoch` fences: a newer one ends the older session and its connections."""

    job: Name
    epoch: int
    kind: SessionKind = SessionKind.COPY
    base: Base | None = None


class Session(msgspec.Struct, kw_only=True):
    """The right to write to one volume through one export name of 128 random bits.

    `mode` is `incremental` only if the asked base is the volume's; otherwise `full`, and `reason` says why.
    `uri` is the best way in (a unix socket when there is one), `uris` every one; both need the server to be there.
    `unprovable_because`: the server that took its writes is gone, so it can only end unproved.
    """

    session_id: str
    volume_id: str
    job: str
    epoch: int
    kind: SessionKind
    state: SessionState
    mode: str
    reason: str
    base: Base | None
    generation: int
    size: Size
    export_name: str
    uri: str | None = None
    uris: list[str] = []
    bytes_written: int = 0
    opened_at: Time
    ended_at: Time | None = None
    ended_because: str | None = None
    unprovable_because: str | None = None


class ProveSession(msgspec.Struct, kw_only=True):
    """Close the session and record `point` once proved. `incarnation` is the server's that answered the last FLUSH.

    At level `digest` the digests must have been stored before by PUT .../digests.
    """

    point: Name
    incarnation: str
    level: ProofLevel = ProofLevel.DIGEST


# --- exports and health -----------------------------------------------------------------------------------------


class Export(msgspec.Struct, kw_only=True):
    """One served export: the record's side and the server's counters."""

    id: str
    volume_id: str
    export_name: str
    device_path: str | None
    status: str
    served: bool
    connections: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    created_at: Time
    updated_at: Time


class Exports(msgspec.Struct, kw_only=True):
    exports: list[Export]
    count: int


class DeviceMapping(msgspec.Struct, kw_only=True):
    """Where an attached volume is on this appliance; `volume_uuid` repeats `volume_id` for older readers."""

    volume_id: str
    volume_uuid: str
    vm_id: str
    device_path: str | None
    persistent_name: str
    state: str
    size: Size


class Finding(msgspec.Struct, kw_only=True):
    """One difference between the record and what is, and what became of it: `mend` names the cure, or `none`."""

    volume_id: str | None
    code: str
    detail: str
    mend: str
    mended: bool
    operation_id: str | None = None


class Validation(msgspec.Struct, kw_only=True):
    """What comparing the record with the files and the served table found; empty: they agree."""

    message: str
    findings: list[Finding]


class Health(msgspec.Struct, kw_only=True):
    """`status` is `healthy`, or `degraded` with the reasons in `problems`."""

    status: str
    timestamp: Time
    service: str
    version: str
    problems: list[str] = []
    details: dict[str, Any] = {}
