"""What of a source's report goes into which column: one place, for followers and for the flow of a job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omactl.rules.recovery import Answer
from omactl.rules.transitions import JobStatus
from omactl.sources.normalise import DiskReport, Report
from omactl.store.jobs import ProgressWrite
from omactl.store.rows import Hold, JobDisk
from omavol.schema.common import now

__all__ = ["disk_after", "progress_write"]

_FIGURES = (
    "status",
    "percent",
    "bytes_transferred",
    "total_bytes",
    "bytes_read",
    "bytes_sent",
    "bytes_zero",
    "bytes_per_second",
)


def progress_write(hold: Hold, report: Report, unanswered: float) -> ProgressWrite:
    """The write that brings a job's row and its disks to the report; an old report says nothing while none comes."""
    values: dict[str, Any] = {"unanswered_seconds": unanswered}
    if report.answer in (Answer.NOT_ASKED, Answer.NOT_FOUND) or unanswered:
        return ProgressWrite(hold, values)
    values |= {
        "percent": report.percent,
        "phase": report.phase,
        "bytes_transferred": report.bytes_transferred,
        "total_bytes": report.total_bytes,
        "bytes_per_second": report.bytes_per_second,
        "eta_seconds": report.eta_seconds,
        "answered_at": now(),
    }
    if report.sync_type:
        values["sync_type"] = report.sync_type
    copying = JobStatus.SNAPSHOTTING if report.preparing else JobStatus.REPLICATING
    return ProgressWrite(hold, values, {disk.disk_id: _values(disk) for disk in report.disks}, copying)


def disk_after(disk: JobDisk, report: Report) -> JobDisk:
    """The disk's row as its source left it, with the point and the server's incarnation that it claims."""
    told = next((each for each in report.disks if each.disk_id == disk.disk_id), None)
    if told is None:
        return disk
    after = replace(disk, **_values(told))
    return replace(after, point=told.proof.point, incarnation=told.proof.incarnation) if told.proof else after


def _values(disk: DiskReport) -> dict[str, Any]:
    values = {name: getattr(disk, name) for name in _FIGURES}
    return values | {name: value for name in ("mode", "reason") if (value := getattr(disk, name))}
