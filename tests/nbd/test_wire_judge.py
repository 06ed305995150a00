"""What a request may ask: rules X7 to X19 and D7, as one table and as laws over all requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omavol import _wire

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))
EPERM, EINVAL, ENOSPC, EOVERFLOW = 1, 22, 28, 75
ALL = 0xDED  # every flag but READ_ONLY, ROTATIONAL, RESIZE, BLOCK_STATUS_PAYLOAD
BARE = 1  # HAS_FLAGS
SIZE = 1 << 20
MIB = 1 << 20
LARGE = 1 << 40


def verdict(type, offset=0, length=4096, flags=0, *, offers=ALL, size=SIZE, minimum=1, maximum=1 << 25, bare=False):
    """The judgement; `bare`: neither structured replies nor contexts were agreed."""
    return _wire.judge_request(
        (flags, type, offset, length), (size, offers, minimum, 4096, maximum), not bare, not bare
    )


CASES = {
    "plain requests pass": [verdict(type) for type in (READ, WRITE, TRIM, CACHE, ZEROES, STATUS)] == [0] * 6,
    "DISC is never refused": verdict(DISC, 7, 9, 0xFFFF, offers=BARE) == 0,
    "FLUSH passes": verdict(FLUSH, 0, 0) == 0,
    "FLUSH has no range": verdict(FLUSH, 0, 512) == EINVAL,
    "X8 a WRITE to a read-only export is EPERM": verdict(WRITE, offers=ALL | 2) == EPERM,
    "X8 a TRIM to a read-only export is EPERM": verdict(TRIM, offers=BARE | 2) == EPERM,
    "X8 a WRITE_ZEROES to a read-only export is EPERM": verdict(ZEROES, offers=BARE | 2) == EPERM,
    "X7 a READ of a read-only export passes": verdict(READ, offers=ALL | 2) == 0,
    "X9 a WRITE past the end is ENOSPC": verdict(WRITE, SIZE - 512, 1024) == ENOSPC,
    "X9 a WRITE_ZEROES past the end is ENOSPC": verdict(ZEROES, SIZE, 1) == ENOSPC,
    "X9 a READ past the end is EINVAL": verdict(READ, SIZE - 512, 1024) == EINVAL,
    "X9 a TRIM past the end is EINVAL": verdict(TRIM, SIZE + 1, 1) == EINVAL,
    "X9 a CACHE past the end is EINVAL": verdict(CACHE, SIZE + 1, 1) == EINVAL,
    "X9 a BLOCK_STATUS past the end is EINVAL": verdict(STATUS, 0, SIZE + 1) == EINVAL,
    "X9 the last byte may be read": verdict(READ, SIZE - 1, 1) == 0,
    "X10 offset + length does not wrap": verdict(READ, 2**64 - 512, 1024) == EINVAL,
    "X10 nor for a WRITE": verdict(WRITE, 2**64 - 1, 2) == ENOSPC,
    "X11 RESIZE is unknown here": verdict(RESIZE) == EINVAL,
    "X11 an unknown command": verdict(99) == EINVAL,
    "X11 an unknown flag": verdict(READ, flags=1 << 9) == EINVAL,
    "X11 DF does not apply to WRITE": verdict(WRITE, flags=DF) == EINVAL,
    "X11 NO_HOLE does not apply to TRIM": verdict(TRIM, flags=NO_HOLE) == EINVAL,
    "X11 REQ_ONE does not apply to READ": verdict(READ, flags=REQ_ONE) == EINVAL,
    "X11 DF applies to READ": verdict(READ, flags=DF) == 0,
    "X11 DF without structured replies": verdict(READ, flags=DF, bare=True) == EINVAL,
    "X11 REQ_ONE applies to BLOCK_STATUS": verdict(STATUS, flags=REQ_ONE) == 0,
    "X11 NO_HOLE and FAST_ZERO apply to WRITE_ZEROES": verdict(ZEROES, flags=NO_HOLE | FAST_ZERO) == 0,
    "X42 FAST_ZERO that was not advertised": verdict(ZEROES, flags=FAST_ZERO, offers=ALL & ~2048) == EINVAL,
    "X11 commands that were not advertised": {
        verdict(FLUSH, 0, 0, offers=BARE),
        *(verdict(type, offers=BARE) for type in (TRIM, CACHE, ZEROES)),
    }
    == {EINVAL},
    "D7 X12 FUA is accepted on every command": {
        verdict(FLUSH, 0, 0, FUA),
        *(verdict(type, flags=FUA) for type in (READ, WRITE, TRIM, CACHE, ZEROES, STATUS)),
    }
    == {0},
    "X11 FUA that was not advertised": verdict(WRITE, flags=FUA, offers=ALL & ~8) == EINVAL,
    "X13 CACHE refuses unknown flags": verdict(CACHE, flags=NO_HOLE) == EINVAL,
    "X16 a TRIM above the maximum passes": verdict(TRIM, length=1 << 31, size=LARGE) == 0,
    "X16 a WRITE_ZEROES above the maximum passes": verdict(ZEROES, length=1 << 31, size=LARGE) == 0,
    "C16 a WRITE above the maximum": verdict(WRITE, length=(1 << 25) + 1, size=LARGE) == EINVAL,
    "a WRITE of the maximum": verdict(WRITE, length=1 << 25, size=LARGE) == 0,
    "the default maximum is 32 MiB": verdict(WRITE, length=(1 << 25) + 1, size=LARGE, maximum=0) == EINVAL,
    "X33 a READ above the maximum comes in chunks": verdict(READ, length=1 << 26, size=LARGE) == 0,
    "C16 which simple replies cannot": verdict(READ, length=1 << 26, size=LARGE, bare=True) == EINVAL,
    "X36 DF above the maximum is EOVERFLOW": verdict(READ, length=1 << 26, flags=DF, size=LARGE) == EOVERFLOW,
    "X17 an offset off the minimum block": verdict(READ, 100, 512, minimum=512) == EINVAL,
    "X18 a length off the minimum block": verdict(WRITE, 512, 100, minimum=512) == EINVAL,
    "X17 whole blocks pass": verdict(WRITE, 512, 1024, minimum=512) == 0,
    "X19 nothing is asked with length 0": {verdict(type, 0, 0) for type in (READ, WRITE, TRIM, ZEROES, STATUS)}
    == {EINVAL},
    "X50 BLOCK_STATUS without a context": verdict(STATUS, bare=True) == EINVAL,
    "X70 PAYLOAD_LEN is unknown to compact headers": verdict(WRITE, flags=PAYLOAD_LEN) == EINVAL,
}


@pytest.mark.parametrize("case", CASES)
def test_judge(case):
    assert CASES[case]


u64 = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 4096), st.integers(2**64 - 4096, 2**64 - 1))


@given(st.integers(0, 9), st.integers(0, 63), u64, st.integers(0, 2**32 - 1), u64, st.integers(0, 0x1FFF))
def test_x10_nothing_outside_the_export_ever_passes(type, flags, offset, length, size, offers):
    passed = verdict(type, offset, length, flags, offers=offers, size=size) == 0
    if passed and type not in (DISC, FLUSH):
        assert offset + length <= size
    if passed and offers & 2:
        assert type not in (WRITE, TRIM, ZEROES)


CHUNK_CASES = [
    # (flags, type, length, command, requested), may it be
    ((1, 0, 0, WRITE, 512), True),
    ((0, 0, 0, WRITE, 512), False),  # NONE without DONE
    ((1, 0, 4, WRITE, 512), False),
    ((0, 1, 8 + 512, READ, 512), True),
    ((0, 1, 8, READ, 512), False),  # no byte
    ((0, 1, 8 + 513, READ, 512), False),  # more than asked
    ((0, 1, 2**32 - 1, READ, 512), False),
    ((0, 1, 8 + 512, WRITE, 512), False),
    ((0, 2, 12, READ, 512), True),
    ((0, 2, 13, READ, 512), False),
    ((0, 2, 12, STATUS, 512), False),
    ((1, 5, 4 + 8, STATUS, 512), True),
    ((1, 5, 4, STATUS, 512), False),  # no descriptor
    ((1, 5, 4 + 9, STATUS, 512), False),
    ((1, 5, 4 + 8, READ, 512), False),
    ((1, 6, 4 + 8, STATUS, 512), False),  # extended, not agreed
    ((1, 0x8001, 6, WRITE, 512), True),
    ((1, 0x8001, 5, WRITE, 512), False),
    ((1, 0x8001, 6 + 4097, WRITE, 512), False),
    ((1, 0x8002, 14, READ, 512), True),
    ((1, 0x8002, 13, READ, 512), False),
    ((1, 0x8765, 6, READ, 512), True),  # C2: an unknown error is an error
    ((1, 0x8765, 1 << 20, READ, 512), False),
    ((1, 99, 0, READ, 512), False),  # C1: an unknown type that is no error
]


@pytest.mark.parametrize(("header", "may"), CHUNK_CASES)
def test_c1_a_chunk_answers_only_what_it_can(header, may):
    assert _wire.judge_chunk_header(*header) is may
