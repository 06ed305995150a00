"""Servers that keep every rule in ways a client does not meet every day: it has to succeed with each of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from omavol import _wire
from omavol.conformance.clients.answers import BLOCK, DONE, Asked, Honest
from omavol.conformance.clients.honest import ALL_FLAGS, Offers
from omavol.conformance.clients.scenario import Expected, scenario
from omavol.conformance.numbers import GREETING, OPTION_MAGIC
from omavol.conformance.table import Tag
from omavol.nbd.wire import Chunk, Command, OptionError
from omavol.nbd.wire import TransmissionFlag as Flag

_CHUNKS = "Structured reply chunk message"
_READ = "Request types: NBD_CMD_READ"
_STATUS = "Structured reply types: NBD_REPLY_TYPE_BLOCK_STATUS"
_SIZES = "Size constraints"
_ONE = int(sum(ALL_FLAGS)) & ~Flag.CAN_MULTI_CONN
_OK = Expected.SUCCESS


@scenario("C22", Tag.MUST, _OK, "Baseline", "A server that offers everything and keeps every rule")
class Everything(Honest):
    def enter(self, name: bytes) -> None:
        self.seen.meet()
        super().enter(name)


@scenario(
    "C12", Tag.SHOULD, _OK, "Transmission flags: NBD_FLAG_CAN_MULTI_CONN", "No CAN_MULTI_CONN: one connection does",
    offers=Offers(flags=_ONE),
)  # fmt: skip
class OneConnection(Everything):
    pass


@scenario("C14", Tag.MUST, Expected.EITHER, "Transmission flags", "Nothing but READ and WRITE is offered, or sent",
          offers=Offers(flags=Flag.HAS_FLAGS, structured=False, contexts=()))  # fmt: skip
class NothingOffered(Everything):
    pass


@scenario("C19", Tag.SHOULD, _OK, "Option types: NBD_OPT_STRUCTURED_REPLY", "No structured replies: simple ones do",
          offers=Offers(structured=False))  # fmt: skip
class NoStructuredReplies(Everything):
    pass


@scenario("C19", Tag.SHOULD, _OK, "Option types: NBD_OPT_INFO and NBD_OPT_GO", "No GO: EXPORT_NAME does")
class NoGo(Honest):
    def inform(self, option: int, data: bytes) -> bool:
        self.seen.meet()
        self.reply(option, OptionError.UNSUP)
        return False


@scenario("C19", Tag.HOUSE, _OK, "Option types: NBD_OPT_SET_META_CONTEXT", "No meta contexts: it works without",
          offers=Offers(contexts=()))  # fmt: skip
class NoMetaContexts(Honest):
    def contexts_asked(self, option: int, data: bytes) -> tuple[bytes, list[str]] | None:
        self.seen.meet()
        return super().contexts_asked(option, data)


@scenario("C4", Tag.SHOULD, _OK, "Newstyle negotiation", "Unknown handshake flags are ignored")
class UnknownHandshakeFlags(Honest):
    def greet(self) -> None:
        self.seen.meet()
        self.say(GREETING, OPTION_MAGIC, struct.pack(">H", self.offers.handshake | 1 << 5))
        self.client_flags = int.from_bytes(self.hear(4))
        if unknown := self.client_flags & ~3:
            self.seen.breach("H2", f"client flags {unknown:#x}, which do not exist")


@scenario("C4", Tag.SHOULD, _OK, "Transmission flags", "Unknown transmission flags are ignored")
class UnknownTransmissionFlags(Everything):
    def flags(self) -> int:
        return super().flags() | 1 << 13 | 1 << 14


@scenario("C3", Tag.MUST, _OK, "Option reply types: NBD_REP_INFO", "Unknown information types are ignored")
class UnknownInformation(Honest):
    def infos(self, asked: Sequence[int]) -> list[tuple[int, bytes]]:
        self.seen.meet()
        return [(0x7E57, b""), *super().infos(asked), (0xFFFF, b"anything at all")]


@scenario("C3", Tag.MUST, _OK, "Structured reply flags", "Unknown reply flags are ignored")
class UnknownReplyFlags(Honest):
    def cmd_read(self, asked: Asked) -> None:
        if not self.structured:
            return super().cmd_read(asked)
        self.seen.meet()
        data = bytes(self.world.disk[asked.offset : asked.offset + asked.length])
        self.say(_wire.make_data_chunk(DONE | 1 << 9, asked.cookie, asked.offset, asked.length), data)
        return None


@scenario("C3", Tag.MUST, _OK, "`base:allocation` metadata context", "Unknown bits of base:allocation are ignored")
class UnknownStatusBits(Honest):
    def extents(self, asked: Asked) -> list[tuple[int, int]]:
        self.seen.meet()
        return [(length, status | 1 << 20) for length, status in super().extents(asked)]


@scenario("X26", Tag.MUST, _OK, _READ, "Content chunks in any order are put together")
class ChunksInAnyOrder(Honest):
    def pieces(self, asked: Asked) -> list[tuple[int, int]]:
        """Offsets and lengths of the chunks of a READ, in the order they are sent."""
        step = max(512, asked.length // 7 // 512 * 512)
        at = range(asked.offset, asked.offset + asked.length, step)
        return [(start, min(step, asked.offset + asked.length - start)) for start in at][::-1]

    def cmd_read(self, asked: Asked) -> None:
        if not self.structured or asked.flags & 4:
            return super().cmd_read(asked)
        self.seen.meet()
        for offset, length in self.pieces(asked):
            data = self.world.disk[offset : offset + length]
            self.say(_wire.make_data_chunk(0, asked.cookie, offset, length), bytes(data))
        self.say(_wire.make_chunk(DONE, Chunk.NONE, asked.cookie, 0))
        return None


@scenario("X26", Tag.STATES, _OK, "Structured reply types: NBD_REPLY_TYPE_OFFSET_HOLE", "Holes are read as zeroes")
class Holes(ChunksInAnyOrder):
    def cmd_read(self, asked: Asked) -> None:
        if not self.structured or asked.flags & 4:
            return super().cmd_read(asked)
        self.seen.meet()
        at, end = asked.offset, asked.offset + asked.length
        while at < end:
            size = min(BLOCK - at % BLOCK, end - at)
            flags = DONE if at + size == end else 0
            data = bytes(self.world.disk[at : at + size])
            if any(data):
                self.say(_wire.make_data_chunk(flags, asked.cookie, at, size), data)
            else:
                self.say(_wire.make_hole_chunk(flags, asked.cookie, at, size))
            at += size
        return None


@scenario("X1", Tag.STATES, _OK, "Transmission", "Replies in another order than the requests")
class RepliesInAnyOrder(Honest):
    def serve(self, asked: Asked) -> None:
        """Answer what has arrived together from its end, DISC apart."""
        together = [asked]
        while len(together) < 16 and len(self.behind()) >= 28 and self.behind()[6:8] != bytes([0, Command.DISC]):
            together.append(self.request())
        if len(together) > 1:
            self.seen.meet()
        for each in reversed(together):
            super().serve(each)


@scenario("X47", Tag.STATES, _OK, _STATUS, "A last descriptor that goes on behind the request")
class StatusBeyondTheRequest(Honest):
    def extents(self, asked: Asked) -> list[tuple[int, int]]:
        found = super().extents(asked)
        end = asked.offset + asked.length
        more = min(BLOCK - end % BLOCK, self.offers.size - end) if end % BLOCK else 0
        if more and not asked.flags & 8:
            self.seen.meet()
            found[-1] = (found[-1][0] + more, found[-1][1])
        return found


@scenario("X45", Tag.STATES, _OK, _STATUS, "Status that covers less than was asked for")
class ShortStatus(Honest):
    def extents(self, asked: Asked) -> list[tuple[int, int]]:
        self.seen.meet()
        return super().extents(asked)[:1]


@scenario("X49", Tag.SHOULD, _OK, "Request types: NBD_CMD_BLOCK_STATUS", "Neighbouring descriptors of equal status")
class EqualNeighbours(Honest):
    def extents(self, asked: Asked) -> list[tuple[int, int]]:
        self.seen.meet()
        found = super().extents(asked)
        length, status = found[0]
        if length > 512 and not asked.flags & 8:
            found[:1] = [(512, status), (length - 512, status)]
        return found


@scenario("C24", Tag.HOUSE, _OK, _SIZES, "An export of odd size", offers=Offers(size=(1 << 20) + 123))
class OddSize(Everything):
    pass


@scenario("C24", Tag.HOUSE, Expected.EITHER, _SIZES, "An export of size 0", offers=Offers(size=0))
class SizeZero(Everything):
    pass


@scenario("C15", Tag.MUST, _OK, _SIZES, "A minimum block of 4096", offers=Offers(minimum=4096))
class MinimumBlock(Honest):
    def enter(self, name: bytes) -> None:
        if self.sizes_told:
            self.seen.meet()
        super().enter(name)


@scenario("C16", Tag.MUST, _OK, _SIZES, "A maximum payload of 1 MiB, simple replies",
          offers=Offers(maximum=1 << 20, structured=False))  # fmt: skip
class SmallMaximum(MinimumBlock):
    pass


@scenario("C5", Tag.STATES, Expected.EITHER, "Newstyle negotiation", "A server of newstyle that is not fixed",
          offers=Offers(handshake=0, structured=False, contexts=()))  # fmt: skip
class NotFixed(Honest):
    def haggle(self) -> None:
        self.seen.meet()
        super().haggle()
