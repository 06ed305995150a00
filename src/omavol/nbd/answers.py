"""The answer to one request, believed nowhere unchecked: type, lengths, bounds, overlap, coverage (C1, C22, C23, C26).

Nothing here reads from anywhere. `take` is a generator that yields a view for each stretch of payload it wants; whoever
drives it fills the view with the next bytes of the connection before going on. So payload goes from the socket to
where it belongs without a copy between, for the blocking client and for asyncio alike (see `session`).
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from omavol import _wire
from omavol.nbd.coverage import Coverage
from omavol.nbd.errors import Breach, RequestFailed, ServerShutsDown
from omavol.nbd.handshake import Export
from omavol.nbd.wire import Chunk, Command, Error, Reply, ReplyFlag, Request

__all__ = ["Answer", "DataAnswer", "Descriptors", "Run", "StatusAnswer", "Wanted", "chunks_of"]

Wanted = Generator[memoryview, None, bool]
Descriptors = dict[str, list[tuple[int, int]]]  # (length, status) of each context

_ALLOCATION_BITS = 3  # the bits of base:allocation that have a meaning; others are ignored (C3)
_MOST_DESCRIPTORS = 1 << 20  # X49
_PAIR, _WIDE_PAIR = struct.Struct(">II"), struct.Struct(">QQ")  # length, status
_MOST_RUNS = 1 << 16  # of one read, which has at most 2048 sectors of 512 bytes; more is an attack on our memory
_ERROR_BIT = 0x8000


class Run(NamedTuple):
    """`length` bytes at `offset`; a hole is what the server said reads as zeroes without sending them."""

    offset: int
    length: int
    hole: bool


def chunks_of(runs: Iterable[Run], view: memoryview, offset: int) -> list[tuple[Run, bytes]]:
    """Runs in order, neighbours of a kind joined, each with its bytes of `view`, which begins at `offset`; holes none.

    >>> chunks_of([Run(4, 2, True), Run(2, 2, False), Run(0, 2, False)], memoryview(b"data--"), 0)
    [(Run(offset=0, length=4, hole=False), b'data'), (Run(offset=4, length=2, hole=True), b'')]
    """
    joined: list[Run] = []
    for run in sorted(runs):
        if joined and joined[-1].hole == run.hole:
            joined[-1] = joined[-1]._replace(length=joined[-1].length + run.length)
        else:
            joined.append(run)
    return [
        (run, b"" if run.hole else bytes(view[run.offset - offset : run.offset - offset + run.length]))
        for run in joined
    ]


class Answer:
    """The answer to a command without data, as it comes in. `request` is what was asked.

    `failure` is the first error that the server gave; the connection is in step after it (X14, C2, C4).
    """

    def __init__(self, request: Request, export: Export, about: str) -> None:
        self.request = request
        self.failure: RequestFailed | None = None
        self._export = export
        self._about = about

    def take(self, reply: Reply) -> Wanted:
        """Check one reply header and take the payload behind it; True when the answer is complete."""
        if not reply.structured:
            self._simple(reply)
            if not reply.error:
                yield from self._simple_payload()
        elif not self._may_be(reply):
            raise self._breach(f"sent a chunk of type {reply.type} and length {reply.length}, which cannot be")
        elif reply.type & _ERROR_BIT:
            yield from self._error(reply)
        elif reply.type != Chunk.NONE:
            yield from self._payload(reply)
        complete = not reply.structured or bool(reply.flags & ReplyFlag.DONE)
        if complete and self.failure is None:
            self._complete()
        return complete

    def _may_be(self, reply: Reply) -> bool:
        """Whether the chunk's type and length can answer the request; an extended one repeats its offset (X60)."""
        begin = reply.offset if reply.extended else None
        return _wire.judge_chunk_header(
            reply.flags, reply.type, reply.length, self.request.type, self.request.length, begin, self.request.offset
        )

    def _payload(self, reply: Reply) -> Iterator[memoryview]:
        """The payload of a content chunk; none answers this command, and _wire has refused it already."""
        raise self._breach(f"sent a chunk of type {reply.type}, which does not answer this request")

    def _simple_payload(self) -> Iterator[memoryview]:
        """What stands behind a simple reply without an error: nothing, but for READ."""
        return iter(())

    def _complete(self) -> None:
        """Called once, when the answer ended without an error."""

    def _simple(self, reply: Reply) -> None:
        """A simple reply: where structured ones are agreed, READ never gets one, nor success with a payload (X3)."""
        with_payload = self.request.type == Command.READ or (
            self.request.type == Command.BLOCK_STATUS and not reply.error
        )
        if self._export.structured and with_payload:
            raise self._breach("sent a simple reply where only structured ones may be")
        if reply.error:
            self._fail(reply.error, "", None)

    def _error(self, reply: Reply) -> Iterator[memoryview]:
        """An error chunk; one of a type we do not know is an error all the same (C2)."""
        payload = bytearray(reply.length)
        yield memoryview(payload)
        error, size = struct.unpack_from(">IH", payload)
        tail = payload[6 + size :]
        if not error or len(payload) < 6 + size:
            raise self._breach("sent an error chunk without an error, or with lengths that do not add up")
        offset = None
        if reply.type == Chunk.ERROR_OFFSET:
            offset = int.from_bytes(tail)
            if len(tail) != 8 or not 0 <= offset - self.request.offset < self.request.length:
                raise self._breach("sent an error at an offset that was not asked for")
        elif reply.type == Chunk.ERROR and tail:
            raise self._breach("sent an error chunk with lengths that do not add up")
        self._fail(error, payload[6 : 6 + size].decode(errors="replace"), offset)

    def _fail(self, number: int, message: str, offset: int | None) -> None:
        """Keep the first error of the request."""
        if self.failure is not None:
            return
        error = Error.of(number)
        kind = ServerShutsDown if error == Error.ESHUTDOWN else RequestFailed
        said = f" ({message})" if message else ""
        where = self.request.offset if offset is None else offset
        command = Command(self.request.type).name
        span = "" if command == "FLUSH" else f" of {self.request.length} bytes at {where}"
        self.failure = kind(f"{self._about}: {command}{span} failed: {error.name}{said}", error, where)

    def _breach(self, what: str) -> Breach:
        return Breach(f"{self._about}: the server {what}")


