"""The faulty servers of the transmission phase, and of what is offered for it."""

from __future__ import annotations

import struct

from mutants import ALL, BLOCKS, GOOD, NO_FAST_ZERO, READ_ONLY, mutant

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


# Reads


class _Reads(Honest):
    """Answers a structured READ that is `hit` by `wrong`."""

    def hit(self, asked):
        return asked.length > 600

    def cmd_read(self, asked):
        if self.structured and self.hit(asked):
            self.wrong(asked)
        else:
            super().cmd_read(asked)

    def data(self, asked, offset, length, flags=0):
        content = bytes(self.world.disk[offset : offset + length])
        self.say(_wire.make_data_chunk(flags, asked.cookie, offset, length), content)


@mutant("X24-simple-reads")
class SimpleErrorsWithData(Honest):
    def fail(self, asked, error):
        super().fail(asked, error)
        if (
            asked.command == Command.READ
            and not self.structured
            and error == Error.EINVAL
            and asked.offset == self.offers.size
        ):
            self.say(bytes(asked.length))


@mutant("X26-content-chunks")
class ChunksOverlap(_Reads):
    def hit(self, asked):
        return asked.length == 4098 and not asked.flags

    def wrong(self, asked):
        self.data(asked, asked.offset, 1024)
        self.data(asked, asked.offset + 512, asked.length - 512, DONE)


@mutant("X27-chunks-cover-the-request")
class ChunksDiffer(_Reads):
    def hit(self, asked):
        return asked.length == 1 << 19 and not asked.flags

    def wrong(self, asked):
        content = bytearray(self.world.disk[asked.offset : asked.offset + asked.length])
        content[100] ^= 1
        self.say(_wire.make_data_chunk(DONE, asked.cookie, asked.offset, asked.length), bytes(content))


@mutant("X27-the-last-byte", "X24-simple-reads", "X26-content-chunks")
class TheLastByteIsMissing(Honest):
    def refusal(self, asked):
        last = asked.command == Command.READ and asked.length == 1 and asked.offset == self.offers.size - 1
        return Error.EIO if last else super().refusal(asked)


@mutant("X34-one-content-chunk", "X34-hole-beside-data")
class FragmentsWithDf(_Reads):
    def hit(self, asked):
        return asked.flags & 4 and asked.length > 1

    def wrong(self, asked):
        half = asked.length // 2
        self.data(asked, asked.offset, half)
        self.data(asked, asked.offset + half, asked.length - half, DONE)


@mutant("X34-hole-beside-data")
class HolesWithDf(_Reads):
    def hit(self, asked):
        data = self.world.disk[asked.offset : asked.offset + asked.length]
        return asked.flags & 4 and asked.length == 65536 and any(data) and not any(data[-512:])

    def wrong(self, asked):
        self.say(_wire.make_hole_chunk(DONE, asked.cookie, asked.offset, asked.length))


@mutant("X35-df-works")
class DfOfShortReadsOnly(Honest):
    def refusal(self, asked):
        wrong = (
            asked.command == Command.READ
            and asked.flags & 4
            and asked.length == 65536
            and not asked.offset
            and any(self.world.disk[65000:65536])
        )
        return (
            Error.EOVERFLOW if wrong and not self.told.contexts and self.world.disk[0] == 1 else super().refusal(asked)
        )


@mutant("X36-df-of-a-large-read")
class OverflowWithContent(_Reads):
    def hit(self, asked):
        return asked.flags & 4 and asked.length == 1 << 19

    def wrong(self, asked):
        self.data(asked, asked.offset, 512)
        self.say(_wire.make_error_chunk(DONE, asked.cookie, Error.EOVERFLOW, b""))


# Writes


@mutant("X38-writes-read-back")
class ForgetsShortWrites(Honest):
    def cmd_write(self, asked):
        if asked.length != 3:
            self.store(asked.offset, asked.payload)
        self.succeed(asked)


@mutant("X1-writes-in-flight")
class MixesPayloads(Honest):
    def cmd_write(self, asked):
        mixed = len(self.behind()) > 28 and asked.length == 512
        self.store(asked.offset, bytes(asked.length) if mixed else asked.payload)
        self.succeed(asked)


class _OwnCache(Honest):
    """Reads what it has read before."""

    def run(self):
        self.cache = {}
        super().run()

    def cmd_read(self, asked):
        key = (asked.offset, asked.length)
        if key == (0, 4096) and key not in self.cache:
            self.cache[key] = bytes(self.world.disk[: asked.length])
        if key not in self.cache or not self.structured:
            return super().cmd_read(asked)
        head = _wire.make_data_chunk(DONE, asked.cookie, asked.offset, asked.length)
        return self.say(head, self.cache[key])

    def store(self, offset, data):
        super().store(offset, data)
        self.cache.clear()


@mutant("X22-flush-is-seen-elsewhere", "X22-fua-is-seen-elsewhere")
class CachesByConnection(_OwnCache):
    pass


@mutant("X38-zeroes-read-back", "X39-no-hole", "X40-fast-zero", "X34-hole-beside-data")
class ZeroesAreOnes(Honest):
    def cmd_write_zeroes(self, asked):
        self.store(asked.offset, b"\1" * asked.length)
        self.succeed(asked)


@mutant("X39-no-hole")
class NoHoleIsUnknown(Honest):
    def refusal(self, asked):
        wrong = asked.command == Command.WRITE_ZEROES and asked.flags == 2
        return Error.EINVAL if wrong else super().refusal(asked)


