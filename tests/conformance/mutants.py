"""Servers with one fault each, and the checks that have to see it: those and no others."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from omavol import _wire
from omavol.conformance.clients.answers import Honest
from omavol.conformance.clients.honest import ALL_FLAGS, Left, Offers
from omavol.conformance.numbers import GREETING, OPTION_MAGIC, Info, Rep
from omavol.nbd.wire import Option, OptionError
from omavol.nbd.wire import TransmissionFlag as Flag

__all__ = ["GOOD", "MUTANTS", "Mutant"]

ALL = int(sum(ALL_FLAGS))
GOOD = Offers(size=1 << 19, contexts=("base:allocation", "x-test:two"), names=("", "other"))
READ_ONLY = Offers(size=1 << 19, flags=ALL | Flag.READ_ONLY, contexts=GOOD.contexts, names=GOOD.names)
NO_FAST_ZERO = Offers(size=1 << 19, flags=ALL & ~Flag.SEND_FAST_ZERO, contexts=GOOD.contexts, names=GOOD.names)
BLOCKS = Offers(size=1 << 19, minimum=512, contexts=GOOD.contexts, names=GOOD.names)
EINVAL_REFUSED = 0x7E57


@dataclass(frozen=True)
class Mutant:
    """A fault, and the checks that fail by it; `rules`, where given, are all that it is judged by, to save time."""

    server: type[Honest]
    offers: Offers
    fails: frozenset[str]
    rules: tuple[str, ...] = ()


MUTANTS: dict[str, Mutant] = {}


def mutant(*fails: str, offers: Offers = GOOD, rules: tuple[str, ...] = ()):
    """Put a faulty server into the table."""

    def enter(server: type[Honest]) -> type[Honest]:
        MUTANTS[server.__name__] = Mutant(server, offers, frozenset(fails), rules)
        return server

    return enter


def like(base: type[Honest], **methods) -> type[Honest]:
    """A server that differs by these methods."""
    return type("like", (base,), methods)


# The greeting and EXPORT_NAME


@mutant("H1-handshake-flags")
class ThirdHandshakeFlag(Honest):
    def greet(self):
        self.say(GREETING, OPTION_MAGIC, struct.pack(">H", 7))
        self.client_flags = int.from_bytes(self.hear(4))
        if self.client_flags & ~3:
            raise Left


@mutant("H2-unknown-client-flag")
class TakesAnyClientFlag(Honest):
    def greet(self):
        self.say(GREETING, OPTION_MAGIC, struct.pack(">H", 3))
        self.client_flags = int.from_bytes(self.hear(4))


@mutant("H3-client-flag-not-offered", offers=Offers(size=1 << 19, handshake=1))
class TakesAFlagItDidNotOffer(Honest):
    def greet(self):
        self.say(GREETING, OPTION_MAGIC, struct.pack(">H", 1))
        self.client_flags = int.from_bytes(self.hear(4))
        if self.client_flags & ~3:
            raise Left


@mutant("H4-export-name-is-served", "H7-no-zeroes", "H7-zeroes-without-the-flag")
class NoExportName(Honest):
    def opt_export_name(self, data):
        raise Left


@mutant("H5-other-option-without-fixed")
class HonoursNonFixed(Honest):
    def greet(self):
        super().greet()
        self.client_flags |= 1


@mutant("H6-unknown-export-name")
class EntersAnyExportName(Honest):
    def opt_export_name(self, data):
        super().opt_export_name(data if self.knows(data) else b"")


@mutant("H7-no-zeroes", "H4-export-name-is-served")
class AlwaysZeroes(Honest):
    def opt_export_name(self, data):
        self.client_flags &= ~2
        super().opt_export_name(data)


@mutant("H7-zeroes-without-the-flag", "H4-export-name-is-served")
class NeverZeroes(Honest):
    def opt_export_name(self, data):
        self.client_flags |= 2
        super().opt_export_name(data)


@mutant("H7-no-zeroes-after-go")
class ZeroesAfterGo(Honest):
    def opt_go(self, data):
        super().opt_go(data)
        if self.told and not self.client_flags & 2:
            self.say(bytes(124))


# Options


@mutant("H8-unknown-option")
class UnknownOptionIsInvalid(Honest):
    def answer(self, option, data):
        if option == 0xFFFFFFFF:
            return self.reply(option, OptionError.INVALID)
        return super().answer(option, data)


@mutant("H8-unknown-option-with-data")
class DataOfUnknownOptionsIsRefused(Honest):
    def answer(self, option, data):
        if option == EINVAL_REFUSED and data:
            raise Left
        super().answer(option, data)


@mutant("H11-absurd-length")
class WaitsForFourGigabytes(Honest):
    def haggle(self):
        while self.told is None:
            _, option, length = struct.unpack(">8sII", self.hear(16))
            data = self.hear(length)
            if not self.client_flags & 1 and option != Option.EXPORT_NAME:
                raise Left
            self.answer(option, data)
        self.transmit()


@mutant("H11-absurd-name-length")
class TrustsTheNameLength(Honest):
    def inform(self, option, data):
        if int.from_bytes(data[:4]) > 1 << 20:
            self.hear(int.from_bytes(data[:4]))
        return super().inform(option, data)


@mutant("H10-info-that-does-not-add-up")
class TakesTrailingBytes(Honest):
    def inform(self, option, data):
        return super().inform(option, data[:6] if data == bytes(7) else data)


@mutant("H10-name-that-is-no-string")
class TakesAnyBytesAsAName(Honest):
    def inform(self, option, data):
        length = int.from_bytes(data[:4])
        if len(data) == 6 + length and not _wire.is_string(data[4 : 4 + length]):
            return super().inform(option, struct.pack(">IH", 0, 0))
        return super().inform(option, data)


@mutant("H10-contexts-that-do-not-add-up")
class TakesTrailingBytesOfContexts(Honest):
    def contexts_asked(self, option, data):
        if option == Option.SET_META_CONTEXT and self.structured and data.endswith(b"allocation\0"):
            data = data[:-1]
        return super().contexts_asked(option, data)


@mutant("H23-list-of-exports")
class ListNameOverflows(Honest):
    def opt_list(self, data):
        if data:
            return super().opt_list(data)
        self.reply(Option.LIST, Rep.SERVER, struct.pack(">I", 99))
        return self.reply(Option.LIST, Rep.ACK)


@mutant("H23-listed-names-are-known")
class ListsStrangers(Honest):
    def opt_list(self, data):
        if not data:
            self.reply(Option.LIST, Rep.SERVER, struct.pack(">I", 8) + b"stranger")
        super().opt_list(data)


@mutant("H25-list-with-data")
class ListTakesData(Honest):
    def opt_list(self, data):
        super().opt_list(b"")


@mutant("H25-structured-with-data")
class StructuredTakesData(Honest):
    def opt_structured_reply(self, data):
        super().opt_structured_reply(b"")


@mutant("H26-abort", "H27-abort-with-data")
class AbortIsNotAnswered(Honest):
    def opt_abort(self, data):
        raise Left


@mutant("H27-abort-with-data")
class AbortRefusesData(Honest):
    def opt_abort(self, data):
        if data:
            self.reply(Option.ABORT, OptionError.INVALID)
        else:
            super().opt_abort(data)


@mutant("H28-closes-after-abort")
class StaysAfterAbort(Honest):
    def opt_abort(self, data):
        self.reply(Option.ABORT, Rep.ACK)


# INFO and GO


class _Infos(Honest):
    def change(self, kind, data):
        return [(kind, data)]

    def infos(self, asked):
        return [changed for kind, data in super().infos(asked) for changed in self.change(kind, data)]


_ASKS_INFO = (  # with BLOCK_SIZE as the last information it asks for
    *("H12-info-export-before-ack", "H12-info-tells-what-export-name-tells", "H18-go-tells-what-info-told"),
    *("H43-has-flags", "H44-no-df-without-structured"),
)


@mutant(*_ASKS_INFO)
class InfoWithoutTheExport(_Infos):
    def opt_info(self, data):
        self.alone = data.endswith(b"\0\3")
        super().opt_info(data)
        self.alone = False

    def change(self, kind, data):
        return [] if kind == Info.EXPORT and getattr(self, "alone", False) else [(kind, data)]


@mutant(
    *("H20-no-demand-of-what-was-asked", "H15-name-and-description", "H22-contexts-outlive-a-refused-go", *_ASKS_INFO)
)
class DemandsWhatWasAsked(Honest):
    def opt_info(self, data):
        if data.endswith(b"\0\3") and self.knows(data[4 : 4 + int.from_bytes(data[:4])]):
            self.reply(Option.INFO, OptionError.BLOCK_SIZE_REQD)
        else:
            super().opt_info(data)


@mutant("H13-unknown-information")
class AnswersUnknownInformation(Honest):
    def infos(self, asked):
        return [*super().infos(asked), *((kind, b"") for kind in asked if kind == 0x7E57)]


@mutant("H13-unknown-information")
class RefusesUnknownInformation(Honest):
    def inform(self, option, data):
        if b"\x7e\x57" in data:
            self.reply(option, OptionError.INVALID)
            return False
        return super().inform(option, data)


@mutant("H14-block-size-if-not-default", offers=BLOCKS)
class KeepsItsBlockSizeToItself(_Infos):
    def change(self, kind, data):
        return [] if kind == Info.BLOCK_SIZE else [(kind, data)]


@mutant("H15-name-and-description")
class DescriptionWithANul(_Infos):
    def change(self, kind, data):
        return [(kind, b"a\0disk" if kind == Info.DESCRIPTION else data)]


@mutant("H12-info-tells-what-export-name-tells")
class InfoTellsAnotherFlag(Honest):
    def opt_export_name(self, data):
        self.entering = True
        super().opt_export_name(data)

    def flags(self):
        return super().flags() | (Flag.ROTATIONAL if hasattr(self, "entering") else 0)


@mutant(
    *("H16-unknown-export", "H17-nothing-told-of-an-unknown-export"),
    *("H22-another-go-after-a-refused-one", "H22-contexts-outlive-a-refused-go"),
)
class UnknownExportEndsTheSession(Honest):
    def inform(self, option, data):
        name = data[4 : 4 + int.from_bytes(data[:4])]
        if not self.knows(name) and _wire.is_string(name) and len(data) > 4 + len(name):
            raise Left
        return super().inform(option, data)


@mutant("H16-unknown-export")
class UnknownExportIsInvalid(Honest):
    def reply(self, option, kind, data=b""):
        wrong = kind == OptionError.UNKNOWN and option in (Option.INFO, Option.GO)
        super().reply(option, OptionError.INVALID if wrong else kind, data)


@mutant("H17-nothing-told-of-an-unknown-export")
class TellsOfUnknownExports(Honest):
    def reply(self, option, kind, data=b""):
        if kind == OptionError.UNKNOWN and option in (Option.INFO, Option.GO):
            super().reply(option, Rep.INFO, struct.pack(">HQH", 0, 1, 1))
        super().reply(option, kind, data)


@mutant("H18-go-tells-what-info-told")
class GoForgetsTheDescription(Honest):
    def opt_go(self, data):
        self.going = True
        super().opt_go(data)

    def infos(self, asked):
        return [each for each in super().infos(asked) if each[0] != Info.DESCRIPTION or not hasattr(self, "going")]


@mutant("H21-demand-comes-with-the-sizes")
class DemandsDefaultSizes(Honest):
    def inform(self, option, data):
        name = data[4 : 4 + int.from_bytes(data[:4])]
        if option == Option.GO and self.knows(name) and data.endswith(name + b"\0\0"):
            self.reply(option, OptionError.BLOCK_SIZE_REQD)
            return False
        return super().inform(option, data)


@mutant("H22-contexts-outlive-a-refused-go")
class ARefusedGoForgetsContexts(Honest):
    def reply(self, option, kind, data=b""):
        if option == Option.GO and kind == OptionError.UNKNOWN:
            self.selected = {}
        super().reply(option, kind, data)
