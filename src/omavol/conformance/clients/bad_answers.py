"""Servers that break the transmission phase in one way each, at every request that gives the occasion."""

from __future__ import annotations

import struct
from collections.abc import Callable

from omavol import _wire
from omavol.conformance.clients.answers import DONE, Asked, Honest
from omavol.conformance.clients.honest import Left
from omavol.conformance.clients.scenario import Expected, scenario
from omavol.conformance.numbers import CHUNK_MAGIC
from omavol.conformance.table import Tag
from omavol.nbd.wire import Chunk, Command, Error

_TYPES = "Structured reply types"
_DATA = "Structured reply types: NBD_REPLY_TYPE_OFFSET_DATA"
_ERROR = "Structured reply types: NBD_REPLY_TYPE_ERROR"
_STATUS = "Structured reply types: NBD_REPLY_TYPE_BLOCK_STATUS"
_READ = "Request types: NBD_CMD_READ"
_TRANSMISSION = "Transmission"
_FAILS = Expected.FAILURE


class _Once(Honest):
    """Misbehaves at each request for data (READ or WRITE) by `misbehave`."""

    structured_only = False

    def serve(self, asked: Asked) -> None:
        if asked.command in (Command.READ, Command.WRITE) and (self.structured or not self.structured_only):
            self.seen.meet()
            self.misbehave(asked)
        else:
            super().serve(asked)

    def misbehave(self, asked: Asked) -> None:
        raise NotImplementedError

    def data(self, asked: Asked, offset: int, length: int, flags: int = DONE) -> None:
        """A chunk of data, of this offset and length whatever was asked."""
        content = bytes(self.world.disk[offset : offset + length]).ljust(length, b"\0")
        self.say(_wire.make_data_chunk(flags, asked.cookie, offset, length), content)


class _ReadOnce(_Once):
    """The same for READ with structured replies alone."""

    structured_only = True

    def serve(self, asked: Asked) -> None:
        if asked.command == Command.WRITE:
            Honest.serve(self, asked)
        else:
            super().serve(asked)


@scenario("C22", Tag.HOUSE, _FAILS, _TRANSMISSION, "A reply with a cookie that is not in flight")
class WrongCookie(_Once):
    def misbehave(self, asked: Asked) -> None:
        Honest.serve(self, asked._replace(cookie=asked.cookie ^ 0x5A5A))


@scenario("C22", Tag.HOUSE, _FAILS, _TRANSMISSION, "A reply with a wrong magic")
class WrongMagic(_Once):
    def misbehave(self, asked: Asked) -> None:
        self.say(struct.pack(">IIQ", 0x67446699, 0, asked.cookie) + bytes(64))


