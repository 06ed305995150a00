"""The faulty servers of BLOCK_STATUS, and of the end of a connection."""

from __future__ import annotations

from mutants import BLOCKS, mutant

from omavol.conformance.clients.answers import Honest
from omavol.conformance.clients.honest import Left
from omavol.nbd.wire import Command, Error

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
