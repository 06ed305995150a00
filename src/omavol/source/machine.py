"""The interface of every source: a machine is frozen as a whole, then its point is committed or abandoned.

Nothing here knows QEMU; another source (hash-difference, VMware) implements `Source` with these same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omavol.schema.source import NetworkDescription, PowerState

__all__ = ["DiskFacts", "FrozenDisk", "MachineFacts", "Point", "Source", "SourceDisk", "SourceMachine"]


@dataclass(frozen=True)
class SourceDisk:
    """One disk as the inventory has it. `node`: the running machine's name of its block node, None: by its file."""

    id: str
    file: Path
    format: str
    label: str
    node: str | None = None


@dataclass(frozen=True)
class SourceMachine:
    """One machine as the inventory has it. `monitor` is the QMP socket of the running machine, if it can run here."""

    id: str
    name: str
    folder: Path
    disks: tuple[SourceDisk, ...]
    monitor: Path | None = None
    os_type: str = ""
    guest_os: str = ""
    memory_mb: int = 0
    num_cpu: int = 0
    annotation: str = ""
    networks: tuple[NetworkDescription, ...] = ()

    @property
    def path(self) -> str:
        """How the source API names it."""
        return f"/{self.folder.name}"


@dataclass(frozen=True)
class DiskFacts:
    """What is true of a disk now. `size` is bytes; `tracks_changes`: an increment after the next pass is possible."""

    size: int
    tracks_changes: bool


@dataclass(frozen=True)
class MachineFacts:
    power_state: PowerState
    disks: Mapping[str, DiskFacts]


@dataclass(frozen=True)
class FrozenDisk:
    """One disk at the point's instant, readable at the NBD URI `uri` until the point is released.

    `context`: the NBD meta context that marks (bit 0) what changed since `base`; both None means: read everything.
    `reason` says why it is full or incremental, for a person.
    """

    disk_id: str
    uri: str
    size: int
    context: str | None
    base: str | None
    reason: str


@dataclass(frozen=True)
class Point:
    """All disks of one machine at one instant; `id` is new and unique, and sorts by time."""

    id: str
    machine_id: str
    disks: Mapping[str, FrozenDisk]


class Source(Protocol):
    """Every method blocks, may be called from any thread, and raises SourceError. A point belongs to its source.

    A point goes through freeze, complete, commit; abandon ends it anywhere before commit. complete, commit and
    abandon are idempotent and work after a restart of this process, from what was written down.
    """

    def facts(self, machine: SourceMachine) -> MachineFacts:
        """What is true of the machine and its disks now."""
        ...

    def freeze(self, machine: SourceMachine, base_points: Mapping[str, str | None]) -> Point:
        """Freeze the disks named by `base_points` at one instant; each value is the point to differ from, or None."""
        ...

    def check(self, point_id: str) -> None:
        """Raises OverlayFailed if what the point shows can no longer be trusted, or soon not be kept."""
        ...

    def complete(self, point_id: str) -> None:
        """Everything was read: keep the point's change record, release all else."""
        ...

    def commit(self, point_id: str) -> None:
        """The destination holds the point: records of changes since older points go."""
        ...

    def abandon(self, point_id: str) -> None:
        """The destination does not hold the point: it is forgotten, older change records stay as they were."""
        ...

    def recover(self) -> None:
        """After a start: abandon what was frozen and not completed, release what was left behind."""
        ...
