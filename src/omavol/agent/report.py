"""Progress as the source API shows it: one disk's figures, and the sums over all disks. Pure; the clock is given."""

from __future__ import annotations

from datetime import datetime

import msgspec

from omavol.copy.progress import Progress as Meter
from omavol.schema.source import DiskProgress, DiskProof, Progress, SourceStatus, Throughput, Timing
from omavol.source.machine import FrozenDisk

__all__ = ["Counters", "disk_before_freeze", "disk_frozen", "disk_now", "finished", "summed"]

MIB = 1 << 20
ETA_LIMIT = 86_400  # seconds; BEHAVIOUR.md section 8


class Counters(msgspec.Struct, frozen=True):
    """What a running copy counts, in bytes: `done` of `planned`, and what really moved."""

    planned: int = 0
    done: int = 0
    read: int = 0
    sent: int = 0
    zero: int = 0


def disk_before_freeze(disk_id: str, label: str, size: int) -> DiskProgress:
    return DiskProgress(
        disk_id=disk_id,
        label=label,
        mode="full",
        reason="",
        status=SourceStatus.PREPARING,
        bytes_transferred=0,
        total_bytes=0,
        percent=0.0,
        throughput_mbps=0.0,
        capacity_bytes=size,
        bytes_read=0,
        bytes_sent=0,
        bytes_zero=0,
    )


def disk_frozen(disk: DiskProgress, frozen: FrozenDisk) -> DiskProgress:
    mode = "full" if frozen.context is None else "incremental"
    return msgspec.structs.replace(
        disk, mode=mode, reason=frozen.reason, capacity_bytes=frozen.size, status=SourceStatus.RUNNING
    )


def disk_now(disk: DiskProgress, counters: Counters, rate: float) -> DiskProgress:
    """The disk with these counters; `rate` is bytes a second."""
    percent = 100.0 * counters.done / counters.planned if counters.planned else 0.0
    return msgspec.structs.replace(
        disk,
        bytes_transferred=counters.done,
        total_bytes=counters.planned,
        percent=round(min(percent, 100.0), 2),
        throughput_mbps=round(rate / MIB, 2),
        bytes_read=counters.read,
        bytes_sent=counters.sent,
        bytes_zero=counters.zero,
    )


def finished(disk: DiskProgress, proof: DiskProof) -> DiskProgress:
    """A disk of which every byte was acknowledged and flushed; a pass without changes is whole too."""
    return msgspec.structs.replace(
        disk, status=SourceStatus.COMPLETED, percent=100.0, throughput_mbps=0.0, proof=proof, error=None
    )


def summed(before: Progress, disks: list[DiskProgress], meter: Meter, now: datetime, *, sequence: int) -> Progress:
    """The job's progress with these disks; `meter` has seen the sum of their bytes."""
    done, total = sum(disk.bytes_transferred for disk in disks), sum(disk.total_bytes for disk in disks)
    percentage = min(100.0, 100.0 * done / total) if total else sum(disk.percent for disk in disks) / len(disks)
    incremental = all(disk.mode == "incremental" for disk in disks)
    elapsed = now - before.timing.start_time
    eta = meter.eta
    return msgspec.structs.replace(
        before,
        sync_type="incremental" if incremental else "full",
        bytes_transferred=done,
        total_bytes=total,
        percentage=round(percentage, 2),
        disk_progresses=disks,
        throughput=Throughput(
            current_mbps=round(meter.rate / MIB, 2),
            average_mbps=round(meter.average / MIB, 2),
            peak_mbps=round(meter.peak / MIB, 2),
            last_update=now,
        ),
        timing=Timing(
            start_time=before.timing.start_time,
            last_update=now,
            elapsed_ms=int(elapsed.total_seconds() * 1000),
            eta_seconds=None if eta is None else min(int(eta), ETA_LIMIT),
        ),
        sequence=sequence,
    )
