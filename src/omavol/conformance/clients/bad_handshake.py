"""Servers that break the handshake, or end it: the client fails, in its own time and without dying."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from omavol.conformance.clients.answers import Asked, Honest
from omavol.conformance.clients.honest import Left, Offers
from omavol.conformance.clients.scenario import Expected, scenario
from omavol.conformance.numbers import GREETING, OPTION_MAGIC, Info, Rep
from omavol.conformance.table import Tag
from omavol.nbd.wire import Error, Option, OptionError

_GREETING = "Newstyle negotiation"
_REPLY = "Fixed newstyle negotiation"
_GO = "Option types: NBD_OPT_INFO and NBD_OPT_GO"
_INFO = "Option reply types: NBD_REP_INFO"
_FAILS = Expected.FAILURE


class _Refusing(Honest):
    """Answers INFO and GO by one error."""

    error: int = OptionError.UNKNOWN

    def inform(self, option: int, data: bytes) -> bool:
        self.seen.meet()
        self.reply(option, self.error, b"not today")
        return False


@scenario("C22", Tag.HOUSE, _FAILS, _GREETING, "A greeting of another protocol")
class WrongGreeting(Honest):
    def greet(self) -> None:
        self.seen.meet()
        self.say(b"SSH-2.0-OpenSSH_9.2p1\r\n" + bytes(64))
        self.hear(4)
        raise Left


@scenario("C25", Tag.HOUSE, _FAILS, _GREETING, "A server that says nothing")
class SilentFromTheStart(Honest):
    def greet(self) -> None:
        self.seen.meet()
        self.hear(1)
        raise Left


@scenario("C22", Tag.HOUSE, _FAILS, _GREETING, "A server that closes after its greeting")
class ClosesAfterTheGreeting(Honest):
    def greet(self) -> None:
        self.seen.meet()
        self.say(GREETING, OPTION_MAGIC, struct.pack(">H", self.offers.handshake))
        raise Left


@scenario("C22", Tag.HOUSE, _FAILS, _GO, "A server that closes instead of answering GO (CVE-2021-20286)")
class ClosesAtGo(Honest):
    def inform(self, option: int, data: bytes) -> bool:
        self.seen.meet()
        raise Left


@scenario("C22", Tag.HOUSE, _FAILS, _REPLY, "An option reply with a wrong magic")
class WrongReplyMagic(Honest):
    def reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.seen.meet()
        self.say(struct.pack(">QIII", 0x0003E889045565AA, option, kind, len(data)), data)


@scenario("C22", Tag.HOUSE, _FAILS, _REPLY, "A reply to an option that was not sent")
class ReplyToAnotherOption(Honest):
    def reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.seen.meet()
        super().reply(option + 100, kind, data)


@scenario("C22", Tag.HOUSE, _FAILS, _INFO, "GO is granted and the size was never told")
class NoExportInformation(Honest):
    def infos(self, asked: Sequence[int]) -> list[tuple[int, bytes]]:
        self.seen.meet()
        return [(kind, data) for kind, data in super().infos(asked) if kind != Info.EXPORT]


@scenario("C22", Tag.HOUSE, _FAILS, _INFO, "INFO_EXPORT of a wrong length")
class ShortExportInformation(Honest):
    def infos(self, asked: Sequence[int]) -> list[tuple[int, bytes]]:
        self.seen.meet()
        return [(kind, data[:-1] if kind == Info.EXPORT else data) for kind, data in super().infos(asked)]


@scenario("C24", Tag.HOUSE, _FAILS, "Size constraints", "An export of 2^63 bytes (CVE-2023-5215)",
          offers=Offers(size=1 << 63))  # fmt: skip
class HugeSize(Honest):
    def enter(self, name: bytes) -> None:
        self.seen.meet()
        super().enter(name)

    def refusal(self, asked: Asked) -> int:
        return Error.EIO


@scenario("C22", Tag.HOUSE, Expected.EITHER, "Size constraints", "A minimum block of 3")
class WrongMinimumBlock(Honest):
    def infos(self, asked: Sequence[int]) -> list[tuple[int, bytes]]:
        told = super().infos(asked)
        if Info.BLOCK_SIZE in asked:
            self.seen.meet()
        return [(kind, struct.pack(">I", 3) + data[4:] if kind == Info.BLOCK_SIZE else data) for kind, data in told]


@scenario("H16", Tag.STATES, _FAILS, _GO, "An export that does not exist")
class UnknownExport(_Refusing):
    pass


@scenario("H24", Tag.STATES, _FAILS, _GO, "An export that policy refuses")
class RefusedByPolicy(_Refusing):
    error = OptionError.POLICY


@scenario("T4", Tag.STATES, _FAILS, "FORCEDTLS mode", "A server that demands TLS, and grants none")
class DemandsTls(_Refusing):
    error = OptionError.TLS_REQD


@scenario("C6", Tag.MUST, _FAILS, "Termination of the session during option haggling",
          "ERR_SHUTDOWN: the client leaves by a soft disconnect", soft=True)  # fmt: skip
class ShutsDownAtGo(_Refusing):
    error = OptionError.SHUTDOWN


@scenario("C18", Tag.HOUSE, Expected.EITHER, "Option types: NBD_OPT_SET_META_CONTEXT",
          "A context is selected that was not asked for")  # fmt: skip
class ForeignContext(Honest):
    def opt_set_meta_context(self, data: bytes) -> None:
        self.seen.meet()
        self.reply(Option.SET_META_CONTEXT, Rep.META_CONTEXT, struct.pack(">I", 7) + b"x-nobody:asked")
        super().opt_set_meta_context(data)


@scenario("C22", Tag.HOUSE, Expected.EITHER, "Option reply types: NBD_REP_META_CONTEXT", "A context without its id")
class ContextWithoutAnId(Honest):
    def opt_set_meta_context(self, data: bytes) -> None:
        self.seen.meet()
        self.reply(Option.SET_META_CONTEXT, Rep.META_CONTEXT, b"\0\0")
        self.reply(Option.SET_META_CONTEXT, Rep.ACK)


@scenario("C22", Tag.HOUSE, _FAILS, "Option reply types: NBD_REP_SERVER",
          "A name in LIST that is longer than its reply (CVE-2017-2630)")  # fmt: skip
class ListThatOverflows(Honest):
    def opt_list(self, data: bytes) -> None:
        self.seen.meet()
        self.reply(Option.LIST, Rep.SERVER, struct.pack(">I", 0x7FFFFFFF) + b"name")
        self.reply(Option.LIST, Rep.ACK)


@scenario("C25", Tag.HOUSE, _FAILS, _GO, "A server that never answers GO")
class SilentAtGo(Honest):
    def inform(self, option: int, data: bytes) -> bool:
        self.seen.meet()
        self.hear(1)
        raise Left
