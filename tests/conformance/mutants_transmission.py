"""The faulty servers of the transmission phase, and of what is offered for it."""

from __future__ import annotations

import struct

from mutants import ALL, BLOCKS, GOOD, READ_ONLY, mutant

from omavol import _wire
from omavol.conformance.clients.answers import DONE, Asked, Honest
from omavol.conformance.clients.honest import Left, Offers
from omavol.nbd.wire import Chunk, Command, Error
from omavol.nbd.wire import TransmissionFlag as Flag

UNKNOWN = 0x7E57
BIG = Offers(size=34 << 20, maximum=1 << 20)


def offering(**changes):
    return Offers(**{"size": GOOD.size, "contexts": GOOD.contexts, "names": GOOD.names, **changes})


# What the server offers


@mutant("H43-has-flags", offers=offering(flags=ALL & ~1))
class NoHasFlags(Honest):
    pass


@mutant("H43-flush-works")
class FlushFails(Honest):
    def cmd_flush(self, asked):
        if asked.flags:
            return self.succeed(asked)
        return self.fail(asked, Error.EIO)


@mutant("H43-trim-works")
class TrimFails(Honest):
    def cmd_trim(self, asked):
        self.succeed(asked) if asked.length < 100_000 else self.fail(asked, Error.EIO)


@mutant("H44-no-df-without-structured")
class FragmentsNothingEver(Honest):
    def flags(self):
        return self.offers.flags


@mutant("H45-no-fast-zero-without-zeroes", offers=offering(flags=ALL & ~Flag.SEND_WRITE_ZEROES))
class FastZeroWithoutZeroes(Honest):
    def refusal(self, asked):
        return 0 if asked.command == Command.WRITE_ZEROES and asked.length else super().refusal(asked)


