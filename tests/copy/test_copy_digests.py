"""The digest file: what is written is read, what is damaged or newer is refused, and any changed byte is found."""

from __future__ import annotations

import itertools
import random
import struct
import zlib

import pytest
from copy_data import KIB, MIB, content, make
from hypothesis import given, settings
from hypothesis import strategies as st

from omavol import _fastio
from omavol.copy.digests import PIECE, Digests, Record
from omavol.copy.engine import replicate
from omavol.copy.errors import BadDigests, CopyError
from omavol.copy.verify import read_back, verify

SIZE = 12 * MIB + 700
PIECES = {0: content(100 * KIB), 3 * MIB - 9: content(2 * MIB, 5), SIZE - 700: content(700, 3)}


@pytest.fixture
def source(tmp_path):
    return make(tmp_path / "source", SIZE, PIECES)


@pytest.fixture
def copied(source, tmp_path):
    """A replica and the digests of what was sent to it."""
    result = replicate(str(source), str(tmp_path / "replica"))
    assert result.digests is not None
    return tmp_path / "replica", result.digests


def test_a_replica_matches_its_digests(copied):
    replica, digests = copied
    outcome = verify(replica, digests.encode())
    assert (outcome.matches, outcome.records) == (True, len(digests))
    assert outcome.way in ("direct", "dropped", "memory")


def test_a_replica_may_be_verified_by_descriptor_and_from_a_file(copied, tmp_path):
    replica, digests = copied
    (tmp_path / "digests").write_bytes(digests.encode())
    with replica.open("r+b") as file:
        assert verify(file.fileno(), tmp_path / "digests").matches


def test_digests_are_xxh3_128_in_canonical_form(tmp_path):
    """The published value of xxh128("a")."""
    source = make(tmp_path / "a", 1, {0: b"a"})
    digests = replicate(str(source), "null:").digests
    assert digests is not None
    assert [record.digest.hex() for record in digests] == ["a96faf705af16834e6c632b61e964e1f"]


def test_the_digest_is_the_same_with_and_without_wide_registers():
    """Every length with a path of its own in xxh3, then whole stripes and blocks, at every alignment."""
    data = random.Random(0).randbytes(1 << 16)
    for length in range(5 * KIB + 1):
        start = length % 64
        piece = data[start : start + length]
        assert _fastio.digest(piece) == _fastio.digest(piece, plain=True), length


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(1, 5000))
def test_the_digest_of_anything_is_the_same_with_and_without_wide_registers(data, times):
    assert _fastio.digest(data * times) == _fastio.digest(data * times, plain=True)


def test_zero_runs_are_one_record_and_nothing_else_is_zero(copied):
    replica, digests = copied
    data = replica.read_bytes()
    for record in digests:
        assert (record.digest is None) != any(data[record.offset : record.offset + record.length])
    runs = [record for record in digests if record.digest is None]
    assert all(before.offset + before.length < after.offset for before, after in itertools.pairwise(runs))


@pytest.mark.parametrize("offset", [0, 99 * KIB, MIB, 3 * MIB, 5 * MIB - 10, SIZE - 1])
def test_one_flipped_byte_of_the_volume_is_found(offset, copied):
    replica, digests = copied
    with replica.open("r+b") as file:
        file.seek(offset)
        before = file.read(1)
        file.seek(offset)
        file.write(bytes([before[0] ^ 0x40]))
    differing = verify(replica, digests).differing
    assert len(differing) == 1
    assert differing[0][0] <= offset < differing[0][0] + differing[0][1]


def test_a_volume_that_is_cut_short_differs_at_its_end(copied):
    replica, digests = copied
    with replica.open("r+b") as file:
        file.truncate(4 * MIB)
    assert verify(replica, digests).differing[-1][0] + verify(replica, digests).differing[-1][1] == SIZE


def test_a_volume_longer_than_the_disk_matches(copied):
    replica, digests = copied
    with replica.open("r+b") as file:
        file.truncate(64 * MIB)
    assert verify(replica, digests).matches


