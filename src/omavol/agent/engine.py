"""A disk's copy by `omavol.copy`: the change record read first where there is one, digests of every byte sent."""

from __future__ import annotations

from omavol.agent.report import Counters
from omavol.copy.digests import Digests
from omavol.copy.engine import Job, Options
from omavol.copy.errors import CopyError
from omavol.copy.extents import dirty_extents
from omavol.source.machine import FrozenDisk

__all__ = ["EngineCopy"]


class EngineCopy:
    """One disk (see `omavol.agent.copying.DiskCopy`). `run` in one thread; the rest from any."""

    def __init__(self, disk: FrozenDisk, uri: str, connections: int) -> None:
        self._disk = disk
        self._job = Job(disk.uri, uri, Options(connections=connections, digests=True))

    def run(self) -> Digests:
        """See `DiskCopy.run`. An export that cannot flush is no destination: what it acknowledged proves nothing."""
        if self._disk.context is not None:
            self._job.changed = dirty_extents(self._disk.uri, self._disk.context)
        result = self._job.run()
        if not result.flushed or result.digests is None:
            raise CopyError(
                f"the destination of {self._disk.disk_id} cannot flush, so nothing proves that it keeps the data",
                code="copy.flush",
                side="destination",
            )
        return result.digests

    def counters(self) -> Counters:
        """Bytes so far."""
        now = self._job.counters()
        return Counters(
            planned=now.planned, done=now.done, read=now.bytes_read, sent=now.bytes_sent, zero=now.bytes_zero
        )

    def limit(self, rate: int | None) -> None:
        """Bytes a second; None lifts the limit."""
        self._job.rate = rate or 0

    def cancel(self) -> None:
        """Make `run` end soon."""
        self._job.cancel()
