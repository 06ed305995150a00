"""Every agent's words for the state of a job, made one: three generations of them live together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from omactl.rules.recovery import Answer
from omavol.schema.source import DiskProof, Progress, SourceStatus

__all__ = ["WORDS", "DiskReport", "Report", "normalise", "of_progress", "status_of", "word_of"]

_PREPARING, _RUNNING = SourceStatus.PREPARING, SourceStatus.RUNNING

# Lower case. First the phases of the oldest parser, then the stages and statuses of the appliance, then what the mover
# really sends, then our own agent's words.
WORDS: dict[str, SourceStatus] = {
    "initializing": _PREPARING,
    "snapshot creation": _PREPARING,
    "copying data": _RUNNING,
    "cleanup": _RUNNING,
    "completed": SourceStatus.COMPLETED,
    "error": SourceStatus.FAILED,
    "discover": _PREPARING,
    "enablecbt": _PREPARING,
    "querycbt": _PREPARING,
    "snapshot": _PREPARING,
    "preparevolumes": _PREPARING,
    "startexports": _PREPARING,
    "transfer": _RUNNING,
    "finalize": _RUNNING,
    "persistchangeids": _RUNNING,
    "queued": _PREPARING,
    "preparing": _PREPARING,
    "snapshotting": _PREPARING,
    "streaming": _RUNNING,
    "finalizing": _RUNNING,
    "succeeded": SourceStatus.COMPLETED,
    "failed": SourceStatus.FAILED,
    "in_progress": _RUNNING,
    "running": _RUNNING,
    "cancelled": SourceStatus.CANCELLED,
    "canceled": SourceStatus.CANCELLED,
}

_ENDED_BADLY = (SourceStatus.FAILED, SourceStatus.CANCELLED)

ANSWERS: dict[SourceStatus, Answer] = {
    SourceStatus.PREPARING: Answer.RUNNING,
    SourceStatus.RUNNING: Answer.RUNNING,
    SourceStatus.COMPLETED: Answer.COMPLETED,
    SourceStatus.FAILED: Answer.FAILED,
    SourceStatus.CANCELLED: Answer.CANCELLED,
}


@dataclass(frozen=True)
class DiskReport:
    """One disk of a job as its source reports it; bytes, and bytes a second."""

    disk_id: str
    status: str
    mode: str | None = None
    reason: str | None = None
    percent: float = 0.0
    bytes_transferred: int = 0
    total_bytes: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_zero: int = 0
    bytes_per_second: int = 0
    proof: DiskProof | None = None


@dataclass(frozen=True)
class Report:
    """A job as its source reports it. `error` is the source's own text: technical, never shown as it is."""

    answer: Answer
    preparing: bool = False
    sync_type: str | None = None
    phase: str | None = None
    percent: float = 0.0
    bytes_transferred: int = 0
    total_bytes: int = 0
    bytes_per_second: int = 0
    eta_seconds: int | None = None
    committed: bool = False
    error: str | None = None
    error_code: str | None = None
    disks: tuple[DiskReport, ...] = ()


def word_of(text: object) -> SourceStatus | None:
    """One word of any generation, in any case; None for one that none of them has."""
    return WORDS.get(text.strip().lower()) if isinstance(text, str) else None


def status_of(
    status: object, phase: object, percentage: float, errors: Sequence[object], disks: Sequence[object]
) -> SourceStatus | None:
    """What a progress object means as a whole; None when it means nothing.

    Failure outranks, wherever it is said. The job is completed only when every disk it names is: the mover says
    "completed" once a disk, and that is said of the first one while others still copy.
    """
    words = (word_of(status), word_of(phase))
    for bad in _ENDED_BADLY:
        if bad in words:
            return bad
    if errors:
        return SourceStatus.FAILED
    if SourceStatus.COMPLETED in words:
        return SourceStatus.COMPLETED if all(word_of(disk) is SourceStatus.COMPLETED for disk in disks) else _RUNNING
    if _RUNNING in words or 0 < percentage < 100:
        return _RUNNING
    return _PREPARING if _PREPARING in words else None


def of_progress(progress: Progress) -> Report:
    """The report of our own agent, whose answers are typed."""
    return normalise(msgspec.to_builtins(progress))


def normalise(raw: Mapping[str, Any]) -> Report:
    """The report of any agent, from the JSON it answered. A text that says "not found" is an answer too."""
    text = str(raw.get("error") or raw.get("message") or "")
    if "not found" in text.lower() and "status" not in raw:
        return Report(Answer.NOT_FOUND)
    disks = [disk for disk in raw.get("disk_progresses") or () if isinstance(disk, Mapping)]
    errors = list(raw.get("errors") or ())
    percent = float(raw.get("percentage") or 0)
    status = status_of(raw.get("status"), raw.get("phase"), percent, errors, [disk.get("status") for disk in disks])
    throughput, timing = raw.get("throughput") or {}, raw.get("timing") or {}
    sync = str(raw.get("sync_type") or "").lower()
    return Report(
        answer=Answer.UNKNOWN if status is None else ANSWERS[status],
        preparing=status is _PREPARING,
        sync_type={"full": "initial", "initial": "initial", "incremental": "incremental"}.get(sync),
        phase=raw.get("phase"),
        percent=100.0 if status is SourceStatus.COMPLETED else min(percent, 100.0),
        bytes_transferred=int(raw.get("bytes_transferred") or 0),
        total_bytes=int(raw.get("total_bytes") or 0),
        bytes_per_second=_bytes_per_second(throughput.get("current_mbps")),
        eta_seconds=timing.get("eta_seconds"),
        committed=bool(raw.get("committed")),
        error=raw.get("last_error") or "; ".join(map(str, errors)) or None,
        error_code=raw.get("error_code"),
        disks=tuple(_disk(disk) for disk in disks),
    )


def _disk(raw: Mapping[str, Any]) -> DiskReport:
    word = word_of(raw.get("status"))
    proof = raw.get("proof")
    return DiskReport(
        disk_id=str(raw.get("disk_id") or ""),
        status=word.value if word else "unknown",
        mode=raw.get("mode"),
        reason=raw.get("reason"),
        percent=float(raw.get("percent") or 0),
        bytes_transferred=int(raw.get("bytes_transferred") or 0),
        total_bytes=int(raw.get("total_bytes") or 0),
        bytes_read=int(raw.get("bytes_read") or 0),
        bytes_sent=int(raw.get("bytes_sent") or 0),
        bytes_zero=int(raw.get("bytes_zero") or 0),
        bytes_per_second=_bytes_per_second(raw.get("throughput_mbps")),
        proof=msgspec.convert(proof, DiskProof) if proof else None,
    )


def _bytes_per_second(mebibytes: object) -> int:
    """The API says MiB a second."""
    return int(mebibytes * (1 << 20)) if isinstance(mebibytes, int | float) else 0
