"""The two ends of a copy: a path, an NBD URI or `null:`, opened and described for the loops.

Sources are opened before destinations, so that a missing source never costs the destination its content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from omavol.copy.errors import CopyError

if TYPE_CHECKING:
    from omavol._channel import SecureChannel
    from omavol.nbd.handshake import Export
    from omavol.nbd.transport import Transport
    from omavol.nbd.uri import Uri

__all__ = ["ALLOCATION", "NULL", "End", "open_destination", "open_source"]

NULL = "null:"
ALLOCATION = "base:allocation"
_EXTRA_PATIENCE = 3.0  # seconds for connections after the first: a server may promise more than it accepts
_SEND_BUFFER = 1 << 19  # bytes asked for; the kernel grants up to net.core.wmem_max
_MULTI_CONN = 1 << 8
_READ_ONLY = 1 << 1
_SHUTDOWN = 2**31 + 7  # an option's error: the server is shutting down


class End(NamedTuple):
    """One end, open. `contexts` are the ids of the selected meta contexts; `empty`: a file that was just made.

    `fds` are those of `transports`, which own them, or a file's, owned here.
    `near`: on this machine, for all we know: a file, or a server behind a unix socket.
    """

    kind: str
    name: str
    fds: tuple[int, ...] = ()
    size: int = 0
    flags: int = 0
    minimum: int = 1
    maximum: int = 1 << 25
    structured: bool = False
    extended: bool = False
    contexts: Mapping[str, int] = MappingProxyType({})
    empty: bool = False
    near: bool = True
    transports: tuple[Transport, ...] = ()

    @property
    def secured(self) -> tuple[SecureChannel, ...]:
        """The TLS sessions of all connections, or none."""
        return tuple(channel for transport in self.transports if (channel := transport.channel) is not None)

    def close(self) -> None:
        """Close what is open; TLS says close_notify first."""
        for transport in self.transports:
            transport.close()
        for fd in () if self.transports else self.fds:
            os.close(fd)

    def __enter__(self) -> End:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(
    name: str, *, connections: int, timeout: float, contexts: Sequence[str] = (ALLOCATION,), side: str = "source"
) -> End:
    """Open for reading; several connections where the export promises that they see the same (C12)."""
    if _is_uri(name):
        return _connect(name, side, connections, timeout, contexts)
    if name == NULL:
        raise CopyError(f"{side} null: can only be a destination", code="copy.open", side=side)
    fd, size = _open_file(name, os.O_RDONLY, side)
    return End("file", name, (fd,), size)


def open_destination(
    name: str, size: int, *, connections: int, timeout: float, keep: bool, source: End | None = None
) -> End:
    """Open for writing `size` bytes; refuses what is smaller or read-only before a byte moves.

    A regular file is made, emptied (unless `keep`) and set to the size; a block device or export keeps its own.
    """
    if name == NULL:
        return End("null", name, size=size)
    if not _is_uri(name):
        return _make_file(name, size, keep, source)
    end = _connect(name, "destination", connections, timeout, (ALLOCATION,))
    try:
        if end.flags & _READ_ONLY:
            raise CopyError(f"destination {name}: the export is read-only", code="copy.open", side="destination")
        _fits(end, size)
    except BaseException:
        end.close()
        raise
    return end


def _fits(end: End, size: int) -> None:
    if end.size < size:
        raise CopyError(
            f"destination {end.name}: holds {end.size} bytes, the source has {size}; nothing was copied",
            code="copy.size",
            side="destination",
        )


def _is_uri(name: str) -> bool:
    """As omavol.nbd.uri.is_uri, without importing it for a path."""
    if "://" not in name:
        return False
    from omavol.nbd.uri import is_uri

    return is_uri(name)


def _open_file(name: str, flags: int, side: str) -> tuple[int, int]:
    """The descriptor and size of a regular file or block device."""
    fd = -1
    try:
        fd = os.open(name, flags | os.O_CLOEXEC, 0o644)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise CopyError(f"{side} {name}: not a file or block device", code="copy.open", side=side)
        return fd, os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        hint = " (taken as a path: an NBD URI begins with nbd:// or nbd+unix://)" if "://" in name else ""
        raise CopyError(f"{side} {name}: cannot open: {error.strerror}{hint}", code="copy.open", side=side) from error
    except CopyError:
        os.close(fd)
        raise


def _make_file(name: str, size: int, keep: bool, source: End | None) -> End:
    fd, have = _open_file(name, os.O_RDWR | os.O_CREAT, "destination")
    try:
        if source is not None and source.kind == "file" and os.path.sameopenfile(fd, source.fds[0]):
            raise CopyError(f"destination {name}: is the source itself", code="copy.open", side="destination")
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            end = End("file", name, (fd,), have)
            _fits(end, size)
            return end
        if not keep:
            os.ftruncate(fd, 0)
        os.ftruncate(fd, size)
        return End("file", name, (fd,), size, empty=not keep)
    except OSError as error:
        os.close(fd)
        raise CopyError(
            f"destination {name}: cannot set its size to {size}: {error.strerror}",
            code="copy.open",
            side="destination",
        ) from error
    except CopyError:
        os.close(fd)
        raise


def _connect(name: str, side: str, connections: int, timeout: float, contexts: Sequence[str]) -> End:
    from omavol.nbd.errors import ConnectFailed, Disconnected, NbdError, Refused, TimedOut
    from omavol.nbd.uri import parse

    transports: list[Transport] = []
    try:
        uri = parse(name)
        export, first = _enter(uri, timeout, contexts)
        transports.append(first)
        if export.flags & _MULTI_CONN:
            with contextlib.suppress(NbdError):  # fewer than asked for will do
                for _ in range(connections - 1):
                    shown, another = _enter(uri, min(timeout, _EXTRA_PATIENCE), contexts)
                    transports.append(another)
                    if (shown.size, shown.flags) != (export.size, export.flags):
                        raise _differs(name, side)
    except NbdError as error:
        passing = isinstance(error, ConnectFailed | Disconnected | TimedOut) or (
            isinstance(error, Refused) and error.error == _SHUTDOWN
        )
        raise CopyError(
            f"{side} {name}: {error}", code="copy.open", side=side, advice=error.advice, passing=passing
        ) from error
    except CopyError:
        for transport in transports:
            transport.close()
        raise
    return End(
        "nbd",
        name,
        tuple(transport.socket.fileno() for transport in transports),
        export.size,
        int(export.flags),
        export.minimum,
        export.maximum,
        export.structured,
        export.extended,
        export.contexts,
        near=uri.socket is not None,
        transports=tuple(transports),
    )


def _enter(uri: Uri, timeout: float, contexts: Sequence[str]) -> tuple[Export, Transport]:
    """One connection for the loop: non-blocking, the handshake behind it.

    Its send buffer lets the peer find work when it wakes, and no more than its cache holds (1.3x faster than 212,992).
    """
    from omavol.nbd.client import negotiate

    with negotiate(uri, timeout=timeout, contexts=contexts) as session:
        export, transport = session.enter(uri.export)
    transport.socket.setblocking(False)
    transport.widen(_SEND_BUFFER)
    return export, transport


def _differs(name: str, side: str) -> CopyError:
    return CopyError(
        f"{side} {name}: another connection to the export shows another size or other abilities",
        code="copy.open",
        side=side,
    )
