"""One disk from its frozen view to its destination: what a job asks of the copy engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from omavol.agent.errors import AgentError
from omavol.agent.report import Counters
from omavol.copy.digests import Digests
from omavol.nbd import client
from omavol.nbd.errors import NbdError
from omavol.nbd.wire import TransmissionFlag
from omavol.source.machine import FrozenDisk

__all__ = ["Copier", "DiskCopy", "check_destination"]


class DiskCopy(Protocol):
    """A copy that is about to run. `run` blocks in one thread; the rest may be called from any other meanwhile."""

    def run(self) -> Digests:
        """Copy and flush; the digests of what was sent. Raises CopyError or NbdError; nothing is left open."""
        ...

    def counters(self) -> Counters: ...

    def limit(self, rate: int | None) -> None:
        """Bytes a second from now on; None: as fast as it goes."""
        ...

    def cancel(self) -> None:
        """Make `run` end soon with a CopyError; no effect after its end."""
        ...


Copier = Callable[[FrozenDisk, str, int], DiskCopy]  # the disk, the destination's URI, connections at most


def check_destination(disk_id: str, uri: str, size: int) -> None:
    """Before a byte moves: the export is there, has exactly the disk's size, and may be written."""
    try:
        with client.connect(uri) as connection:
            export = connection.export
    except NbdError as error:
        advice = None if error.advice is None else (error.advice,)
        raise AgentError("destination_refused", f"the destination of {disk_id}: {error}", advice=advice) from error
    if export.size != size:
        raise AgentError(
            "size_mismatch", f"{disk_id} has {size} bytes, its destination {export.size}: nothing was sent"
        )
    if export.read_only or TransmissionFlag.SEND_FLUSH not in export.flags:
        lack = "is read-only" if export.read_only else "cannot flush"
        raise AgentError("destination_refused", f"the destination of {disk_id} {lack}: nothing was sent")
