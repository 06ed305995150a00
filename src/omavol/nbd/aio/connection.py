"""An export for asyncio: every request can be awaited, many are in flight at once, on one connection or several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from omavol.nbd.aio.line import Line
from omavol.nbd.answers import DataAnswer, Descriptors, Run, StatusAnswer, chunks_of
from omavol.nbd.errors import NbdError
from omavol.nbd.extents import Extent, Walk
from omavol.nbd.handshake import Export
from omavol.nbd.requests import Readable, Writable, at_once, flags_of, pieces, view_of
from omavol.nbd.session import Flight
from omavol.nbd.transport import Transport
from omavol.nbd.uri import Uri
from omavol.nbd.wire import Command, CommandFlag

__all__ = ["Connection"]

_PLAIN = CommandFlag(0)


class Connection:
    """An entered export, for the tasks of one event loop; also an async context manager. Made by `connect`.

    Methods, units and errors are those of `omavol.nbd.Connection`. Requests of different tasks are answered in any
    order; who wants an order awaits. Cancelling a task never harms the others: its request stays in flight, its answer
    is taken and dropped, so a cancelled write may happen or not. When a connection of the pool is lost, all are ended,
    and everything in flight fails with the cause.
    """

    def __init__(self, transports: Sequence[Transport], uri: Uri, export: Export, fixed: bool, in_flight: int) -> None:
        self.uri = uri
        self.export = export
        self.fixed = fixed
        self._lines = [Line(transport, export, in_flight, self._over) for transport in transports]

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def size(self) -> int:
        """Bytes of the export."""
        return self.export.size

    @property
    def connections(self) -> int:
        """How many connections there are; more than one only with CAN_MULTI_CONN (C12)."""
        return len(self._lines)

    async def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`."""
        data = bytearray(length)
        await self.read_into(offset, data)
        return bytes(data)

    async def read_into(self, offset: int, buffer: Writable) -> None:
        """Fill a buffer from `offset` on. After a cancellation it may be filled further until the answer has come."""
        await self._read(offset, view_of(buffer))

    async def read_chunks(self, offset: int, length: int) -> list[tuple[Run, bytes]]:
        """Each run with its bytes, in order; a hole has none, it reads as zeroes."""
        view, runs = memoryview(bytearray(length)), list[Run]()
        for flight in await self._read(offset, view):
            assert isinstance(flight.answer, DataAnswer)
            runs += flight.answer.runs
        return chunks_of(runs, view, offset)

    async def write(self, offset: int, data: Readable, *, fua: bool = False) -> None:
        """Write a buffer, which must stay as it is until this returns or raises."""
        view = view_of(data)
        await self._all(Command.WRITE, offset, len(view), flags_of(fua=fua), payload=view)

    async def flush(self) -> None:
        """Put every write that was answered before onto stable storage; those in flight are awaited first (C11)."""
        if under_way := [future for line in self._lines for future in line.changes()]:
            await asyncio.wait(under_way)
        await self._one(Command.FLUSH)

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Say that the content is not needed; what it reads as afterwards is unknown (C20)."""
        await self._all(Command.TRIM, offset, length, flags_of(fua=fua))

    async def zero(
        self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False, fast: bool = False
    ) -> None:
        """Make a range read as zeroes; `fast` fails with ENOTSUP where that is no faster than writing them."""
        await self._all(Command.WRITE_ZEROES, offset, length, flags_of(fua=fua, no_hole=no_hole, fast=fast))

    async def cache(self, offset: int, length: int) -> None:
        """Ask the server to read ahead."""
        await self._all(Command.CACHE, offset, length, _PLAIN)

    async def block_status(self, offset: int, length: int, *, one: bool = False) -> Descriptors:
        """Descriptors (length, status) of every selected context from `offset` on; the last may pass the request."""
        answer = (await self._one(Command.BLOCK_STATUS, offset, at_once(length, self.export), flags_of(one=one))).answer
        assert isinstance(answer, StatusAnswer)
        return answer.found

    async def extents(self, context: str, offset: int = 0, length: int | None = None) -> AsyncIterator[Extent]:
        """The extents of a range, or of all from `offset` on, in one context; neighbours of equal status are one."""
        walk = Walk((context,), offset, self.size if length is None else offset + length)
        while (asked := walk.ask()) is not None:
            walk.take(await self.block_status(*asked))
            for extent in walk.known(context):
                yield extent

    async def maps(self, offset: int = 0, length: int | None = None) -> dict[str, list[Extent]]:
        """The extents of a range in every selected context, asked for together."""
        names = tuple(self.export.contexts)
        walk = Walk(names, offset, self.size if length is None else offset + length)
        while (asked := walk.ask()) is not None:
            walk.take(await self.block_status(*asked))
        return {name: walk.known(name) for name in names}

    async def close(self) -> None:
        """Wait for what is in flight, then leave by DISC (C7, C8); never raises for what the server does meanwhile."""
        await asyncio.gather(*(line.close() for line in self._lines))

    def _idlest(self) -> Line:
        return min(self._lines, key=lambda line: line.load)

    def _over(self, why: NbdError) -> None:
        """One connection is lost: a FLUSH on another could not promise its writes any more."""
        for line in self._lines:
            line.end(why)

    async def _read(self, offset: int, view: memoryview) -> list[Flight]:
        return await self._all(Command.READ, offset, len(view), _PLAIN, into=view)

    async def _all(
        self,
        command: Command,
        offset: int,
        length: int,
        flags: CommandFlag,
        *,
        payload: memoryview | None = None,
        into: memoryview | None = None,
    ) -> list[Flight]:
        """A range in as many requests as it takes, in flight together; all have ended when this returns or raises."""
        if length:
            self._lines[0].session.check(command, offset, length, flags)
        under_way: list[asyncio.Future[Flight]] = []
        stopped: NbdError | None = None
        try:
            for at, size in pieces(command, offset, length, self.export):
                if under_way and under_way[0].done() and under_way[0].result().failure:
                    break  # the first error ends the asking: a range may take thousands of requests
                part = slice(at - offset, at - offset + size)
                future = await self._idlest().begin(
                    command,
                    at,
                    size,
                    flags,
                    payload=None if payload is None else payload[part],
                    into=None if into is None else into[part],
                )
                under_way.append(future)
        except NbdError as error:  # the connection ended meanwhile; what was in flight may know why
            stopped = error
        except asyncio.CancelledError:
            self._abandon(under_way)
            raise
        flights = [await self._ended(future, under_way) for future in under_way]
        failure = next((flight.failure for flight in flights if flight.failure is not None), stopped)
        if failure is not None:
            raise failure
        return flights

    async def _one(self, command: Command, offset: int = 0, length: int = 0, flags: CommandFlag = _PLAIN) -> Flight:
        """One request and its answer."""
        future = await self._idlest().begin(command, offset, length, flags)
        flight = await self._ended(future, [future])
        if flight.failure is not None:
            raise flight.failure
        return flight

    async def _ended(self, future: asyncio.Future[Flight], under_way: list[asyncio.Future[Flight]]) -> Flight:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._abandon(under_way)
            raise

    def _abandon(self, under_way: list[asyncio.Future[Flight]]) -> None:
        for line in self._lines:
            line.keep_payloads(under_way)
