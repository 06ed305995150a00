"""The disk that every cell of the matrix works on, and what it must hold afterwards."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.servers import wait_for_socket

from peers import Peers

MIB = 1 << 20
SIZE = 48 * MIB
LIMIT = 60  # seconds for any program of a cell
WRITTEN = (4 * MIB + 512, 3 * MIB)  # offset and length of what "write" writes, flushed, with FUA where there is a way
ZEROED = (10 * MIB, MIB)  # of what "trim" and "zero" work on
LARGE = (8 * MIB, 32 * MIB)  # of one request
HOLE = 3  # base:allocation
MAP = [(0, MIB, HOLE), (MIB, MIB, 0), (2 * MIB, 6 * MIB, HOLE), (8 * MIB, 34 * MIB, 0), (42 * MIB, 6 * MIB, HOLE)]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def _data(length: int) -> bytes:
    return random.Random(length).randbytes(length)


@dataclass(frozen=True)
class Disk:
    """A raw file, sparse as MAP says, with the same random bytes in every run."""

    path: Path
    place: Path

    @classmethod
    def make(cls, place: Path) -> Disk:
        disk = cls(place / "disk", place)
        disk.path.touch()
        disk.reset()
        return disk

    def reset(self) -> None:
        """The same file as at first; whoever has it open sees it so."""
        with self.path.open("r+b") as file:
            file.truncate(0)
            file.truncate(SIZE)
            for offset, length, state in MAP:
                if not state:
                    os.pwrite(file.fileno(), _data(length), offset)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def payload(self) -> bytes:
        return _data(WRITTEN[1])[::-1]

    def with_payload(self) -> str:
        """The digest of the disk once the payload is written."""
        data = bytearray(self.content)
        data[WRITTEN[0] : sum(WRITTEN)] = self.payload
        return digest(bytes(data))

    def with_zeroes(self) -> str:
        """The digest of the disk once it is zeroed where trim and zero work."""
        data = bytearray(self.content)
        data[ZEROED[0] : sum(ZEROED)] = bytes(ZEROED[1])
        return digest(bytes(data))


def run(argv: Sequence[object], environment: Mapping[str, str]) -> str:
    """The standard output of a program that has to succeed."""
    done = subprocess.run([str(arg) for arg in argv], env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, f"{argv[-3:]}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def serving(argv: Sequence[object], path: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A server in the foreground, listening on the socket `path`."""
    path.unlink(missing_ok=True)  # not every peer takes its socket away
    process = subprocess.Popen([str(arg) for arg in argv], env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_for_socket(path, process)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def storage_daemon(
    peers: Peers, blockdev: str, path: Path, *, objects: Sequence[str] = (), credentials: str = ""
) -> list[str]:
    """qemu-storage-daemon with one node, exported writable as the default export, inside TLS with `credentials`."""
    return peers.command(
        "qemu-storage-daemon",
        *(*objects, "--blockdev", blockdev, "--nbd-server", f"addr.type=unix,addr.path={path}{credentials}"),
        *("--export", "type=nbd,id=e,node-name=n,name=,writable=on"),
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
