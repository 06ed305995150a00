"""The transmission phase for people: one request at a time, each answer checked before it is believed (C1, C22).

Data passes through Python here, so this is for looking at a disk; what moves one is `omavol copy`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

from omavol.nbd.answers import Answers
from omavol.nbd.errors import Disconnected, NbdError, NotAllowed, NotOffered, RequestFailed, ServerShutsDown
from omavol.nbd.handshake import Export
from omavol.nbd.transport import Transport
from omavol.nbd.uri import Uri
from omavol.nbd.wire import Command, CommandFlag, Request, TransmissionFlag

__all__ = ["Connection"]

_T = TypeVar("_T")

_PLAIN = CommandFlag(0)
_PIECE = 1024 * 1024  # bytes of a read or write that go in one request
_STATUS_SPAN = 1024 * 1024 * 1024  # bytes of one block status request; a power of two

# What has to be advertised for a command or a command flag (C14); READ and WRITE always are.
_COMMANDS = {
    Command.FLUSH: TransmissionFlag.SEND_FLUSH,
    Command.TRIM: TransmissionFlag.SEND_TRIM,
    Command.CACHE: TransmissionFlag.SEND_CACHE,
    Command.WRITE_ZEROES: TransmissionFlag.SEND_WRITE_ZEROES,
}
_FLAGS = {
    CommandFlag.FUA: TransmissionFlag.SEND_FUA,
    CommandFlag.DF: TransmissionFlag.SEND_DF,
    CommandFlag.FAST_ZERO: TransmissionFlag.SEND_FAST_ZERO,
}
_CHANGES = (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES)


class Connection:
    """A connected, negotiated session with one export. One thread at a time.

    `export` tells size, flags, block sizes, contexts and their ids. `fileno()` and `detach()` hand the socket to a
    loop of the extension modules: it is non-blocking, the handshake is complete, nothing is in flight.
    """

    def __init__(self, transport: Transport, uri: Uri, export: Export, fixed: bool) -> None:
        self.uri = uri
        self.export = export
        self.fixed = fixed
        self._transport: Transport | None = transport
        self._cookie = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        return self.export.size

    @property
    def structured(self) -> bool:
        return self.export.structured

    def fileno(self) -> int:
        return self._open().socket.fileno()

    def detach(self) -> int:
        """The socket's descriptor, which the caller now owns, in non-blocking mode; this object is closed."""
        transport = self._open()
        self._transport = None
        transport.socket.setblocking(False)
        return transport.socket.detach()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the export."""
        parts = [self._read(at, size) for at, size in self._pieces(Command.READ, offset, length)]
        return b"".join(parts)

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        """Write bytes; with `fua` they are on stable storage before this returns."""
        flags = CommandFlag.FUA if fua else _PLAIN
        for at, size in self._pieces(Command.WRITE, offset, len(data)):
            begin = at - offset
            self._do(Command.WRITE, at, size, flags, memoryview(data)[begin : begin + size])

    def flush(self) -> None:
        """Put every write answered before onto stable storage."""
        self._do(Command.FLUSH, 0, 0)

    def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Say that the content is not needed; what it reads as afterwards is unknown (C20)."""
        self._do(Command.TRIM, offset, length, CommandFlag.FUA if fua else _PLAIN)

    def zero(self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False, fast: bool = False) -> None:
        """Make a range read as zeroes; `fast` fails with ENOTSUP where that is no faster than writing them."""
        flags = CommandFlag.FUA if fua else _PLAIN
        flags |= CommandFlag.NO_HOLE if no_hole else _PLAIN
        flags |= CommandFlag.FAST_ZERO if fast else _PLAIN
        self._do(Command.WRITE_ZEROES, offset, length, flags)

    def cache(self, offset: int, length: int) -> None:
        """Ask the server to read ahead."""
        self._do(Command.CACHE, offset, length)

    def block_status(self, offset: int, length: int, *, one: bool = False) -> dict[str, list[tuple[int, int]]]:
        """Descriptors (length, status) of every selected context from `offset` on; the last may pass the request.

        A server may describe less than was asked, never nothing (C26). With `one` exactly one descriptor is asked.
        """
        if not self.export.contexts:
            raise NotOffered(f"{self.uri.place}: no meta context is selected for export {self.export.name!r}")
        request = self._send(Command.BLOCK_STATUS, offset, length, CommandFlag.REQ_ONE if one else _PLAIN)
        return self._answer(lambda answers: answers.status(request, self.export))

    def extents(self, context: str, offset: int = 0, length: int | None = None) -> Iterator[tuple[int, int, int]]:
        """(offset, length, status) of a whole range in one context; neighbours of equal status are one extent."""
        end = self.size if length is None else offset + length
        begin, status = offset, -1
        while offset < end:
            for run, found in self.block_status(offset, min(end - offset, _STATUS_SPAN))[context]:
                if found != status:
                    if offset > begin:
                        yield begin, offset - begin, status
                    begin, status = offset, found
                offset = min(offset + run, end)
                if offset == end:
                    break
        if end > begin:
            yield begin, end - begin, status

    def close(self) -> None:
        """Leave by DISC (C7); never raises for what the server does meanwhile."""
        if self._transport is None:
            return
        transport = self._transport
        self._transport = None
        with contextlib.suppress(NbdError):
            transport.send(Request(0, Command.DISC, self._cookie, 0, 0).encode(), transport.within(2.0))
        transport.close()

    def _open(self) -> Transport:
        if self._transport is None:
            raise Disconnected(f"{self.uri.place}: this connection is closed")
        return self._transport

    def _pieces(self, command: Command, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """A range in requests of at most one piece each; the whole of it is checked before the first is sent."""
        if not length:
            return
        self._inside(offset, length)
        size = min(_PIECE, self.export.maximum)
        size -= size % self.export.minimum
        for at in range(offset, offset + length, size):
            yield at, min(size, offset + length - at)

    def _check(self, command: Command, offset: int, length: int, flags: CommandFlag) -> None:
        """Nothing is sent that was not advertised, leaves the export or is off the minimum block (C14, C15)."""
        export = self.export
        needed = _COMMANDS.get(command, TransmissionFlag(0))
        for flag in flags & ~(CommandFlag.NO_HOLE | CommandFlag.REQ_ONE):
            needed |= _FLAGS[flag]
        if missing := needed & ~export.flags:
            raise NotOffered(f"{self.uri.place}: export {export.name!r} does not offer {missing.name}")
        if command in _CHANGES and export.read_only:
            raise NotAllowed(f"{self.uri.place}: export {export.name!r} is read-only")
        if command == Command.FLUSH:
            return
        self._inside(offset, length)
        if length >= 2**32:
            raise NotAllowed(f"{length} bytes do not fit one {command.name}; ask in pieces")

    def _inside(self, offset: int, length: int) -> None:
        export = self.export
        if offset < 0 or length <= 0 or offset + length > export.size:
            raise NotAllowed(f"{length} bytes at {offset} are not inside export {export.name!r} of {export.size} bytes")
        if (offset | length) % export.minimum:
            raise NotAllowed(f"{length} bytes at {offset} are no multiple of the block size {export.minimum}")

    def _send(
        self, command: Command, offset: int, length: int, flags: CommandFlag, payload: memoryview | None = None
    ) -> Request:
        self._check(command, offset, length, flags)
        transport = self._open()
        self._cookie += 1
        request = Request(flags, command, self._cookie, offset, length)
        deadline = transport.within()
        try:
            transport.send(request.encode(), deadline)
            if payload is not None:
                transport.send(payload, deadline)
        except BaseException:
            self._drop()
            raise
        return request

    def _do(
        self,
        command: Command,
        offset: int,
        length: int,
        flags: CommandFlag = _PLAIN,
        payload: memoryview | None = None,
    ) -> None:
        request = self._send(command, offset, length, flags, payload)
        self._answer(lambda answers: answers.done(request))

    def _read(self, offset: int, length: int) -> bytes:
        request = self._send(Command.READ, offset, length, _PLAIN)
        return self._answer(lambda answers: answers.data(request))

    def _answer(self, take: Callable[[Answers], _T]) -> _T:
        """Take the answer to the request in flight; all but a clean error of the request ends the connection."""
        transport = self._open()
        try:
            return take(Answers(transport, self.structured, self.export.name))
        except ServerShutsDown:
            self.close()
            raise
        except RequestFailed:
            raise
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """End without DISC: an answer may be half read, or the server broke the protocol (C1)."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
