"""A machine's status after a job: from what its volumes hold, never from how the last job went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from omactl.rules.transitions import ContextStatus

__all__ = ["DiskFacts", "Holds", "Verdict", "after_job"]


class Holds(StrEnum):
    """What the volume of a disk holds: no copy yet, one proved point, or a pass that was never proved."""

    NOTHING = "nothing"
    POINT = "point"
    TORN = "torn"


@dataclass(frozen=True)
class DiskFacts:
    """One disk of a machine. `point` only where it holds one."""

    disk_id: str
    holds: Holds
    point: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The status, and the disks that keep the machine from being ready."""

    status: ContextStatus
    disks: tuple[str, ...] = ()


_FAILED_OVER = frozenset({ContextStatus.FAILED_OVER_TEST, ContextStatus.FAILED_OVER_LIVE})


def after_job(before: ContextStatus, disks: Sequence[DiskFacts]) -> Verdict:
    """The status of a machine without a live job (BEHAVIOUR.md 3.4, 4b). First line that holds:

    failed over: stays so · a torn disk: failed · nothing ever copied: discovered · a disk without a copy: failed
    · all at one point: ready for failover · else (points differ): failed, naming those off the newest point.
    """
    if before in _FAILED_OVER:
        return Verdict(before)
    if torn := tuple(disk.disk_id for disk in disks if disk.holds is Holds.TORN):
        return Verdict(ContextStatus.FAILED, torn)
    empty = tuple(disk.disk_id for disk in disks if disk.holds is Holds.NOTHING)
    if len(empty) == len(disks):
        return Verdict(ContextStatus.DISCOVERED)
    if empty:
        return Verdict(ContextStatus.FAILED, empty)
    newest = max(disk.point or "" for disk in disks)
    behind = tuple(disk.disk_id for disk in disks if disk.point != newest)
    return Verdict(ContextStatus.FAILED, behind) if behind else Verdict(ContextStatus.READY_FOR_FAILOVER)
