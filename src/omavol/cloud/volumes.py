"""The interface to whatever gives out volumes, and the errors that every provider speaks in.

Every call is idempotent by the id that the daemon recorded before it called, so that after a crash the same call,
made again, ends in the same place. A provider of a cloud keeps that id with the volume (a name or a tag).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "CloudError",
    "Described",
    "NoSpace",
    "NoSuchSnapshot",
    "NoSuchVolume",
    "NotAttachable",
    "ProviderMisconfigured",
    "SnapshotProvider",
    "VolumeInUse",
    "VolumeProvider",
    "capacity_for",
]

GRAIN = 1 << 30


class CloudError(Exception):
    """A provider could not do what was asked: a stable code, what happened, what to do. `status` is HTTP's."""

    code = "provider_failed"
    status = 502

    def __init__(self, detail: str, *, advice: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice


class ProviderMisconfigured(CloudError):
    code = "provider_misconfigured"
    status = 400


class NoSuchVolume(CloudError):
    code = "volume_missing"
    status = 409


class NoSuchSnapshot(CloudError):
    code = "snapshot_missing"
    status = 409


class VolumeInUse(CloudError):
    code = "volume_in_use"
    status = 409


class NotAttachable(CloudError):
    code = "not_attachable"
    status = 409


class NoSpace(CloudError):
    code = "no_space"
    status = 507


@dataclass(frozen=True)
class Described:
    """A volume as the provider has it, `capacity` in bytes.

    `path`: where it is on this appliance when attached here, if the provider itself knows; else `uuid` is the cloud's
    id of it, by which its device is found.
    """

    capacity: int
    attached_to: str | None
    path: str | None
    uuid: str | None = None


class VolumeProvider(Protocol):
    """Blocking calls, made in worker threads, at most one at a time a volume."""

    def create(self, volume_id: str, name: str, size: int, options: Mapping[str, str]) -> int:
        """Make the volume, or find it made; its capacity in bytes, never less than `size`."""

    def attach(self, volume_id: str, vm_id: str) -> Described:
        """Give it to the machine, or find it given; an error when another machine has it."""

    def detach(self, volume_id: str) -> None:
        """Take it from whatever machine has it; nothing to do is no error."""

    def delete(self, volume_id: str) -> None:
        """Destroy it; nothing to do is no error. Refused while attached."""

    def describe(self, volume_id: str) -> Described | None:
        """The volume as it is now, None if there is none. Not knowing is an error, never None."""


class SnapshotProvider(VolumeProvider, Protocol):
    """A provider that can do more with a volume than keep it. A snapshot has the id that the daemon recorded for it."""

    def resize(self, volume_id: str, size: int) -> int:
        """Let it have `size` bytes or more, or find that it has; its capacity. It never becomes smaller."""

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Keep what the volume holds, or find it kept under that id; returns when it is whole."""

    def revert(self, volume_id: str, snapshot_id: str) -> Described:
        """Give the volume the bytes, and the size, that it had then. Refused while a running machine has it.

        After an error it may hold either; asked again, as it may be, it ends as it should.
        """

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Forget the snapshot; nothing to do is no error."""


def capacity_for(size: int) -> int:
    """Clouds allocate in whole GiB: `size` rounded up, at least one.

    >>> capacity_for(1), capacity_for(1 << 30), capacity_for((1 << 30) + 1)
    (1073741824, 1073741824, 2147483648)
    """
    return max(1, -(-size // GRAIN)) * GRAIN
