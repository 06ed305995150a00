"""Which bytes of a read have come: chunks arrive in any order, do not overlap, and leave no gap (C22, C23)."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["Coverage"]

_MOST_RANGES = 4096  # disjoint ranges of one read; more is an attack, as each costs a walk (fastio's SPANS_MOST)


class Coverage:
    """The covered ranges of [start, start + length), merged.

    >>> covered = Coverage(0, 10)
    >>> covered.add(4, 6), covered.add(0, 4), covered.add(9, 1), covered.complete
    (True, True, False, True)
    """

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.end = start + length
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def complete(self) -> bool:
        return self._starts == [self.start] and self._ends == [self.end]

    def add(self, start: int, length: int) -> bool:
        """Cover a range; False if it is empty, leaves the read, overlaps what came before or is one too many."""
        end = start + length
        if length <= 0 or start < self.start or end > self.end or len(self._starts) > _MOST_RANGES:
            return False
        after = bisect_right(self._starts, start)
        if after and self._ends[after - 1] > start:
            return False
        if after < len(self._starts) and self._starts[after] < end:
            return False
        joins_before = after > 0 and self._ends[after - 1] == start
        joins_after = after < len(self._starts) and self._starts[after] == end
        if joins_before and joins_after:
            self._ends[after - 1] = self._ends.pop(after)
            self._starts.pop(after)
        elif joins_before:
            self._ends[after - 1] = end
        elif joins_after:
            self._starts[after] = start
        else:
            self._starts.insert(after, start)
            self._ends.insert(after, end)
        return True