def test_an_export_is_read_back_and_compared(copied, serve):
    replica, digests = copied
    uri = serve("nbdkit", replica)
    assert read_back(uri, digests).matches
    with replica.open("r+b") as file:
        for offset in (50, 8 * MIB):  # in data, and in a zero run
            file.seek(offset)
            file.write(b"!")
    assert [offset for offset, _ in read_back(uri, digests).differing] == [0, 8 * MIB]


def test_only_what_changed_is_in_the_digests(source, tmp_path):
    changed = [(64 * KIB, 8 * KIB), (MIB - 4 * KIB, 8 * KIB)]
    make(tmp_path / "replica", SIZE, {})
    result = replicate(str(source), str(tmp_path / "replica"), changed=changed)
    assert result.digests is not None
    assert [(r.offset, r.length, r.digest is None) for r in result.digests] == [
        (64 * KIB, 8 * KIB, False),
        (MIB - 4 * KIB, 8 * KIB, True),
    ]
    assert result.counters.bytes_read == 16 * KIB
    assert verify(tmp_path / "replica", result.digests).matches


def test_a_missing_volume_is_one_line(copied, tmp_path):
    with pytest.raises(CopyError, match=r"volume .*/none: cannot open: No such file"):
        verify(tmp_path / "none", copied[1])


# --- the file ---------------------------------------------------------------------------------------------------


@st.composite
def digest_files(draw):
    """Records that are possible: sorted, disjoint, hashed ones inside a piece."""
    records, at = [], 0
    for gap, length, zero in draw(
        st.lists(st.tuples(st.integers(0, 3 * PIECE), st.integers(1, 3 * PIECE), st.booleans()), max_size=12)
    ):
        at += gap
        end = at + length if zero else min(at + length, (at // PIECE + 1) * PIECE)
        records.append(Record(at, end - at, None if zero else draw(st.binary(min_size=16, max_size=16))))
        at = end
    return Digests.of(at + draw(st.integers(0, PIECE)), records)


@settings(max_examples=60, deadline=None)
@given(digest_files())
def test_what_is_encoded_is_decoded(digests):
    again = Digests.decode(digests.encode())
    assert again == digests
    assert list(again) == list(digests)


@settings(max_examples=60, deadline=None)
@given(digest_files(), st.data())
def test_any_flipped_bit_of_the_file_is_refused(digests, data):
    file = bytearray(digests.encode())
    bit = data.draw(st.integers(0, len(file) * 8 - 1))
    file[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadDigests):
        Digests.decode(bytes(file))


@settings(max_examples=60, deadline=None)
@given(digest_files(), st.data())
def test_any_cut_of_the_file_is_refused(digests, data):
    file = digests.encode()
    with pytest.raises(BadDigests):
        Digests.decode(file[: data.draw(st.integers(0, len(file) - 1))])


def sealed(version=1, size=4 * PIECE, records=(), piece=PIECE):
    packed = b"".join(struct.pack("<QQII16s", *record) for record in records)
    body = struct.pack("<8sIIQQ", b"OMADIGST", version, piece, size, len(records)) + packed
    return body + struct.pack("<I", zlib.crc32(body))


IMPOSSIBLE = {
    "past the end": [(4 * PIECE - 1, 2, 0, 0, b"")],
    "overflow": [(2**64 - 1, 2, 1, 0, b"")],
    "longer than a piece": [(0, PIECE + 1, 0, 0, b"")],
    "across a boundary": [(PIECE - 1, 2, 0, 0, b"")],
    "empty": [(0, 0, 0, 0, b"")],
    "overlapping": [(0, 10, 0, 0, b""), (9, 10, 0, 0, b"")],
    "unsorted": [(PIECE, 10, 0, 0, b""), (0, 10, 0, 0, b"")],
    "an unknown flag": [(0, 10, 2, 0, b"")],
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_records_are_refused_whatever_the_checksum(case):
    with pytest.raises(BadDigests, match="damaged"):
        Digests.decode(sealed(records=IMPOSSIBLE[case]))


def test_a_newer_version_is_refused_by_name():
    with pytest.raises(BadDigests, match="version 2, this program reads up to 1"):
        Digests.decode(sealed(version=2))


@pytest.mark.parametrize("text", [b"", b"hello", b"OMADIGST", sealed(piece=4096), sealed(version=0)])
def test_other_files_are_refused(text):
    with pytest.raises(BadDigests):
        Digests.decode(text)
