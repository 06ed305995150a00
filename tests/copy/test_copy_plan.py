"""The plan of a copy: a pure function, as a table and by its laws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omavol.copy.plan import plan

# name: (size, allocation, changed, block) and the work expected
TABLE = {
    "nothing known: read all": ((1000, None, None, 1), [(0, 1000, False)]),
    "an empty disk": ((0, None, None, 1), []),
    "a hole that reads as zero": ((1000, [(0, 500, 0), (500, 500, 3)], None, 1), [(0, 500, False), (500, 500, True)]),
    "zero and allocated": ((1000, [(0, 1000, 2)], None, 1), [(0, 1000, True)]),
    "a hole of unknown content is read": ((1000, [(0, 1000, 1)], None, 1), [(0, 1000, False)]),
    "what allocation leaves out is read": (
        (1000, [(500, 100, 3)], None, 1),
        [(0, 500, False), (500, 100, True), (600, 400, False)],
    ),
    "an extent past the end": ((1000, [(500, 4000, 3)], None, 1), [(0, 500, False), (500, 500, True)]),
    "unknown flags are ignored": ((1000, [(0, 1000, 1 << 20)], None, 1), [(0, 1000, False)]),
    "nothing changed": ((1000, None, [], 1), []),
    "only what changed": ((1000, None, [(10, 20), (100, 5)], 1), [(10, 20, False), (100, 5, False)]),
    "neighbours are one": ((1000, None, [(10, 20), (30, 20)], 1), [(10, 40, False)]),
    "out of order, doubled": ((1000, None, [(100, 5), (10, 20), (102, 9)], 1), [(10, 20, False), (100, 11, False)]),
    "changed and zero by now": ((1000, [(0, 50, 3)], [(40, 20)], 1), [(40, 10, True), (50, 10, False)]),
    "reading widens to blocks": ((4096, None, [(600, 1)], 512), [(512, 512, False)]),
    "zeroes shrink to blocks": (
        (4096, [(100, 2000, 3)], None, 512),
        [(0, 512, False), (512, 1536, True), (2048, 2048, False)],
    ),
    "the odd end counts as a block": ((1100, [(1000, 100, 3)], None, 512), [(0, 1024, False), (1024, 76, True)]),
}


@pytest.mark.parametrize("case", TABLE)
def test_plan(case):
    (size, allocation, changed, block), expected = TABLE[case]
    assert plan(size, allocation=allocation, changed=changed, block=block) == expected


SIZES = st.integers(0, 5000)
RANGES = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 900)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(size=SIZES, zeroes=RANGES, changed=st.none() | RANGES, block=st.sampled_from([1, 64, 512]))
def test_plan_covers_what_is_asked_and_zeroes_only_what_is_zero(size, zeroes, changed, block):
    allocation = [(offset, length, 3) for offset, length in zeroes]
    work = plan(size, allocation=allocation, changed=changed, block=block)
    seen = {}
    at = 0
    for offset, length, zero in work:
        assert offset >= at
        assert length > 0
        assert offset % block == 0
        assert (offset + length) % block == 0 or offset + length == size
        at = offset + length
        seen.update(dict.fromkeys(range(offset, at), zero))
    assert at <= size
    wanted = {byte for offset, length in changed or () for byte in range(offset, min(offset + length, size))}
    assert (set(range(size)) if changed is None else wanted) <= set(seen)
    known = {byte for offset, length in zeroes for byte in range(offset, offset + length)}
    assert {byte for byte, zero in seen.items() if zero} <= known
