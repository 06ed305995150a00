"""The transmission phase as a client says it, right or wrong, and its replies, judged by what every reply must be."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from omavol.conformance.link import Link
from omavol.conformance.numbers import (
    CHUNK_MAGIC,
    CONTENT,
    EXTENDED_REPLY_MAGIC,
    EXTENDED_REQUEST_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    error_name,
)
from omavol.conformance.shake import Told
from omavol.conformance.verdict import Failed
from omavol.nbd.wire import Chunk as Kind
from omavol.nbd.wire import Command

__all__ = ["Chunk", "Reply", "Session"]

_LONGEST = (1 << 26) + 64  # bytes of one chunk; nothing is asked that could be answered by more
_MOST_CHUNKS = 100_000  # of one reply


@dataclass(frozen=True)
class Chunk:
    """One chunk: `offset` is the request's, told by extended headers alone."""

    flags: int
    type: int
    payload: bytes
    head: bytes = b""
    offset: int | None = None

    @property
    def done(self) -> bool:
        return bool(self.flags & 1)

    @property
    def is_error(self) -> bool:
        return bool(self.type & 0x8000)

    @property
    def error(self) -> int:
        """The error of an error chunk, its form judged (X30)."""
        least = 14 if self.type == Kind.ERROR_OFFSET else 6
        if len(self.payload) < least:
            raise Failed(f"an error chunk of at least {least} bytes", f"{len(self.payload)}", self.head + self.payload)
        error, length = struct.unpack(">IH", self.payload[:6])
        if not error:
            raise Failed("an error other than 0 in an error chunk", "0", self.head + self.payload)
        if length > 4096 or length > len(self.payload) - least:
            raise Failed("a message that fits its chunk and 4096 bytes", f"{length} bytes", self.head + self.payload)
        return int(error)

    @property
    def span(self) -> tuple[int, int]:
        """Offset and length of a content chunk, its form judged (X26)."""
        least = 9 if self.type == Kind.OFFSET_DATA else 12
        wrong = len(self.payload) < least or (self.type == Kind.OFFSET_HOLE and len(self.payload) != least)
        length = 0
        if not wrong:
            length = len(self.payload) - 8 if self.type == Kind.OFFSET_DATA else int.from_bytes(self.payload[8:])
        if not length:
            raise Failed("a content chunk of at least a byte", f"a payload of {len(self.payload)} bytes", self.head)
        return int.from_bytes(self.payload[:8]), length


@dataclass
class Reply:
    """Everything that answered one request; `simple` replies have no chunks."""

    simple: bool
    extended: bool = False
    error: int = 0
    data: bytes = b""
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def name(self) -> str:
        return error_name(self.error)

    @property
    def content(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.type in CONTENT]

    def must(self, what: str, *errors: int) -> Reply:
        """Fail unless the error is one of these; 0 is success."""
        if self.error not in errors:
            raise Failed(f"{' or '.join(map(error_name, errors))} for {what}", self.name)
        return self

    def must_fail(self, what: str) -> Reply:
        if not self.error:
            raise Failed(f"an error for {what}", "success")
        return self


