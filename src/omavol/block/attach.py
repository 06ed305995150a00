"""An export as a device of the kernel: dialled and entered here, handed to the kernel, kept connected, let go.

The kernel's client speaks the old form alone: simple replies, lengths of 32 bits, no TLS.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omavol.block import MOST_CONNECTIONS
from omavol.block.errors import BlockError, DeviceBusy, NotAttached, Unattachable
from omavol.block.holders import users_of
from omavol.block.kernelnbd import DeadLinks, KernelNbd, index_of, node
from omavol.nbd.client import connect
from omavol.nbd.connection import Connection
from omavol.nbd.errors import NbdError
from omavol.nbd.handshake import Export, Wish
from omavol.nbd.uri import Uri, parse
from omavol.nbd.wire import TransmissionFlag

__all__ = ["Attached", "attach", "detach", "keep"]

CONNECTIONS = 4  # where the server allows several and nobody says how many
LEAST_BLOCK, MOST_BLOCK = 512, 4096  # bytes of a block of the device (nbd.c, nbd_is_valid_blksize)
DIAL = 10.0  # seconds for the connection, and for each answer of the handshake
AGAIN = 500  # milliseconds between two attempts at a server that is away
LOOK = 1000  # milliseconds after which a device is looked at though nothing was heard of it


@dataclass(frozen=True)
class Attached:
    """A device and the export behind it. `tail`: bytes at its end that no whole block reaches."""

    index: int
    uri: Uri
    export: Export
    connections: int
    tail: int

    @property
    def path(self) -> Path:
        return node(self.index)


def attach(
    uri: str,
    *,
    device: str | None = None,
    connections: int | None = None,
    read_only: bool = False,
    timeout: int = 30,
    dead_timeout: int = 0,
) -> Attached:
    """Make a device of an export; it stays when this process ends.

    `connections`: CONNECTIONS where nobody says and the server allows several (X22), else one. `timeout` is seconds
    that a request may take before its connection counts as dead, `dead_timeout` seconds that requests wait for `keep`
    when every connection is. Errors: NbdError of the dialling, BlockError of the kernel; nothing is left of either.
    """
    if connections and connections > MOST_CONNECTIONS:
        raise Unattachable(f"{connections} connections are too many", f"{MOST_CONNECTIONS} is the most.")
    where = parse(uri)
    if where.tls is not None:
        raise Unattachable("the kernel's NBD client has no TLS", "Attach a plain export, nbd:// or nbd+unix://.")
    index = None if device is None else index_of(device)
    with KernelNbd() as kernel, ExitStack() as dialled:
        lines = [dialled.enter_context(_dial(where))]
        export = lines[0].export
        block = _block_of(export)
        connections = connections or (CONNECTIONS if export.flags & TransmissionFlag.CAN_MULTI_CONN else 1)
        if connections > 1 and not export.flags & TransmissionFlag.CAN_MULTI_CONN:
            raise Unattachable(f"{where.place} allows one connection to this export at a time", "Leave it at one.")
        lines += [dialled.enter_context(_dial_again(where, export)) for _ in range(connections - 1)]
        index = kernel.connect(
            [line.fileno() for line in lines],
            size=export.size - export.size % block,
            block=block,
            flags=export.flags | (TransmissionFlag.READ_ONLY if read_only else 0),
            timeout=timeout,
            dead_timeout=dead_timeout,
            backend=str(where),
            index=index,
        )
        _hand_over(lines)
    return Attached(index, where, export, connections, export.size % block)


def detach(device: str, *, force: bool = False) -> Path:
    """Sync a device and let it go; its path. DeviceBusy while somebody uses it: with `force` that fails instead."""
    index = index_of(device)
    with KernelNbd() as kernel:
        attached = kernel.device(index)
        if not force:
            if users := users_of(attached.path):
                who = ", ".join(str(each) for each in users)
                raise DeviceBusy(f"{attached.path} is in use: {who}", "End that first; with --force it fails.")
            _sync(attached.path)
        kernel.disconnect(index)
    return attached.path


def keep(attached: Attached, stop: int, say: Callable[[str], None]) -> bool:
    """Dial lost connections anew until the descriptor `stop` is readable, or somebody else has detached the device.

    Whether it is still attached. What happens meanwhile is told to `say`, a line each.
    """
    lost = 0
    with DeadLinks() as links, KernelNbd() as kernel:
        poll = select.poll()
        poll.register(links, select.POLLIN)
        poll.register(stop, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(AGAIN if lost else LOOK)]
            if stop in ready:
                return True
            if not _is_attached(kernel, attached.index):
                say(f"{attached.path} was detached by somebody else")
                return False
            died = _died(links, attached) if ready else 0
            if died:
                say(f"{attached.path}: {died} of {attached.connections} connections lost")
            lost = min(lost + died, attached.connections)
            if lost and _revived(kernel, attached, lost, say):
                lost = 0


def _died(links: DeadLinks, attached: Attached) -> int:
    """How many of its connections; all of them where that was not heard: the kernel takes none for those that live."""
    died = links.take()
    return attached.connections if died is None else died.count(attached.index)


def _revived(kernel: KernelNbd, attached: Attached, lost: int, say: Callable[[str], None]) -> bool:
    """Whether as many connections as were lost could be dialled and handed over."""
    try:
        with ExitStack() as dialled:
            lines = [dialled.enter_context(_dial_again(attached.uri, attached.export)) for _ in range(lost)]
            kernel.reconfigure(attached.index, [line.fileno() for line in lines], str(attached.uri))
            _hand_over(lines)
    except NbdError:
        return False  # it is away still
    except BlockError as error:
        say(f"{attached.path}: {error}")
        return False
    say(f"{attached.path}: connected again")
    return True


def _dial(where: Uri) -> Connection:
    return connect(where, timeout=DIAL, structured=Wish.NEVER, extended=Wish.NEVER, contexts=())


def _dial_again(where: Uri, export: Export) -> Connection:
    """One more connection to the same disk; Unattachable if it is another by now."""
    line = _dial(where)
    if (line.export.size, line.export.flags) != (export.size, export.flags):
        line.close()
        raise Unattachable(f"{where} has changed: it has {line.export.size} bytes now, it had {export.size}")
    return line


def _hand_over(lines: list[Connection]) -> None:
    """The kernel has the sockets: close what is ours of them, without DISC."""
    for line in lines:
        os.close(line.detach())


def _block_of(export: Export) -> int:
    """The device's block: what the export asks for, as far as the kernel goes."""
    if export.minimum > MOST_BLOCK:
        raise Unattachable(f"the export wants blocks of {export.minimum} bytes, the kernel's are {MOST_BLOCK} at most")
    if export.size < LEAST_BLOCK:
        raise Unattachable(f"the export has {export.size} bytes, less than one block")
    return max(export.minimum, LEAST_BLOCK)


def _is_attached(kernel: KernelNbd, index: int) -> bool:
    try:
        kernel.device(index)
    except NotAttached:
        return False
    return True


def _sync(device: Path) -> None:
    """Put on the server's disk what the page cache holds; BlockError where that fails."""
    try:
        descriptor = os.open(device, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BlockError(
            f"{device} cannot be synced: {error.strerror}", "What was written last may be lost; --force detaches it."
        ) from error
