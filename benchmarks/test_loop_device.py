"""A loop device read and written with direct I/O: past the page cache at both levels. Root."""

import os
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.aims import Faster, Thrift
from benchmarks.loads import load_lane
from benchmarks.race import GIB
from benchmarks.servers import OMAVOL, Server, generations, nbdkit_file, qemu_nbd, running
from omavol.serve.client import ControlClient

SIZE = 1 << 30
PIECE = 256 << 10


@pytest.fixture
def device(memory):
    """A loop device with direct I/O over a file on tmpfs: what is behind it costs one copy and never waits."""
    backing = memory / "loop"
    with backing.open("wb") as file:
        file.truncate(SIZE)
        os.posix_fallocate(file.fileno(), 0, SIZE)
    made = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", backing], capture_output=True, text=True, check=False
    )
    if made.returncode:
        backing.unlink()
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", path], check=True)
    backing.unlink()


def wait_for_path(path, limit=30.0):
    deadline = time.monotonic() + limit
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came to be"
        time.sleep(0.005)


@contextmanager
def omavol_direct(device, sockets):
    """`omavol serve` with a descriptor that was opened O_DIRECT, handed in by the control socket as the daemon does."""
    path, control = sockets / "omavol-direct", sockets / "control"
    argv = [OMAVOL, "serve", "--unix", str(path), "--control", str(control)]
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        with running(argv, path, "disk", family="omavol") as server:
            wait_for_path(control)
            with ControlClient(control) as client:
                client.add("disk", descriptor, SIZE)
                yield server
    finally:
        os.close(descriptor)


def lanes(stack: ExitStack, device: Path, sockets: Path, operation: str):
    servers: list[Server] = [stack.enter_context(omavol_direct(device, sockets))]
    for peers in generations():
        servers.append(stack.enter_context(nbdkit_file(device, sockets, "cache=none", peers=peers)))
        unlocked = f"driver=raw,file.driver=host_device,file.filename={device},file.locking=off"
        options = ("--cache=none", "--image-opts")
        servers.append(stack.enter_context(qemu_nbd(unlocked, sockets, *options, fmt="", writable=True, peers=peers)))
    return [load_lane(server, operation, unit=GIB, size=PIECE, depth=8, connections=4) for server in servers]


@pytest.mark.parametrize("operation", ["read", "write"])
def test_direct_io_on_a_loop_device(race, device, sockets, operation):
    """Aim 1x the better peer, at half its processor time. Bound by the loop driver's own thread and its copy.

    A read is filled into a pipe by the disk and goes to the socket from there, uncopied. A write is copied out of the
    socket once, as the peers do it (O_DIRECT wants whole aligned pages, a socket has none): that copy, and waking a
    thread that waits for the disk, is what it costs.

    Alike: requests of 256 KiB, 8 in flight on each of 4 connections, our load generator, nothing flushed. O_DIRECT in
    ours and in qemu-nbd (--cache=none). nbdkit has no direct I/O: its cache=none goes through the page cache and drops
    what it used, the nearest it offers.
    """
    with ExitStack() as stack:
        ours, *peers = lanes(stack, device, sockets, operation)
        race(
            f"loop device, direct I/O, {operation}",
            ours=ours,
            peers=peers,
            aims=[Faster(1), Thrift(0.5, "server", GIB)],
            show=lambda cost: f"{1 / cost:.2f} GiB/s",
        )
