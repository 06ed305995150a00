"""The asyncio client inside TLS: our server and those of others, many requests in flight, full sockets, leaving."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL, wait_for_socket

from omavol import nbd
from peers import INSTALLED, NEWEST, Peers

pytestmark = pytest.mark.anyio
KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def image(place: Path) -> Path:
    path = place / "image"
    path.write_bytes(os.urandom(SIZE))
    return path


def content_of(image: Path) -> bytes:
    return image.read_bytes()


def ours(peers: Peers, path: Path, image: Path, pki) -> list[str]:
    argv = [OMAVOL, "serve", "--unix", path, "--tls", "require", "--tls-certificates", pki.server, image]
    return list(map(str, argv))


def qemu_nbd(peers: Peers, path: Path, image: Path, pki) -> list[str]:
    credentials = f"tls-creds-x509,id=t,endpoint=server,dir={pki.server},verify-peer=no"
    more = ("-t", "-e", 8, "-f", "raw", "--discard=unmap", "-k", path, image)
    return peers.command("qemu-nbd", "--object", credentials, "--tls-creds", "t", *more)


def nbdkit(peers: Peers, path: Path, image: Path, pki) -> list[str]:
    return peers.nbdkit("-U", path, "--tls=require", f"--tls-psk={pki.keys}", "file", image)


def plain(peers: Peers, path: Path, image: Path, pki) -> list[str]:
    return [OMAVOL, "serve", "--unix", str(path), str(image)]


def named(*servers):
    return pytest.mark.parametrize("server", servers, ids=lambda server: server.__name__)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    uri: str


@pytest.fixture
def served(place, pki, image) -> Iterator[Callable[..., Running]]:
    """Serve the image; the URI is one of TLS, by a certificate or, of nbdkit, by a key."""
    with ExitStack() as stack:

        def start(server: Callable[..., list[str]], peers: Peers = INSTALLED) -> Running:
            path = place / "s"
            argv = server(peers, path, image, pki)
            process = subprocess.Popen(argv, env=peers.environment(), stdout=subprocess.DEVNULL)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            wait_for_socket(path, process)
            if server is nbdkit:
                return Running(process, f"nbds+unix://alice@/?socket={path}&tls-psk-file={pki.keys}")
            return Running(process, f"nbds+unix:///?socket={path}&tls-certificates={pki.trusting}")

        yield start


@pytest.mark.parametrize("peers", [INSTALLED, NEWEST], ids=lambda peers: peers.label)
@named(qemu_nbd, nbdkit)
async def test_every_command_goes_to_a_server_of_others(served, image, server, peers):
    await everything(served(server, peers).uri, image)


async def test_every_command_goes_to_our_server(served, image):
    await everything(served(ours).uri, image)


async def everything(uri: str, image: Path) -> None:
    content = bytearray(content_of(image))
    async with await nbd.aio.connect(uri, timeout=20, connections=3) as disk:
        got = await asyncio.gather(*(disk.read(at, 64 * KIB) for at in range(0, SIZE, 64 * KIB)))
        assert b"".join(got) == content
        for at in range(0, MIB, 4096):
            content[at : at + 4096] = bytes([at >> 12]) * 4096
        await asyncio.gather(*(disk.write(at, bytes([at >> 12]) * 4096) for at in range(0, MIB, 4096)))
        await disk.zero(MIB, 65536, no_hole=True)
        content[MIB : MIB + 65536] = bytes(65536)
        await disk.trim(2 * MIB, 65536)
        await disk.flush()
        read = await disk.read(0, SIZE)
        assert read[: 2 * MIB] == content[: 2 * MIB] and read[2 * MIB + 65536 :] == content[2 * MIB + 65536 :]
        told = (await disk.maps(4 * MIB))["base:allocation"]
        assert [extent.status for extent in told] == [0]
        assert sum(extent.length for extent in told) == SIZE - 4 * MIB
    assert content_of(image)[: 2 * MIB] == content[: 2 * MIB]


@named(ours, qemu_nbd, nbdkit)
async def test_reads_and_writes_pass_each_other_though_both_sockets_are_full(served, image, server):
    """More than sockets and buffers of TLS hold, both ways at once: who may not send goes on receiving."""
    half = SIZE // 2
    before, data = content_of(image), os.urandom(half)
    async with await nbd.aio.connect(served(server).uri, timeout=30) as disk:
        writes = [disk.write(at, data[at : at + 2 * MIB]) for at in range(0, half, 2 * MIB)]
        reads = [disk.read(at, 2 * MIB) for at in range(half, SIZE, 2 * MIB)]
        both = [each for pair in zip(writes, reads, strict=True) for each in pair]
        got = await asyncio.gather(*both)
        await disk.flush()
    assert b"".join(got[1::2]) == before[half:]
    assert content_of(image) == data + before[half:]


async def test_a_loop_that_is_busy_elsewhere_loses_nothing(served, image):
    """Answers come in faster than the loop takes them: what TLS has decrypted already is taken later."""
    async with await nbd.aio.connect(served(ours).uri, timeout=20) as disk:
        reads = [asyncio.ensure_future(disk.read(at, 333_333)) for at in range(0, SIZE - 333_333, 333_333)]
        while not all(read.done() for read in reads):
            sum(range(20_000))
            await asyncio.sleep(0)
    content = content_of(image)
    assert b"".join(read.result() for read in reads) == content[: len(reads) * 333_333]


async def test_a_cancelled_write_harms_no_other_and_its_buffer_is_free_at_once(served, image):
    """Half of it is inside TLS when its task is cancelled: the rest follows as it was."""
    running, data = served(ours), bytearray(os.urandom(SIZE // 2))
    sent = bytes(data)
    async with await nbd.aio.connect(running.uri, timeout=20) as disk:
        running.process.send_signal(signal.SIGSTOP)
        write = asyncio.ensure_future(disk.write(0, data))
        done, _ = await asyncio.wait([write], timeout=0.1)  # the socket takes a part, and then no more
        assert not done
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        data[:] = bytes(len(data))
        running.process.send_signal(signal.SIGCONT)
        await disk.write(SIZE // 2, b"x" * 4096)
        await disk.flush()
        assert await disk.read(0, SIZE // 2) == sent
    assert content_of(image)[SIZE // 2 :][:4096] == b"x" * 4096


@pytest.mark.parametrize("trusted", ["stranger", "elsewhere"])
async def test_T22_a_server_that_is_not_who_it_should_be_is_refused(served, pki, trusted):
    uri = served(ours).uri
    if trusted == "stranger":
        uri = uri.replace(str(pki.trusting), str(pki.stranger))
    else:
        uri += "&tls-hostname=elsewhere.example"
    with pytest.raises(nbd.NbdError, match="TLS failed"):
        await nbd.aio.connect(uri, timeout=10)


async def test_T23_a_server_without_tls_is_refused(served):
    with pytest.raises(nbd.Downgraded):
        await nbd.aio.connect(served(plain).uri, timeout=10)
