"""Copying a sparse image out of an export: 1 GiB of data in 16,384 extents of 64 GiB."""

import random

import pytest

from benchmarks.aims import Faster
from benchmarks.conftest import SHORT
from benchmarks.copies import engine_lane, nbdcopy_lane
from benchmarks.servers import contenders

EXTENT = 64 << 10
EXTENTS, SIZE = (4096, 16 << 30) if SHORT else (16_384, 64 << 30)


@pytest.fixture
def sparse(store):
    """Extents that never touch, at places of the same seed."""
    path = store / "sparse"
    data = random.Random(1).randbytes(EXTENT - 1) + b"\xff"
    with path.open("wb") as file:
        for slot in sorted(random.Random(0).sample(range(SIZE // EXTENT // 2), EXTENTS)):
            file.seek(slot * 2 * EXTENT)
            file.write(data)
        file.truncate(SIZE)
    yield path
    path.unlink()


@pytest.fixture
def copy(memory):
    path = memory / "copy"
    yield path
    path.unlink(missing_ok=True)


def test_sparse_copy_out(race, sparse, copy, sockets, on):
    """Aim 2x nbdcopy with the better peer. Bound by the two lseek calls an extent and a copy of each byte at each end.

    Alike: 4 connections, a unix socket, block status asked first, holes left out, a new file on tmpfs, flushed at the
    end (fsync). Ours runs in a process that is already there; nbdcopy's start (some 10 ms) is in its time.
    """

    def fresh():
        copy.unlink(missing_ok=True)

    with contenders(sparse, sockets) as all_of_them:
        ours = all_of_them.ours
        race(
            f"sparse copy out, {EXTENTS >> 14 or 0.25:g} GiB in {EXTENTS:,} extents of {SIZE >> 30} GiB{on}",
            ours=engine_lane(ours, copy, ours, before=fresh),
            peers=[nbdcopy_lane(peer, copy, peer, "--flush", before=fresh) for peer in all_of_them.peers],
            aims=[Faster(2)],
        )
