"""Bytes as a client or a server of the tests says them, built by hand and not by the code under test."""

from __future__ import annotations

import struct
from typing import NamedTuple

from omavol import _wire

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
CLIENT_FLAGS = struct.pack(">I", 3)
REPLY_MAGIC = 0x0003E889045565A9

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_CONTEXT, SET_CONTEXT, EXTENDED = (
    1,
    2,
    3,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
)
ACK, SERVER, INFO_REPLY, META_CONTEXT = 1, 2, 3, 4
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, SHUTDOWN, TOO_BIG, EXTENDED_REQD = (
    2**31 + number for number in (1, 2, 3, 5, 6, 7, 9, 10)
)

# Transmission flags of the test's exports: all but READ_ONLY, ROTATIONAL, RESIZE and the payload of extended headers.
FLAGS = 0xDED
EXPORTS = {
    b"web01": (1 << 30, FLAGS, 512, 4096, 1 << 25, b"the system disk"),
    b"": (5, 1, 0, 0, 0, b""),
}


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def info(number: int, name: bytes = b"web01", requests: tuple[int, ...] = ()) -> bytes:
    """INFO or GO."""
    data = struct.pack(">I", len(name)) + name + struct.pack(f">H{len(requests)}H", len(requests), *requests)
    return option(number, data)


def contexts(number: int, *queries: bytes, name: bytes = b"web01") -> bytes:
    """LIST_META_CONTEXT or SET_META_CONTEXT."""
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    return option(number, data + b"".join(struct.pack(">I", len(query)) + query for query in queries))


def answer(number: int, kind: int, data: bytes = b"") -> bytes:
    """A server's answer to an option."""
    return struct.pack(">QIII", REPLY_MAGIC, number, kind, len(data)) + data


def export_info(number: int = GO, size: int = 1 << 20, flags: int = FLAGS) -> bytes:
    return answer(number, INFO_REPLY, struct.pack(">HQH", 0, size, flags))


def chunk(kind: int, payload: bytes, cookie: int, done: bool = True) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, len(payload)) + payload


class Answer(NamedTuple):
    option: int
    kind: int
    data: bytes


class Session:
    """A server's handshake as a client sees it: say something, get the answers."""

    def __init__(self, exports=EXPORTS, flags: bytes = CLIENT_FLAGS, **options) -> None:
        self.machine = _wire.ServerMachine(exports, **options)
        self.next = -1
        self.rest = b""
        self.greeting = self.raw(b"")
        if flags:
            self.raw(flags)

    def raw(self, data: bytes, room: int = 16384) -> bytes:
        """Everything the server says to `data`; what it did not take yet stays in `rest`."""
        said = b""
        self.rest += data
        while True:
            self.next, used, out = self.machine.step(self.rest, room)
            self.rest = self.rest[used:]
            said += out
            if self.next != 1:
                return said

    def say(self, *data: bytes, room: int = 16384) -> list[Answer]:
        """The answers to options."""
        said, answers = self.raw(b"".join(data), room), []
        while said:
            magic, number, kind, length = struct.unpack_from(">QIII", said)
            assert magic == REPLY_MAGIC
            answers.append(Answer(number, kind, said[20 : 20 + length]))
            assert len(answers[-1].data) == length
            said = said[20 + length :]
        return answers

    def kinds(self, *data: bytes) -> list[int]:
        return [each.kind for each in self.say(*data)]

    @property
    def closed(self) -> bool:
        return self.next == 3

    @property
    def transmits(self) -> bool:
        return self.next == 2