class DataAnswer(Answer):
    """The answer to a READ: every byte of it into `view`, or an error (C23). `runs`: data and holes, as they came."""

    def __init__(self, request: Request, export: Export, about: str, view: memoryview) -> None:
        super().__init__(request, export, about)
        self.runs: list[Run] = []
        self._view = view
        self._covered = Coverage(request.offset, request.length)

    def _simple_payload(self) -> Iterator[memoryview]:
        yield from self._data(self.request.offset, self.request.length)

    def _payload(self, reply: Reply) -> Iterator[memoryview]:
        """A data or hole chunk: inside the request, over nothing that came before (X26)."""
        fixed = bytearray(8 if reply.type == Chunk.OFFSET_DATA else 12)
        yield memoryview(fixed)
        offset = int.from_bytes(fixed[:8])
        if reply.type == Chunk.OFFSET_DATA:
            yield from self._data(offset, reply.length - 8)
        else:
            length = int.from_bytes(fixed[8:])
            self._cover(offset, length, hole=True)
            begin = offset - self.request.offset
            self._view[begin : begin + length] = bytes(length)

    def _data(self, offset: int, length: int) -> Iterator[memoryview]:
        self._cover(offset, length, hole=False)
        begin = offset - self.request.offset
        yield self._view[begin : begin + length]

    def _cover(self, offset: int, length: int, *, hole: bool) -> None:
        if not self._covered.add(offset, length):
            raise self._breach(f"sent {length} bytes at {offset}: empty, not asked for, or for the second time")
        last = self.runs[-1] if self.runs else Run(0, 0, not hole)
        if last.hole == hole and last.offset + last.length == offset:
            self.runs[-1] = Run(last.offset, last.length + length, hole)
            return
        self.runs.append(Run(offset, length, hole))
        if len(self.runs) > _MOST_RUNS:
            raise self._breach(f"sent a read in more than {_MOST_RUNS} pieces")

    def _complete(self) -> None:
        if not self._covered.complete:
            raise self._breach("called a read complete and left a part of it out")


class StatusAnswer(Answer):
    """The answer to a BLOCK_STATUS: descriptors (length, status) of every selected context in `found` (X44)."""

    def __init__(self, request: Request, export: Export, about: str) -> None:
        super().__init__(request, export, about)
        self.found: Descriptors = {}
        self._names = {identity: name for name, identity in export.contexts.items()}

    def _payload(self, reply: Reply) -> Iterator[memoryview]:
        """A status chunk; an extended one says how many descriptors it has, and these are of 64 bits (X61)."""
        fixed, pair = (8, _WIDE_PAIR) if reply.type == Chunk.BLOCK_STATUS_EXT else (4, _PAIR)
        count, rest = divmod(reply.length - fixed, pair.size)
        if rest or not 0 < count <= _MOST_DESCRIPTORS:
            raise self._breach(f"described {count} extents at once, or half a one")
        payload = bytearray(reply.length)
        yield memoryview(payload)
        if fixed == 8 and int.from_bytes(payload[4:8]) != count:
            raise self._breach("miscounted the extents of a chunk")
        name = self._names.get(int.from_bytes(payload[:4]))
        if name is None or name in self.found:
            raise self._breach("described a context that was not selected, or one twice")
        self.found[name] = self._descriptors(name, list(pair.iter_unpack(memoryview(payload)[fixed:])))

    def _descriptors(self, name: str, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Extents make progress, stay in the export, and end in the request but for the last (C26, X45 to X48)."""
        at, end = self.request.offset, self.request.offset + self.request.length
        for number, (length, _) in enumerate(pairs):
            at += length
            if not length or at > self._export.size or (at >= end and number < len(pairs) - 1):
                raise self._breach(f"sent block status of {name} with an empty extent, or past the end")
        if name == "base:allocation":
            return [(length, status & _ALLOCATION_BITS) for length, status in pairs]
        return pairs

    def _complete(self) -> None:
        if len(self.found) != len(self._names):
            raise self._breach("left out a selected context")
