"""The faulty servers of READ, WRITE and their kin."""

from __future__ import annotations

from mutants import NO_FAST_ZERO, mutant

from omavol import _wire
from omavol.conformance.clients.answers import DONE, Honest
from omavol.nbd.wire import Command, Error

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