class Session:
    """A connection in the transmission phase; what no reply may be is a failure, whatever was asked."""

    def __init__(self, link: Link, told: Told, *, structured: bool, extended: bool, contexts: dict[str, int]) -> None:
        self.link = link
        self.told = told
        self.structured = structured
        self.extended = extended
        self.contexts = contexts
        self.cookies: Iterator[int] = count(0x0A0B_0C0D_0000_0001, 0x0000_0001_0000_0001)

    def pack(self, command: int, offset: int, length: int, flags: int, cookie: int) -> bytes:
        if self.extended:
            return struct.pack(">IHHQQQ", EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)
        return struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length)

    def request(
        self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", *, flags: int = 0, cookie: int = -1
    ) -> int:
        """Send a request and wait for nothing; its cookie."""
        chosen = next(self.cookies) if cookie < 0 else cookie
        if self.extended and command == Command.WRITE:
            flags |= 1 << 5  # PAYLOAD_LEN (C21)
        self.link.say(self.pack(command, offset, length, flags, chosen), payload)
        return chosen

    def ask(
        self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", *, flags: int = 0, cookie: int = -1
    ) -> Reply:
        """Send a request and hear its whole reply."""
        chosen = self.request(command, offset, length, payload, flags=flags, cookie=cookie)
        return self.hear({chosen: (command, length)})[chosen]

    def hear(self, asked: Mapping[int, tuple[int, int]]) -> dict[int, Reply]:
        """The whole replies to the requests in flight, by cookie: {cookie: (command, length)}."""
        replies: dict[int, Reply] = {}
        open_ = set(asked)
        while open_:
            cookie, part = self._part(asked, open_)
            reply = replies.setdefault(cookie, part)
            if part is not reply:
                reply.chunks += part.chunks
                reply.error = reply.error or part.error
            if part.simple and part is not reply:
                raise Failed("chunks until NBD_REPLY_FLAG_DONE", "a simple reply among them", self.link.came)
            if part.simple or part.chunks[-1].done:
                open_.discard(cookie)
            if len(reply.chunks) > _MOST_CHUNKS:
                raise Failed("an end of the reply", f"{_MOST_CHUNKS} chunks")
        return replies

    def _part(self, asked: Mapping[int, tuple[int, int]], open_: set[int]) -> tuple[int, Reply]:
        """The next simple reply or chunk."""
        magic = int.from_bytes(start := self.link.hear(4))
        if magic == SIMPLE_MAGIC:
            rest = self.link.hear(12)
            error, cookie = struct.unpack(">IQ", rest)
            self._known(cookie, open_, start + rest)
            command, length = asked[cookie]
            data = self.link.hear(length) if command == Command.READ and not error else b""
            return cookie, Reply(True, error=error, data=data)
        if magic == CHUNK_MAGIC:
            rest = self.link.hear(16)
            flags, kind, cookie, length = struct.unpack(">HHQI", rest)
            offset = None
        elif magic == EXTENDED_REPLY_MAGIC:
            rest = self.link.hear(28)
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", rest)
        else:
            raise Failed("the magic of a reply", f"{magic:#010x}", start)
        head = start + rest
        self._known(cookie, open_, head)
        if length > _LONGEST:
            raise Failed("a chunk that is not longer than what was asked", f"{length} bytes", head)
        chunk = Chunk(flags, kind, self.link.hear(length), head, offset)
        self._judge(chunk)
        return cookie, Reply(False, offset is not None, chunk.error if chunk.is_error else 0, b"", [chunk])

    def _known(self, cookie: int, open_: set[int], head: bytes) -> None:
        if cookie not in open_:
            raise Failed("a cookie that is in flight", f"{cookie:#x}", head)

    def _judge(self, chunk: Chunk) -> None:
        if chunk.type == Kind.NONE and (not chunk.done or chunk.payload):
            raise Failed("NBD_REPLY_TYPE_NONE with NBD_REPLY_FLAG_DONE and without payload", "another one", chunk.head)

    def assemble(self, reply: Reply, offset: int, length: int) -> bytes:
        """The data of a successful READ; fails on chunks that overlap, leave the request or leave a gap (X26, X27)."""
        if reply.error:
            raise Failed(f"{length} bytes read at {offset}", reply.name, self.link.came)
        if reply.simple:
            return reply.data
        data, taken = bytearray(length), bytearray(length)
        for chunk in reply.chunks:
            if chunk.type not in (Kind.NONE, *CONTENT):
                raise Failed("content chunks for a READ", f"a chunk of type {chunk.type:#x}", chunk.head)
            if chunk.type == Kind.NONE:
                continue
            at, size = chunk.span
            start = at - offset
            if start < 0 or start + size > length:
                raise Failed(f"content inside {offset}+{length}", f"{at}+{size}", chunk.head + chunk.payload[:12])
            if any(taken[start : start + size]):
                raise Failed("content that overlaps no earlier chunk", f"{at}+{size} again", chunk.head)
            taken[start : start + size] = b"\1" * size
            if chunk.type == Kind.OFFSET_DATA:
                data[start : start + size] = chunk.payload[8:]
        if (gap := taken.find(0)) >= 0:
            raise Failed("content that covers the request", f"none for offset {offset + gap}", reply.chunks[-1].head)
        return bytes(data)

    def read(self, offset: int, length: int, *, flags: int = 0) -> bytes:
        """The data at an offset; fails where it does not come."""
        return self.assemble(self.ask(Command.READ, offset, length, flags=flags), offset, length)

    @property
    def step(self) -> int:
        """Bytes of one request of many: no more than the maximum payload."""
        most = min(self.told.maximum or 1 << 20, 1 << 20)
        return most - most % max(self.told.minimum, 1)

    def read_all(self, offset: int, length: int) -> bytes:
        """Data of any length, read in steps."""
        return b"".join(
            self.read(at, min(self.step, offset + length - at)) for at in range(offset, offset + length, self.step)
        )

    def write(self, offset: int, data: bytes, *, flags: int = 0) -> None:
        self.ask(Command.WRITE, offset, len(data), data, flags=flags).must(f"a WRITE of {len(data)} bytes", 0)

    @property
    def unit(self) -> int:
        """Bytes of the smallest request that every server takes here."""
        return min(max(self.told.minimum, 512), self.told.size)

    def still_answers(self) -> None:
        """Fail unless the connection goes on and is in step: a READ that nobody can object to is answered."""
        self.read(0, self.unit)

    def leave(self) -> None:
        """DISC (C7)."""
        self.request(Command.DISC)
