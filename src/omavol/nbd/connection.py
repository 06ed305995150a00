"""The transmission phase for a program that waits: one request at a time, each answer checked before it is believed.

The loop around `session.Session` is here, and nothing of the protocol. Data passes through Python, so this is for
looking at a disk and for tools; what moves a disk is `omavol copy`. Many requests at once are `omavol.nbd.aio`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from types import TracebackType

from omavol.nbd.answers import DataAnswer, Descriptors, Run, StatusAnswer, chunks_of
from omavol.nbd.errors import Disconnected, NbdError, NotAllowed, ServerShutsDown
from omavol.nbd.extents import Extent, Walk
from omavol.nbd.handshake import Export
from omavol.nbd.requests import Readable, Writable, at_once, flags_of, pieces, view_of
from omavol.nbd.session import Flight, Session
from omavol.nbd.transport import Transport
from omavol.nbd.uri import Uri
from omavol.nbd.wire import Command, CommandFlag

__all__ = ["Connection"]

_PLAIN = CommandFlag(0)
_FAREWELL = 2.0  # seconds that leaving may take


class Connection:
    """A connected, negotiated session with one export. One thread at a time; also a context manager.

    `export` tells size, flags, block sizes, contexts and their ids. Offsets and lengths are bytes, and multiples of
    `export.minimum`. Every method waits at most `timeout` seconds (of `connect`) for each answer and raises:

    - RequestFailed: the server answered by an error (`error`, `offset`); the connection goes on.
    - NotOffered, NotAllowed: nothing was sent (C14, C15); the connection goes on.
    - TimedOut, Disconnected, Breach: the connection is over; what was asked may have happened or not.

    `fileno()` and `detach()` hand the socket to a loop of the extension modules: it is non-blocking, the handshake is
    complete, nothing is in flight.
    """

    def __init__(self, transport: Transport, uri: Uri, export: Export, fixed: bool) -> None:
        self.uri = uri
        self.export = export
        self.fixed = fixed
        self._transport: Transport | None = transport
        self._session = Session(export, transport.place)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of the export."""
        return self.export.size

    @property
    def structured(self) -> bool:
        """Whether structured replies are agreed."""
        return self.export.structured

    def fileno(self) -> int:
        """The socket's descriptor, which stays this object's."""
        return self._open().socket.fileno()

    @property
    def secured(self) -> bool:
        """Whether the session is inside TLS."""
        return self._open().channel is not None

    def detach(self) -> int:
        """The socket's descriptor, which the caller now owns, in non-blocking mode; this object is closed.

        NotAllowed inside TLS, where a descriptor alone is not enough: `release` gives both.
        """
        if self.secured:
            raise NotAllowed(f"{self.uri.place}: the connection is secured by TLS, which this cannot use")
        plain = self.release().socket
        assert isinstance(plain, socket.socket)
        return plain.detach()

    def release(self) -> Transport:
        """The transport, non-blocking, which the caller now owns; this object is closed."""
        transport = self._open()
        self._transport = None
        transport.socket.setblocking(False)
        return transport

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`. READ (proto.md, "Request types")."""
        data = bytearray(length)
        self.read_into(offset, data)
        return bytes(data)

    def read_into(self, offset: int, buffer: Writable) -> None:
        """Fill a buffer from `offset` on; nothing is copied between the socket and it.

        After an error the buffer holds some of the answer.
        """
        view = view_of(buffer)
        for at, size in self._pieces(Command.READ, offset, len(view)):
            self._ask(Command.READ, at, size, into=view[at - offset : at - offset + size])

    def read_chunks(self, offset: int, length: int) -> list[tuple[Run, bytes]]:
        """As the server sent it, in order: each run with its bytes; a hole has none, it reads as zeroes.

        Only a server with structured replies tells holes; else it is one run of data.
        """
        data = bytearray(length)
        view, runs = memoryview(data), list[Run]()
        for at, size in self._pieces(Command.READ, offset, length):
            answer = self._ask(Command.READ, at, size, into=view[at - offset : at - offset + size]).answer
            assert isinstance(answer, DataAnswer)
            runs += answer.runs
        return chunks_of(runs, view, offset)

    def write(self, offset: int, data: Readable, *, fua: bool = False) -> None:
        """Write a buffer; with `fua` it is on stable storage before this returns. WRITE."""
        view = view_of(data)
        for at, size in self._pieces(Command.WRITE, offset, len(view)):
            self._ask(Command.WRITE, at, size, flags_of(fua=fua), payload=view[at - offset : at - offset + size])

    def flush(self) -> None:
        """Put everything written before onto stable storage. FLUSH; of all connections with CAN_MULTI_CONN (X22)."""
        self._ask(Command.FLUSH)

    def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Say that the content is not needed; what it reads as afterwards is unknown (C20). TRIM."""
        self._each(Command.TRIM, offset, length, flags_of(fua=fua))

    def zero(self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False, fast: bool = False) -> None:
        """Make a range read as zeroes. WRITE_ZEROES.

        `no_hole`: it stays provisioned. `fast`: RequestFailed with ENOTSUP, at once, where that is no faster than
        writing the zeroes (X40).
        """
        self._each(Command.WRITE_ZEROES, offset, length, flags_of(fua=fua, no_hole=no_hole, fast=fast))

    def cache(self, offset: int, length: int) -> None:
        """Ask the server to read ahead. CACHE."""
        self._each(Command.CACHE, offset, length, _PLAIN)

    def block_status(self, offset: int, length: int, *, one: bool = False) -> Descriptors:
        """Descriptors (length, status) of every selected context from `offset` on; the last may pass the request.

        A server may describe less than was asked, never nothing (C26). With `one` exactly one descriptor is asked.
        BLOCK_STATUS; NotOffered where no context is selected.
        """
        answer = self._ask(Command.BLOCK_STATUS, offset, at_once(length, self.export), flags_of(one=one)).answer
        assert isinstance(answer, StatusAnswer)
        return answer.found

    def extents(self, context: str, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """The extents of a range, or of all from `offset` on, in one context; neighbours of equal status are one."""
        walk = Walk((context,), offset, self.size if length is None else offset + length)
        while (asked := walk.ask()) is not None:
            walk.take(self.block_status(*asked))
            yield from walk.known(context)

    def maps(self, offset: int = 0, length: int | None = None) -> dict[str, list[Extent]]:
        """The extents of a range in every selected context, asked for together."""
        names = tuple(self.export.contexts)
        walk = Walk(names, offset, self.size if length is None else offset + length)
        while (asked := walk.ask()) is not None:
            walk.take(self.block_status(*asked))
        return {name: walk.known(name) for name in names}

    def close(self) -> None:
        """Leave by DISC (C7); never raises for what the server does meanwhile."""
        if self._transport is None:
            return
        transport = self._transport
        self._transport = None
        with contextlib.suppress(NbdError):
            self._session.leave()
            self._send(transport, transport.within(_FAREWELL))
        transport.close()

    def _open(self) -> Transport:
        if self._transport is None:
            raise Disconnected(self._session.closed or f"{self.uri.place}: this connection is closed")
        return self._transport

    def _pieces(self, command: Command, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """A range in requests; the whole of it is checked before the first is sent."""
        if length:
            self._session.check(command, offset, length)
        return pieces(command, offset, length, self.export)

    def _each(self, command: Command, offset: int, length: int, flags: CommandFlag) -> None:
        for at, size in self._pieces(command, offset, length):
            self._ask(command, at, size, flags)

    def _ask(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        flags: CommandFlag = _PLAIN,
        *,
        payload: memoryview | None = None,
        into: memoryview | None = None,
    ) -> Flight:
        """One request and its answer; all but a clean error of the request ends the connection."""
        transport = self._open()
        flight = self._session.begin(command, offset, length, flags, payload=payload, into=into)
        deadline = transport.within()
        try:
            self._send(transport, deadline)
            while not self._session.received(transport.receive_some(self._session.buffer(), deadline)):
                pass
        except BaseException as error:
            self._drop(error)
            raise
        if isinstance(flight.failure, ServerShutsDown):
            self.close()
        if flight.failure is not None:
            raise flight.failure
        return flight

    def _send(self, transport: Transport, deadline: float) -> None:
        while self._session.wants_to_send:
            self._session.sent(transport.send_some(self._session.outgoing(), deadline))

    def _drop(self, error: BaseException) -> None:
        """End without DISC: an answer may be half read, or the server broke the protocol (C1)."""
        why = error if isinstance(error, NbdError) else Disconnected(f"{self.uri.place}: {type(error).__name__}")
        self._session.fail(why)
        if self._transport is not None:
            self._transport.close()
            self._transport = None
