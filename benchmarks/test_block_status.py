"""Block status of a 1 TiB sparse image with 100,000 extents: every one of them, once through the export."""

import pytest

from benchmarks.aims import Faster, seconds
from benchmarks.race import Lane, Sample, processor_seconds
from benchmarks.servers import contenders
from omavol.load import Load, run

EXTENTS = 100_000
SIZE = 1 << 40
BLOCK = 4096


@pytest.fixture
def sparse(store):
    """50,000 blocks of data with a hole behind each."""
    path = store / "sparse"
    stride = SIZE // (EXTENTS // 2)
    with path.open("wb") as file:
        for number in range(EXTENTS // 2):
            file.seek(number * stride // BLOCK * BLOCK)
            file.write(b"\xa5" * BLOCK)
        file.truncate(SIZE)
    yield path
    path.unlink()


def walk(server):
    """One pass, one request in flight."""

    def once():
        before = processor_seconds(server.pid)
        result = run(Load(server.uri, "status", once=True))
        assert (result.errors, result.times.bytes) == (0, SIZE)
        # A server may cut an extent at the end of a request or of its own knowledge; none may leave one out.
        assert EXTENTS <= result.extents <= 2 * EXTENTS
        return Sample(result.seconds, result.user + result.system, processor_seconds(server.pid) - before)

    return Lane(server.name, once, family=server.family)


def test_block_status_of_many_extents(race, sparse, sockets, on):
    """Aim 2x. Bound by two lseek calls an extent, which the kernel answers from the file's tree of pages or extents.

    Alike: one connection, one request in flight, base:allocation, 32-bit replies; how many extents an answer has is the
    server's choice. qemu-nbd asks the file system in the same way; it tells neighbouring requests apart.
    """
    with contenders(sparse, sockets) as all_of_them:
        race(
            f"block status, 1 TiB, 100,000 extents{on}",
            ours=walk(all_of_them.ours),
            peers=[walk(peer) for peer in all_of_them.peers],
            aims=[Faster(2)],
            show=seconds,
        )
