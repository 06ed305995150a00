"""Coverage of a read agrees with a set of bytes, whatever comes in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from omavol.nbd.coverage import Coverage


@given(st.integers(0, 5), st.integers(1, 12), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=12))
def test_coverage_is_a_set_of_bytes(start, length, ranges):
    wanted, had = set(range(start, start + length)), set()
    covered = Coverage(start, length)
    for begin, size in ranges:
        piece = set(range(begin, begin + size))
        fits = bool(piece) and piece <= wanted and not piece & had
        assert covered.add(begin, size) is fits
        if fits:
            had |= piece
        assert covered.complete is (had == wanted)


@given(st.permutations(range(8)))
def test_pieces_in_any_order_become_one(order):
    covered = Coverage(100, 8)
    assert all(covered.add(100 + at, 1) for at in order)
    assert covered.complete
    assert not covered.add(103, 1)