@mutant("X40-fast-zero")
class FastZeroFails(Honest):
    def refusal(self, asked):
        return Error.EIO if asked.command == Command.WRITE_ZEROES and asked.flags & 16 else super().refusal(asked)


@mutant("X41-slow-zeroes-never-unsupported", "X39-no-hole")
class NoHoleIsUnsupported(Honest):
    def refusal(self, asked):
        wrong = asked.command == Command.WRITE_ZEROES and asked.flags == 2
        return Error.ENOTSUP if wrong else super().refusal(asked)


@mutant("X42-fast-zero-not-offered", offers=NO_FAST_ZERO)
class FastZeroUnasked(Honest):
    def refusal(self, asked):
        return super().refusal(asked._replace(flags=asked.flags & ~16))


@mutant("X42-zeroes-never-unsupported", "X38-zeroes-read-back", "X34-hole-beside-data", offers=NO_FAST_ZERO)
class ZeroesUnsupported(Honest):
    def refusal(self, asked):
        wrong = asked.command == Command.WRITE_ZEROES and not asked.flags and 4096 < asked.length <= self.offers.size
        return Error.ENOTSUP if wrong else super().refusal(asked)


@mutant("X43-failed-fast-zero-leaves-the-data")
class FastZeroHurts(Honest):
    def refusal(self, asked):
        if asked.command == Command.WRITE_ZEROES and asked.flags & 18 == 18:
            self.store(asked.offset, bytes(asked.length))
            return Error.ENOTSUP
        return super().refusal(asked)


# Block status


class _Extents(Honest):
    """Changes the descriptors of a request that is not REQ_ONE."""

    def change(self, asked, found):
        return found

    def extents(self, asked):
        found = super().extents(asked)
        return found if asked.flags & 8 else self.change(asked, found)


@mutant("X44-one-chunk-a-context")
class OneContextAlone(Honest):
    def cmd_block_status(self, asked):
        self.selected = dict(list(self.selected.items())[:1]) if asked.length > 512 else self.selected
        super().cmd_block_status(asked)


@mutant("X45-descriptors")
class EmptyDescriptors(_Extents):
    def change(self, asked, found):
        return [(0, 0), *found] if asked.offset == 512 else found


@mutant("X45-a-walk-reaches-the-end")
class NoWayOn(Honest):
    def extents(self, asked):
        return super().extents(asked)[:1]

    def refusal(self, asked):
        further = asked.command == Command.BLOCK_STATUS and asked.offset and asked.length > 512
        return Error.EIO if further and asked.offset < self.offers.size else super().refusal(asked)


@mutant("X46-request-of-one")
class MoreThanOne(Honest):
    def extents(self, asked):
        return super().extents(asked._replace(flags=0))


@mutant("X47-descriptors-end-inside")
class GoesOnBehindTheRequest(_Extents):
    def change(self, asked, found):
        return [*found, (512, 1)] if asked.length == 512 and not asked.offset and len(self.selected) == 2 else found


@mutant("X48-descriptors-end-with-the-export")
class GoesOnBehindTheEnd(_Extents):
    def change(self, asked, found):
        last = asked.offset and asked.offset + asked.length == self.offers.size
        return [*found[:-1], (found[-1][0] + 512, found[-1][1])] if last else found


@mutant("X49-descriptors-in-minimum-blocks", offers=BLOCKS)
class OffTheMinimum(_Extents):
    def change(self, asked, found):
        length, status = found[0]
        return [(100, 1 - status % 2), (length - 100, status), *found[1:]] if length > 4096 else found


@mutant("X49-neighbours-differ")
class EqualNeighbours(_Extents):
    def change(self, asked, found):
        length, status = found[0]
        return [(512, status), (length - 512, status), *found[1:]] if length > 4096 else found


@mutant("X51-unused-bits")
class UnusedBits(_Extents):
    def change(self, asked, found):
        return [(length, status | 1 << 20) for length, status in found]


@mutant("X51-zero-reads-as-zero")
class DataIsZero(_Extents):
    def change(self, asked, found):
        return [(length, 3 - status) for length, status in found]


# Endings


@mutant("X52-disconnect", "X52-writes-before-disc", "X53-reads-before-disc")
class StaysAfterDisc(Honest):
    def disconnect(self, asked):
        self.hear(1)
        raise Left


@mutant("X52-writes-before-disc")
class ForgetsWritesBeforeDisc(Honest):
    """Writes when the next request comes, and forgets what stands before DISC."""

    def serve(self, asked):
        for offset, data in getattr(self, "late", ()):
            self.store(offset, data)
        self.late = []
        super().serve(asked)

    def cmd_write(self, asked):
        if asked.flags:
            return super().cmd_write(asked)
        self.late.append((asked.offset, asked.payload))
        return self.succeed(asked)


@mutant("X53-reads-before-disc")
class DropsWhatIsBeforeDisc(Honest):
    def cmd_read(self, asked):
        if (behind := self.behind()) and behind[6:8] == bytes([0, Command.DISC]):
            raise Left
        super().cmd_read(asked)


@mutant("X53-nothing-behind-disc")
class ObeysBehindDisc(Honest):
    def disconnect(self, asked):
        if self.behind():
            self.serve(self.request())
        super().disconnect(asked)