@mutant("H46-minimum-block", "H47-size-in-minimum-blocks", offers=offering(minimum=3))
class MinimumOfThree(Honest):
    def extents(self, asked):
        return [(asked.length // 3 * 3, 0)]

    def refusal(self, asked):
        return 0 if asked.command == Command.READ and asked.length == 512 else super().refusal(asked)


@mutant("H46-preferred-block", offers=offering(preferred=1000))
class PreferredOfAThousand(Honest):
    pass


@mutant("H46-maximum-payload", offers=offering(preferred=1 << 26, maximum=1 << 25))
class MaximumBelowPreferred(Honest):
    pass


@mutant("H47-maximum-payload-is-ample", offers=offering(maximum=65536))
class MeanMaximum(Honest):
    pass


@mutant("H47-size-in-minimum-blocks", offers=offering(size=(1 << 19) + 100, minimum=512))
class SizeOffTheMinimum(Honest):
    def extents(self, asked):
        return [(asked.length, 0)]


# Requests and replies


@mutant("X1-cookies")
class CookiesOf63Bits(Honest):
    def serve(self, asked):
        super().serve(asked._replace(cookie=asked.cookie & (1 << 63) - 1))


@mutant("X1-many-in-flight")
class ThirdOfManyGetsOtherData(Honest):
    def cmd_read(self, asked):
        if len(self.behind()) > 28 and asked.offset:
            asked_for = asked._replace(offset=0)
            data = bytes(self.world.disk[0 : asked_for.length])
            return self.say(_wire.make_data_chunk(DONE, asked.cookie, asked.offset, asked.length), data)
        return super().cmd_read(asked)


@mutant("X2-simple-replies")
class ChunksWithoutAsking(Honest):
    def cmd_flush(self, asked):
        self.say(_wire.make_chunk(DONE, Chunk.NONE, asked.cookie, 0))


@mutant("X3-reads-in-chunks")
class SimpleReadsOnceStructured(Honest):
    def cmd_read(self, asked):
        data = bytes(self.world.disk[asked.offset : asked.offset + asked.length])
        if self.structured and asked.length <= 4096 and not asked.flags:
            return self.say(_wire.make_simple_reply(0, asked.cookie), data)
        return super().cmd_read(asked)


@mutant("X3-early-errors-in-chunks")
class SimpleErrorsOfReads(Honest):
    def fail(self, asked, error):
        if asked.command == Command.READ:
            self.say(_wire.make_simple_reply(error, asked.cookie))
        else:
            super().fail(asked, error)


@mutant("X4-errors-as-chunks")
class SimpleErrors(Honest):
    def fail(self, asked, error):
        if asked.command != Command.READ:
            self.say(_wire.make_simple_reply(error, asked.cookie))
        else:
            super().fail(asked, error)


@mutant("X6-nothing-offered-disconnects")
class LeavesAfterSevenRequests(Honest):
    def transmit(self):
        commands = []
        while True:
            asked = self.request()
            commands.append(asked.command)
            if asked.command == Command.DISC:
                self.disconnect(asked)
            if commands[-3:] == [Command.READ, Command.FLUSH, Command.CACHE]:
                raise Left
            self.serve(asked)


@mutant("X12-fua-on-what-does-not-write")
class NoFuaOnFlush(Honest):
    def refusal(self, asked):
        return Error.EINVAL if asked.command == Command.FLUSH and asked.flags else super().refusal(asked)


@mutant("X12-fua-on-what-writes")
class NoFuaOnTrim(Honest):
    def refusal(self, asked):
        return Error.EINVAL if asked.command == Command.TRIM and asked.flags else super().refusal(asked)


@mutant("X13-cache-with-unknown-flag")
class CacheTakesAnyFlag(Honest):
    def refusal(self, asked):
        return 0 if asked.command == Command.CACHE and asked.flags else super().refusal(asked)


@mutant("X19-length-zero")
class LeavesAtAReadOfNothing(Honest):
    def refusal(self, asked):
        if asked.command == Command.READ and not asked.length:
            raise Left
        return super().refusal(asked)


@mutant("X19-length-zero-of-what-writes")
class LeavesAtAWriteOfNothing(Honest):
    def refusal(self, asked):
        if asked.command == Command.WRITE and not asked.length:
            raise Left
        return super().refusal(asked)


@mutant("X30-error-chunks")
class MessagesThatAreNoStrings(Honest):
    def fail(self, asked, error):
        if self.structured and asked.command == UNKNOWN and asked.length:
            self.say(_wire.make_error_chunk(DONE, asked.cookie, error, b"\xff\xfe"))
        else:
            super().fail(asked, error)


@mutant("X31-done-ends-the-reply")
class AHintInTheFlags(Honest):
    def cmd_read(self, asked):
        data = bytes(self.world.disk[asked.offset : asked.offset + asked.length])
        if self.structured:
            self.say(_wire.make_data_chunk(DONE | 1 << 6, asked.cookie, asked.offset, asked.length), data)
        else:
            super().cmd_read(asked)


@mutant("X57-errors-are-documented", "X11-unknown-command")
class UnknownCommandsAreNotSupported(Honest):
    def refusal(self, asked):
        return Error.ENOTSUP if asked.command > 8 else super().refusal(asked)


# What is refused


@mutant("X5-wrong-magic")
class AnswersAnyMagic(Honest):
    def request(self):
        head = self.hear(28)
        _, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
        return Asked(flags, command, cookie, offset, length, self.hear(length) if command == 1 else b"")


@mutant("X7-read-only-write", "X8-read-only-error", offers=READ_ONLY)
class WritesReadOnly(Honest):
    def refusal(self, asked):
        return 0 if asked.command == Command.WRITE else super().refusal(asked)


@mutant("X8-read-only-error", offers=READ_ONLY)
class ReadOnlyIsInvalid(Honest):
    def refusal(self, asked):
        return Error.EINVAL if asked.command == Command.WRITE else super().refusal(asked)


@mutant("X14-refused-read-only-write-keeps-step", offers=READ_ONLY)
class ReadOnlyLosesStep(Honest):
    def fail(self, asked, error):
        super().fail(asked, error)
        if asked.command == Command.WRITE:
            raise Left


def past_the_end(command, error):
    """A server that answers a request of this command behind the end by this error."""

    class Wrong(Honest):
        def refusal(self, asked):
            outside = asked.command == command and asked.offset >= self.offers.size and asked.offset < 1 << 63
            return error if outside else super().refusal(asked)

    return Wrong


mutant("X9-read-past-the-end")(type("ReadPastTheEnd", (past_the_end(Command.READ, Error.EIO),), {}))
mutant("X9-write-past-the-end")(type("WritePastTheEnd", (past_the_end(Command.WRITE, Error.EIO),), {}))
mutant("X9-zeroes-past-the-end")(type("ZeroesPastTheEnd", (past_the_end(Command.WRITE_ZEROES, Error.EIO),), {}))
mutant("X9-trim-past-the-end")(type("TrimPastTheEnd", (past_the_end(Command.TRIM, Error.EIO),), {}))
mutant("X9-status-past-the-end")(type("StatusPastTheEnd", (past_the_end(Command.BLOCK_STATUS, Error.EIO),), {}))


@mutant("X10-offset-that-overflows")
class Wraps(Honest):
    def refusal(self, asked):
        wrapped = (asked.offset + asked.length) & (1 << 64) - 1
        return 0 if asked.offset > 1 << 63 and wrapped <= self.offers.size else super().refusal(asked)

    def cmd_read(self, asked):
        if asked.offset > 1 << 63:
            return self.succeed(asked)
        return super().cmd_read(asked)


@mutant("X11-unknown-command")
class UnknownCommandsFail(Honest):
    def refusal(self, asked):
        return Error.EIO if asked.command > 8 else super().refusal(asked)


@mutant("X11-unknown-flag")
class UnknownFlagsAreIgnored(Honest):
    def refusal(self, asked):
        return super().refusal(asked._replace(flags=asked.flags & ~(1 << 14 if asked.command == Command.READ else 0)))


@mutant("X11-flag-that-does-not-apply")
class MisplacedFlagsAreIgnored(Honest):
    def refusal(self, asked):
        return super().refusal(asked._replace(flags=asked.flags & ~(10 if asked.command == Command.READ else 0)))


@mutant("X11-df-not-offered")
class DfIsIgnored(Honest):
    def refusal(self, asked):
        return super().refusal(asked._replace(flags=asked.flags & ~(4 if asked.command == Command.READ else 0)))


@mutant("X14-refused-write-keeps-step")
class LosesStep(Honest):
    def fail(self, asked, error):
        super().fail(asked, error)
        if asked.command == Command.WRITE and asked.length > 512:
            raise Left


@mutant("X15-large-read", offers=BIG, rules=("X15", "X16", "X32", "X33"))
class LeavesAtALargeRead(Honest):
    def refusal(self, asked):
        if asked.command == Command.READ and asked.length == 1 << 25:
            raise Left
        return super().refusal(asked)


@mutant("X15-large-write", offers=BIG, rules=("X15", "X16", "X32", "X33"))
class LeavesAtALargeWrite(Honest):
    def refusal(self, asked):
        if asked.command == Command.WRITE and asked.length == 1 << 25:
            raise Left
        return super().refusal(asked)


@mutant("X16-effects-above-the-maximum", offers=BIG, rules=("X15", "X16", "X32", "X33"))
class LeavesAtALargeEffect(Honest):
    def refusal(self, asked):
        if asked.command in (Command.TRIM, Command.WRITE_ZEROES) and asked.length > 1 << 20:
            raise Left
        return super().refusal(asked)


@mutant("X33-read-of-more-than-the-maximum", offers=BIG, rules=("X15", "X16", "X32", "X33"))
class LeavesAtAHugeRead(Honest):
    def refusal(self, asked):
        if asked.command == Command.READ and asked.length > 1 << 25:
            raise Left
        return super().refusal(asked)


@mutant("X32-chunks-keep-the-maximum", offers=BIG, rules=("X15", "X16", "X32", "X33"))
class ChunksAboveTheMaximum(Honest):
    def cmd_read(self, asked):
        if not self.structured:
            return super().cmd_read(asked)
        data = bytes(self.world.disk[asked.offset : asked.offset + asked.length])
        return self.say(_wire.make_data_chunk(DONE, asked.cookie, asked.offset, asked.length), data)


@mutant("X17-off-the-minimum-block", offers=BLOCKS)
class ReadsAnything(Honest):
    def refusal(self, asked):
        near = asked.command == Command.READ and asked.length and asked.offset < 4096 and not asked.flags
        return 0 if near else super().refusal(asked)


@mutant("X18-unaligned-without-block-size", "X17-off-the-minimum-block", offers=BLOCKS)
class ReadsElsewhere(Honest):
    def refusal(self, asked):
        return 0 if asked.command == Command.READ and asked.offset == 1 else super().refusal(asked)

    def cmd_read(self, asked):
        if asked.offset == 1:
            self.say(_wire.make_data_chunk(DONE, asked.cookie, 1, asked.length) if self.structured else
                     _wire.make_simple_reply(0, asked.cookie), bytes(asked.length))  # fmt: skip
        else:
            super().cmd_read(asked)


@mutant("X18-unaligned-write-corrupts-nothing", offers=BLOCKS)
class WritesBeforeItRefuses(Honest):
    def refusal(self, asked):
        if asked.command == Command.WRITE and asked.offset == 1:
            self.store(0, asked.payload)
        return super().refusal(asked)


@mutant("X50-status-without-a-context")
class StatusWithoutAContext(Honest):
    def refusal(self, asked):
        if asked.command == Command.BLOCK_STATUS and not self.selected:
            return Error.EIO
        return super().refusal(asked)


@mutant("X70-payload-flag-with-compact-headers")
class PayloadFlagIsIgnored(Honest):
    def refusal(self, asked):
        return super().refusal(asked._replace(flags=asked.flags & ~32))
