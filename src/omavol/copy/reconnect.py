"""Going on after a lost connection (NBD.md, C5): how often it is tried, what is due again, and the ends made anew.

The loop in C says what is due; nothing here knows the protocol. A side that was not lost keeps its connections.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from omavol.copy.ends import End, open_destination, open_source
from omavol.copy.errors import CopyError
from omavol.copy.plan import Work

__all__ = ["Attempts", "reopen", "without"]

_LONGEST = 60.0  # seconds between two attempts


class Attempts:
    """How often a lost connection is made anew: `most` times in a row, without getting anywhere in between.

    Getting somewhere is that less is due than ever before: what was acknowledged and lost does not count, so a server
    that dies at the same place each time ends the copy. `delay` seconds before the first, each next twice as long.

    >>> attempts = Attempts(most=2, delay=1.0)
    >>> attempts.next(due=9), attempts.next(due=9), attempts.next(due=9)
    (1.0, 2.0, None)
    >>> attempts.next(due=8)
    1.0
    """

    def __init__(self, most: int, delay: float) -> None:
        self.most = most
        self.delay = delay
        self.number = 0
        self._least: int | None = None

    def next(self, due: int) -> float | None:
        """Seconds to wait before the next attempt; None: enough."""
        if self._least is None or due < self._least:
            self._least, self.number = due, 0
        self.number += 1
        return None if self.number > self.most else min(self.delay * 2 ** (self.number - 1), _LONGEST)


def without(packed: bytes, again: Sequence[Work]) -> bytes:
    """Digest records, packed as the loops have them, but for those of ranges that are sent again."""
    from omavol.copy.digests import Record  # which a copy that loses nothing does not need

    starts = [offset for offset, _, _ in again]
    kept = bytearray()
    for at in range(0, len(packed), Record.SIZE):
        offset = int.from_bytes(packed[at : at + 8], "little")
        number = bisect_right(starts, offset) - 1
        if number < 0 or offset >= again[number][0] + again[number][1]:
            kept += packed[at : at + Record.SIZE]
    return bytes(kept)


def reopen(old: End, side: str, *, connections: int, timeout: float) -> End:
    """Connect to a lost end anew; CopyError if it is not what it was (C5)."""
    if side == "source":
        new = open_source(old.name, connections=connections, timeout=timeout)
    else:
        new = open_destination(old.name, 0, connections=connections, timeout=timeout, keep=True)
    if (new.size, new.flags, new.minimum) == (old.size, old.flags, old.minimum):
        return new
    new.close()
    raise CopyError(
        f"{side} {old.name}: the connection was lost, and what is there now has another size or other abilities",
        code="copy.changed",
        side=side,
    )
