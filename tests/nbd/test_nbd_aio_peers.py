"""The asyncio client against the servers of others."""

import asyncio

import pytest

from omavol import nbd

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@pytest.fixture
def anyio_backend():
    return "asyncio"


PEERS = {
    "nbdkit": lambda nbdkit, qemu_nbd, image: nbdkit("file", str(image)),
    "nbdkit, simple replies": lambda nbdkit, qemu_nbd, image: nbdkit("--no-sr", "file", str(image)),
    "qemu-nbd": lambda nbdkit, qemu_nbd, image: qemu_nbd(
        "-f", "raw", "-e", "4", "--discard=unmap", str(image), export="web01"
    ),
}


@pytest.mark.parametrize("peer", PEERS)
async def test_everything_works_against_the_servers_of_others(peer, nbdkit, qemu_nbd, image):
    uri = PEERS[peer](nbdkit, qemu_nbd, image)
    async with await nbd.aio.connect(uri, timeout=10, connections=3) as disk:
        reads = [disk.read(at, 4096) for at in range(0, 8 * MIB, 65536)]
        got = await asyncio.gather(*reads)
        assert b"".join(got) == bytes(64 << 10) + b"\xa5" * (64 << 10) + bytes(384 << 10)
        await asyncio.gather(*(disk.write(at, bytes([at >> 12]) * 4096) for at in range(0, MIB, 4096)))
        await disk.zero(MIB, 65536)
        await disk.trim(2 * MIB, 65536)
        await disk.flush()
        assert await disk.read(0, MIB) == b"".join(bytes([at]) * 4096 for at in range(256))
        assert await disk.read(MIB, 65537) == bytes(65536) + b"\xa5"
        if disk.export.contexts:
            assert [extent async for extent in disk.extents("base:allocation", 3 * MIB)] == [(3 * MIB, 5 * MIB, 3)]
            assert await disk.maps(3 * MIB) == {"base:allocation": [(3 * MIB, 5 * MIB, 3)]}
        runs = await disk.read_chunks(3 * MIB - 512, 1024)
        assert sum(run.length for run, _ in runs) == 1024
        assert not any(b"".join(content for _, content in runs))
