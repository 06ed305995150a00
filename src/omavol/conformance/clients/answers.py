"""The transmission phase of the good server: requests in, replies out, a method a command."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from omavol import _wire
from omavol.conformance.clients.honest import Handshake, Left
from omavol.conformance.numbers import REQUEST_MAGIC
from omavol.nbd.wire import Chunk, Command

__all__ = ["BLOCK", "DONE", "Asked", "Honest"]

DONE = 1
_FAREWELL = 1.0  # seconds that a client may take to close after DISC
BLOCK = 65536  # data and holes take turns in blocks of this many bytes


class Asked(NamedTuple):
    """One request, with the payload of a WRITE."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: bytes = b""


class Honest(Handshake):
    """A connection that keeps every rule; scenarios override what they break."""

    def transmit(self) -> None:
        while True:
            asked = self.request()
            if asked.command == Command.DISC:
                self.disconnect(asked)
            self.serve(asked)

    def request(self) -> Asked:
        """The next request, held against the rules for clients."""
        head = self.hear(28)
        magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
        if magic != REQUEST_MAGIC:
            self.seen.breach("X5", f"a request with the magic {magic:#010x}", head)
            raise Left
        assert self.told is not None
        self.seen.request((flags, command, offset, length), self.told, head)
        payload = self.hear(length) if command == Command.WRITE else b""
        return Asked(flags, command, cookie, offset, length, payload)

    def disconnect(self, asked: Asked) -> None:
        """DISC: this side closes, and hears whether something stands behind it (C9)."""
        self.said_goodbye = "NBD_CMD_DISC"
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_FAREWELL)
            if behind := self.socket.recv(64):
                self.seen.breach("C9", "bytes behind NBD_CMD_DISC", behind)
        raise Left

    def serve(self, asked: Asked) -> None:
        """Answer one request."""
        if error := self.refusal(asked):
            self.fail(asked, error)
            return
        method = getattr(self, f"cmd_{Command(asked.command).name.lower()}")
        method(asked)

    def refusal(self, asked: Asked) -> int:
        """The error a request gets before anything is done; 0 for none."""
        offers = self.offers
        facts = (offers.size, self.flags(), offers.minimum, offers.preferred, offers.maximum)
        head = (asked.flags, asked.command, asked.offset, asked.length)
        return _wire.judge_request(head, facts, self.structured, bool(self.selected))

    def cmd_read(self, asked: Asked) -> None:
        data = bytes(self.world.disk[asked.offset : asked.offset + asked.length])
        if not self.structured:
            self.say(_wire.make_simple_reply(0, asked.cookie), data)
            return
        most = self.offers.maximum
        for at in range(0, asked.length, most):
            piece = data[at : at + most]
            flags = DONE if at + most >= asked.length else 0
            self.say(_wire.make_data_chunk(flags, asked.cookie, asked.offset + at, len(piece)), piece)

    def cmd_write(self, asked: Asked) -> None:
        self.store(asked.offset, asked.payload)
        self.succeed(asked)

    def cmd_flush(self, asked: Asked) -> None:
        self.succeed(asked)

    def cmd_trim(self, asked: Asked) -> None:
        self.store(asked.offset, bytes(asked.length))
        self.succeed(asked)

    def cmd_cache(self, asked: Asked) -> None:
        self.succeed(asked)

    def cmd_write_zeroes(self, asked: Asked) -> None:
        self.store(asked.offset, bytes(asked.length))
        self.succeed(asked)

    def cmd_block_status(self, asked: Asked) -> None:
        descriptors = self.extents(asked)
        contexts = list(self.selected.values())
        for number in contexts:
            flags = DONE if number == contexts[-1] else 0
            head = _wire.make_status_chunk(flags, asked.cookie, number, len(descriptors))
            self.say(head, b"".join(struct.pack(">II", length, status) for length, status in descriptors))

    def extents(self, asked: Asked) -> list[tuple[int, int]]:
        """Descriptors inside the request: blocks that are zero are holes."""
        found: list[tuple[int, int]] = []
        at, end = asked.offset, asked.offset + asked.length
        while at < end:
            size = min(BLOCK - at % BLOCK, end - at)
            status = 0 if any(self.world.disk[at : at + size]) else 3
            if found and found[-1][1] == status:
                found[-1] = (found[-1][0] + size, status)
            else:
                found.append((size, status))
            at += size
        return found[:1] if asked.flags & 8 else found

    def store(self, offset: int, data: bytes) -> None:
        self.world.disk[offset : offset + len(data)] = data

    def succeed(self, asked: Asked) -> None:
        if self.structured:
            self.say(_wire.make_chunk(DONE, Chunk.NONE, asked.cookie, 0))
        else:
            self.say(_wire.make_simple_reply(0, asked.cookie))

    def fail(self, asked: Asked, error: int) -> None:
        if self.structured:
            self.say(_wire.make_error_chunk(DONE, asked.cookie, error, b"refused"))
        else:
            self.say(_wire.make_simple_reply(error, asked.cookie))