@scenario("C1", Tag.MUST, _FAILS, _TYPES, "A chunk of unknown type that is no error")
class UnknownChunk(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.say(struct.pack(">IHHQI", CHUNK_MAGIC, DONE, 0x55, asked.cookie, 4) + b"abcd")


@scenario("C1", Tag.MUST, _FAILS, _TYPES, "A block status chunk that answers a READ")
class StatusForARead(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.say(_wire.make_status_chunk(DONE, asked.cookie, 1, 1) + struct.pack(">II", asked.length, 0))


@scenario("C22", Tag.HOUSE, _FAILS, _DATA, "A data chunk without data (the document: MAY disconnect)")
class EmptyDataChunk(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.say(struct.pack(">IHHQIQ", CHUNK_MAGIC, DONE, Chunk.OFFSET_DATA, asked.cookie, 8, asked.offset))


@scenario("C23", Tag.HOUSE, _FAILS, _READ, "Less data than was asked for, and success (the document: MAY disconnect)")
class ShortData(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.data(asked, asked.offset, max(asked.length // 2, 1))


@scenario("C23", Tag.HOUSE, _FAILS, _READ, "NONE alone for a READ (the document: MAY disconnect)")
class NoneAlone(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.say(_wire.make_chunk(DONE, Chunk.NONE, asked.cookie, 0))


@scenario("C23", Tag.HOUSE, _FAILS, _READ, "A gap between two chunks (the document: MAY disconnect)")
class Gap(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        part = asked.length // 4
        self.data(asked, asked.offset, part, 0)
        self.data(asked, asked.offset + 2 * part, asked.length - 2 * part)


@scenario("C22", Tag.HOUSE, _FAILS, _READ, "Chunks that overlap (the document: MAY disconnect)")
class OverlappingChunks(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        part = asked.length // 2
        self.data(asked, asked.offset, part, 0)
        self.data(asked, asked.offset + part // 2, asked.length - part // 2)


@scenario("C22", Tag.HOUSE, _FAILS, _DATA, "More data than was asked for")
class TooMuchData(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.data(asked, asked.offset, asked.length + 512)


@scenario("C22", Tag.HOUSE, _FAILS, _DATA, "Data before the request's offset (CVE-2019-14842's neighbour)")
class DataOutside(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        content = bytes(asked.length)
        offset = (asked.offset - (1 << 32)) & 0xFFFF_FFFF_FFFF_FFFF
        self.say(_wire.make_data_chunk(DONE, asked.cookie, offset, asked.length), content)


@scenario("C22", Tag.HOUSE, _FAILS, _READ, "A simple reply to a READ after structured replies were agreed")
class SimpleReplyToARead(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        data = self.world.disk[asked.offset : asked.offset + asked.length]
        self.say(_wire.make_simple_reply(0, asked.cookie), bytes(data))


@scenario("C25", Tag.HOUSE, _FAILS, "Structured reply flags", "The chunk with DONE never comes")
class DoneMissing(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.data(asked, asked.offset, asked.length, 0)
        self.hear_all()

    def hear_all(self) -> None:
        """Take what the client says, and say nothing more."""
        while True:
            self.hear(1)


@scenario("C25", Tag.HOUSE, _FAILS, _TRANSMISSION, "Silence in the middle of a reply")
class SilentInAReply(_Once):
    def misbehave(self, asked: Asked) -> None:
        if self.structured and asked.command == Command.READ:
            self.say(_wire.make_data_chunk(DONE, asked.cookie, asked.offset, asked.length), bytes(asked.length // 2))
        while True:
            self.hear(1)


@scenario("C22", Tag.HOUSE, _FAILS, _TRANSMISSION, "The connection ends in the middle of a reply")
class ClosesInAReply(_Once):
    def misbehave(self, asked: Asked) -> None:
        self.say(_wire.make_data_chunk(DONE, asked.cookie, asked.offset, asked.length)[:11])
        raise Left


@scenario("X28", Tag.STATES, _FAILS, _READ, "An error chunk after part of the data")
class ErrorInARead(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        part = asked.length // 2
        self.data(asked, asked.offset, part, 0)
        self.say(_wire.make_error_chunk(DONE, asked.cookie, Error.EIO, b"bad sector", asked.offset + part))


@scenario("X30", Tag.STATES, _FAILS, _ERROR, "An error chunk without a message")
class ErrorWithoutAMessage(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        self.say(_wire.make_error_chunk(DONE, asked.cookie, Error.EIO, b""))


@scenario("C4", Tag.SHOULD, _FAILS, "Error values", "An unknown error counts as EINVAL")
class UnknownError(_Once):
    def misbehave(self, asked: Asked) -> None:
        self.fail(asked, 9999)


@scenario("C2", Tag.MUST, _FAILS, _TYPES, "An error chunk of unknown type is an error")
class UnknownErrorChunk(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        payload = struct.pack(">IH", Error.EIO, 0)
        self.say(struct.pack(">IHHQI", CHUNK_MAGIC, DONE, 0x8055, asked.cookie, len(payload)) + payload)


@scenario("C1", Tag.MUST, _FAILS, _ERROR, "An error message that is longer than its chunk")
class MessageThatOverflows(_ReadOnce):
    def misbehave(self, asked: Asked) -> None:
        payload = struct.pack(">IH", Error.EIO, 60000) + b"short"
        self.say(struct.pack(">IHHQI", CHUNK_MAGIC, DONE, Chunk.ERROR, asked.cookie, len(payload)) + payload)


@scenario("C6", Tag.MUST, _FAILS, "Terminating the transmission phase",
          "ESHUTDOWN: the client leaves by a soft disconnect", soft=True)  # fmt: skip
class ShutsDown(_Once):
    def misbehave(self, asked: Asked) -> None:
        self.fail(asked, Error.ESHUTDOWN)


@scenario("C1", Tag.MUST, _FAILS, _TYPES, "A data chunk that answers a WRITE")
class DataForAWrite(_ReadOnce):
    def serve(self, asked: Asked) -> None:
        if asked.command == Command.WRITE and self.structured:
            self.seen.meet()
            self.data(asked, asked.offset, asked.length)
        else:
            Honest.serve(self, asked)


@scenario("C23", Tag.HOUSE, _FAILS, "Request types: NBD_CMD_FLUSH", "A FLUSH that fails is a failure")
class FailedFlush(Honest):
    def cmd_flush(self, asked: Asked) -> None:
        self.seen.meet()
        self.fail(asked, Error.EIO)


@scenario("X9", Tag.STATES, _FAILS, "Error values", "A WRITE that finds no space is a failure")
class NoSpace(Honest):
    def cmd_write(self, asked: Asked) -> None:
        self.seen.meet()
        self.fail(asked, Error.ENOSPC)


class _BadStatus(Honest):
    """Answers BLOCK_STATUS by `payload` for the context that was selected."""

    def cmd_block_status(self, asked: Asked) -> None:
        self.seen.meet()
        number, descriptors = self.wrong(asked, next(iter(self.selected.values())))
        head = _wire.make_status_chunk(DONE, asked.cookie, number, len(descriptors))
        self.say(head, b"".join(struct.pack(">II", length, status) for length, status in descriptors))

    wrong: Callable[..., tuple[int, list[tuple[int, int]]]]


@scenario("C26", Tag.HOUSE, Expected.EITHER, _STATUS, "An empty descriptor: progress, or a failure")
class EmptyExtent(_BadStatus):
    def wrong(self, asked: Asked, number: int) -> tuple[int, list[tuple[int, int]]]:
        return number, [(0, 0)]


@scenario("C22", Tag.HOUSE, Expected.EITHER, _STATUS, "A descriptor far beyond the end of the export")
class ExtentBeyond(_BadStatus):
    def wrong(self, asked: Asked, number: int) -> tuple[int, list[tuple[int, int]]]:
        return number, [(0xFFFFFFFF, 0)]


@scenario("C22", Tag.HOUSE, Expected.EITHER, _STATUS, "Status of a context that was not selected")
class StatusOfAnotherContext(_BadStatus):
    def wrong(self, asked: Asked, number: int) -> tuple[int, list[tuple[int, int]]]:
        return number + 77, [(asked.length, 0)]


@scenario("C22", Tag.HOUSE, Expected.EITHER, _STATUS, "A status chunk of half a descriptor")
class HalfADescriptor(Honest):
    def cmd_block_status(self, asked: Asked) -> None:
        self.seen.meet()
        payload = struct.pack(">II", next(iter(self.selected.values())), asked.length)
        self.say(struct.pack(">IHHQI", CHUNK_MAGIC, DONE, Chunk.BLOCK_STATUS, asked.cookie, len(payload)) + payload)
