"""What a copy has to do, as a pure function: extents in, work out.

Work is a list of (offset, length, zero) in ascending order, disjoint: `zero` is known to read as zeroes and is not
read. The loop clips it to pieces and requests; here it is aligned to the larger minimum block of the two ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Work", "plan"]

Work = tuple[int, int, bool]

STATE_ZERO = 2  # base:allocation (proto.md, "Metadata querying")


def plan(
    size: int,
    *,
    allocation: Sequence[tuple[int, int, int]] | None = None,
    changed: Sequence[tuple[int, int]] | None = None,
    block: int = 1,
) -> list[Work]:
    """The work of one pass over a disk of `size` bytes.

    `allocation` is (offset, length, base:allocation flags): what says ZERO is not read; what is missing is. `changed`
    is (offset, length): only that is copied. `block` is a power of two: reading widens to it, zeroes shrink.

    >>> plan(4096, allocation=[(0, 1024, 0), (1024, 3072, 3)])
    [(0, 1024, False), (1024, 3072, True)]
    >>> plan(4096, changed=[(100, 8), (700, 1)], block=512)
    [(0, 1024, False)]
    >>> plan(4096, allocation=[(0, 2048, 3)], changed=[(1024, 2048)])
    [(1024, 1024, True), (2048, 1024, False)]
    """
    wanted = [(0, size)] if changed is None else _merge(_widen(changed, size, block))
    zeroes = _merge(
        _shrink(((at, length) for at, length, flags in allocation or () if flags & STATE_ZERO), size, block)
    )
    if allocation is None:
        return [(begin, end - begin, False) for begin, end in wanted if begin < end]
    return [piece for piece in _split(wanted, zeroes) if piece[1]]


def _widen(ranges: Iterable[tuple[int, int]], size: int, block: int) -> Iterator[tuple[int, int]]:
    for offset, length in ranges:
        begin, end = offset // block * block, min(-(-(offset + length) // block) * block, size)
        if length > 0 and begin < end:
            yield begin, end


def _shrink(ranges: Iterable[tuple[int, int]], size: int, block: int) -> Iterator[tuple[int, int]]:
    """Whole blocks inside each range; the disk's end counts as a block's."""
    for offset, length in ranges:
        end = offset + length
        begin, end = -(-offset // block) * block, size if end >= size else end // block * block
        if begin < end:
            yield begin, end


def _merge(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted (begin, end), those that touch or overlap joined."""
    begin = end = -1
    for left, right in sorted(ranges):
        if left <= end:
            end = max(end, right)
            continue
        if begin >= 0:
            yield begin, end
        begin, end = left, right
    if begin >= 0:
        yield begin, end


def _split(wanted: Iterable[tuple[int, int]], zeroes: Iterator[tuple[int, int]]) -> Iterator[Work]:
    """The wanted ranges, cut at the borders of the zero ranges; both are sorted and disjoint."""
    zero = next(zeroes, None)
    for begin, end in wanted:
        while begin < end:
            while zero is not None and zero[1] <= begin:
                zero = next(zeroes, None)
            if zero is None or zero[0] >= end:
                yield begin, end - begin, False
                break
            if zero[0] > begin:
                yield begin, zero[0] - begin, False
                begin = zero[0]
            stop = min(end, zero[1])
            yield begin, stop - begin, True
            begin = stop
