"""What every part of the volume layer works with: the record, the provider, the served table, a lock a volume."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from omavol.cloud import provider_for
from omavol.cloud.volumes import Described, VolumeProvider
from omavol.volumes.devices import Devices
from omavol.volumes.record import Record
from omavol.volumes.served import ServedTable

__all__ = ["House", "Locks"]


class Locks:
    """One lock a volume, held by whoever changes it: an operation, a session's opening and end, a mend."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}

    @contextmanager
    def hold(self, volume_id: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the volume's lock; with `wait` false the block gets False at once when another thread has it."""
        with self._guard:
            lock = self._locks.setdefault(volume_id, threading.RLock())
        held = lock.acquire(blocking=wait)
        try:
            yield held
        finally:
            if held:
                lock.release()


@dataclass(frozen=True)
class House:
    """`state` is the daemon's directory: the record, `volumes/` of the local provider, `digests/`."""

    state: Path
    record: Record
    served: ServedTable
    locks: Locks = field(default_factory=Locks)
    devices: Devices = field(default_factory=Devices)

    def provider(self) -> VolumeProvider:
        """Made anew from the record at each call: a change of settings holds at once."""
        return provider_for(self.record.provider(), self.state)

    def here(self, there: Described) -> bool:
        """Whether a volume is attached to this appliance: the id is read anew, and an empty one is an error."""
        return there.attached_to is not None and there.attached_to == self.record.provider().appliance_vm_id

    def digests_of(self, session_id: str) -> Path:
        return self.state / "digests" / session_id

    def forget_digests(self, session_id: str) -> None:
        """Remove what was stored for a session that is over; what stays after a failure is swept at the next start."""
        with contextlib.suppress(OSError):
            self.digests_of(session_id).unlink()
