"""Read the answer to one request and believe nothing unchecked: magic, cookie, type, lengths, bounds, overlap (C22)."""

from __future__ import annotations

import struct

from omavol import _wire
from omavol.nbd.coverage import Coverage
from omavol.nbd.errors import Breach, RequestFailed, ServerShutsDown
from omavol.nbd.handshake import Export
from omavol.nbd.transport import Transport
from omavol.nbd.wire import Chunk, Command, Error, Reply, ReplyFlag, Request, parse_reply

__all__ = ["Answers"]

_ALLOCATION_BITS = 3  # the bits of base:allocation that have a meaning; others are ignored (C3)


class Answers:
    """The answers of one connection, for one request in flight. One thread at a time.

    Every method raises RequestFailed for an error of the request, after which the connection is in step; Breach for a
    server that broke the protocol, TimedOut or Disconnected, after which it is of no more use.
    """

    def __init__(self, transport: Transport, structured: bool, export: str) -> None:
        self._transport = transport
        self._structured = structured
        self._about = f"{transport.place}: export {export!r}"
        self._deadline = transport.within()
        self._failure: RequestFailed | None = None

    def done(self, request: Request) -> None:
        """The answer to a command without data."""
        while not self._is_last(self._header(request), request):
            pass
        self._finish()

    def data(self, request: Request) -> bytes:
        """The answer to a READ: every byte of it, or an error (C23)."""
        data = bytearray(request.length)
        view = memoryview(data)
        covered = Coverage(request.offset, request.length)
        last = False
        while not last:
            reply = self._header(request)
            if not reply.structured and not reply.error:
                self._transport.receive_into(view, self._deadline)
                covered.add(request.offset, request.length)
            elif reply.type in (Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE):
                self._content(reply, request, view, covered)
                last = bool(reply.flags & ReplyFlag.DONE)
                continue
            last = self._is_last(reply, request)
        self._finish()
        if not covered.complete:
            raise self._breach("called a read complete and left a part of it out")
        return bytes(data)

    def status(self, request: Request, export: Export) -> dict[str, list[tuple[int, int]]]:
        """The answer to a BLOCK_STATUS: descriptors (length, status) of every selected context."""
        names = {identity: name for name, identity in export.contexts.items()}
        found: dict[str, list[tuple[int, int]]] = {}
        last = False
        while not last:
            reply = self._header(request)
            if reply.type != Chunk.BLOCK_STATUS:
                last = self._is_last(reply, request)
                continue
            payload = self._transport.receive_exactly(reply.length, self._deadline)
            identity = int.from_bytes(payload[:4])
            if identity not in names or names[identity] in found:
                raise self._breach("described a context that was not selected, or one twice")
            found[names[identity]] = self._descriptors(names[identity], payload[4:], request, export)
            last = bool(reply.flags & ReplyFlag.DONE)
        self._finish()
        if len(found) != len(names):
            raise self._breach("left out a selected context")
        return found

    def _descriptors(self, name: str, payload: bytes, request: Request, export: Export) -> list[tuple[int, int]]:
        """Pairs that make progress, stay in the export, and end in the request but for the last (C26, X45 to X48)."""
        pairs = list(struct.iter_unpack(">II", payload))
        at = request.offset
        for number, (length, _) in enumerate(pairs):
            at += length
            passes = at > export.size or (at >= request.offset + request.length and number < len(pairs) - 1)
            if not length or passes:
                raise self._breach(f"sent block status of {name} with an empty extent, or past the end")
        mask = _ALLOCATION_BITS if name == "base:allocation" else 0xFFFFFFFF
        return [(length, status & mask) for length, status in pairs]

    def _header(self, request: Request) -> Reply:
        """The next reply header, which must be an answer to this request of a kind that it can have."""
        head = self._transport.receive_exactly(16, self._deadline)
        try:
            reply = parse_reply(head, self._structured)
            if reply is None:
                reply = parse_reply(head + self._transport.receive_exactly(4, self._deadline), self._structured)
        except ValueError as error:
            raise self._breach("sent what is no reply (wrong magic)") from error
        assert reply is not None  # a header is whole by now
        if reply.cookie != request.cookie:
            raise self._breach("answered a request that was not made (wrong cookie)")
        if reply.structured:
            if not _wire.judge_chunk_header(reply.flags, reply.type, reply.length, request.type, request.length):
                raise self._breach(f"sent a chunk of type {reply.type} and length {reply.length}, which cannot be")
        elif not self._may_be_simple(reply, request):
            raise self._breach("sent a simple reply where only structured ones may be")
        return reply

    def _may_be_simple(self, reply: Reply, request: Request) -> bool:
        """Once structured replies are agreed, a READ never gets a simple one, nor does success with a payload (X3)."""
        if request.type == Command.READ:
            return not self._structured
        return request.type != Command.BLOCK_STATUS or reply.error != 0

    def _is_last(self, reply: Reply, request: Request) -> bool:
        """Take a header without content, or an error; whether it ends the answer."""
        if not reply.structured:
            if reply.error:
                self._fail(reply.error, "", None, request)
            return True
        if reply.type & 0x8000:
            self._error_chunk(reply, request)
        return bool(reply.flags & ReplyFlag.DONE)

    def _error_chunk(self, reply: Reply, request: Request) -> None:
        """An error chunk; one of a type we do not know is an error all the same (C2)."""
        payload = self._transport.receive_exactly(reply.length, self._deadline)
        error, size = struct.unpack_from(">IH", payload)
        tail = payload[6 + size :]
        if not error or len(payload) < 6 + size:
            raise self._breach("sent an error chunk without an error, or with lengths that do not add up")
        offset = None
        if reply.type == Chunk.ERROR_OFFSET:
            offset = int.from_bytes(tail)
            if len(tail) != 8 or not request.offset <= offset < request.offset + request.length:
                raise self._breach("sent an error at an offset that was not asked for")
        elif reply.type == Chunk.ERROR and tail:
            raise self._breach("sent an error chunk with lengths that do not add up")
        self._fail(error, payload[6 : 6 + size].decode(errors="replace"), offset, request)

    def _content(self, reply: Reply, request: Request, view: memoryview, covered: Coverage) -> None:
        """A data or hole chunk: inside the request, over nothing that came before."""
        if reply.type == Chunk.OFFSET_DATA:
            offset, length = int.from_bytes(self._transport.receive_exactly(8, self._deadline)), reply.length - 8
        else:
            offset, length = struct.unpack(">QI", self._transport.receive_exactly(12, self._deadline))
        if not covered.add(offset, length):
            raise self._breach(f"sent {length} bytes at {offset}: empty, not asked for, or for the second time")
        if reply.type == Chunk.OFFSET_DATA:
            begin = offset - request.offset
            self._transport.receive_into(view[begin : begin + length], self._deadline)

    def _fail(self, number: int, message: str, offset: int | None, request: Request) -> None:
        """Keep the first error of the request; the rest of its answer is read before it is raised."""
        if self._failure is not None:
            return
        error = Error.of(number)
        kind = ServerShutsDown if error == Error.ESHUTDOWN else RequestFailed
        said = f" ({message})" if message else ""
        where = request.offset if offset is None else offset
        command = Command(request.type).name
        span = "" if command == "FLUSH" else f" of {request.length} bytes at {where}"
        self._failure = kind(f"{self._about}: {command}{span} failed: {error.name}{said}", error, where)

    def _finish(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _breach(self, what: str) -> Breach:
        return Breach(f"{self._about}: the server {what}")
