"""What is written down of a point, so that it can be ended properly after any crash."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

import msgspec

__all__ = ["Ledger", "MemoryLedger", "Phase", "PointDisk", "PointRecord", "bitmap_of", "is_ours", "point_of"]

PREFIX = "oma-"


class Phase(StrEnum):
    """`freezing` is written before the first side effect, `frozen` after the last, `completed` when all is copied."""

    FREEZING = "freezing"
    FROZEN = "frozen"
    COMPLETED = "completed"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


class PointDisk(msgspec.Struct, frozen=True, kw_only=True):
    """`handle` names, in QEMU, all that is made for this disk: the overlay's node, the backup job, the export."""

    disk_id: str
    file: str
    format: str
    node: str | None
    handle: str
    overlay: str


class PointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`daemon_pid`: our own qemu-storage-daemon that holds a stopped machine's images open.

    `released`: overlays, jobs, exports and the own daemon are gone.
    """

    id: str
    machine_id: str
    phase: Phase
    disks: tuple[PointDisk, ...]
    monitor: str | None = None
    daemon_pid: int | None = None
    released: bool = False

    def at(self, phase: Phase) -> PointRecord:
        return msgspec.structs.replace(self, phase=phase)


class Ledger(Protocol):
    """Where points are written down; `save` returns when the record survives a crash."""

    def save(self, record: PointRecord) -> None: ...

    def get(self, point_id: str) -> PointRecord | None: ...

    def points(self) -> Iterable[PointRecord]: ...


class MemoryLedger:
    """A ledger that forgets at the end of the process: for tools and tests."""

    def __init__(self) -> None:
        self._records: dict[str, PointRecord] = {}

    def save(self, record: PointRecord) -> None:
        self._records[record.id] = record

    def get(self, point_id: str) -> PointRecord | None:
        return self._records.get(point_id)

    def points(self) -> Iterable[PointRecord]:
        return tuple(self._records.values())


def bitmap_of(point_id: str) -> str:
    """The name of the dirty bitmap that records changes since the point."""
    return f"{PREFIX}{point_id}"


def is_ours(name: str) -> bool:
    return name.startswith(PREFIX)


def point_of(bitmap: str) -> str:
    """The point since which a bitmap of ours records."""
    return bitmap.removeprefix(PREFIX)
