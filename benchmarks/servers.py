"""Starts NBD servers, ours and the peers', each on a unix socket of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["OMAVOL", "Server", "nbdkit_file", "omavol_serve", "qemu_nbd", "wait_for_socket"]

OMAVOL = str(Path(sys.executable).with_name("omavol"))


@dataclass(frozen=True)
class Server:
    uri: str
    pid: int


def wait_for_socket(path: Path, process: subprocess.Popen[bytes] | None = None, limit: float = 60.0) -> None:
    """Return once something listens on `path`; fail when the process (if it is ours) ends or the limit passes first."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(os.fspath(path))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.005)
            else:
                return
    raise TimeoutError(f"nothing listens on {path} after {limit} s")


@contextmanager
def running(argv: Sequence[str], path: Path, export: str = "") -> Iterator[Server]:
    path.unlink(missing_ok=True)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_for_socket(path, process)
        yield Server(f"nbd+unix:///{export}?socket={path}", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def omavol_serve(image: Path, sockets: Path) -> object:
    path = sockets / "omavol"
    return running([OMAVOL, "serve", "--unix", str(path), str(image)], path)


def nbdkit_file(image: Path, sockets: Path) -> object:
    path = sockets / "nbdkit"
    return running(["nbdkit", "-f", "-U", str(path), "file", str(image)], path)


def qemu_nbd(
    image: Path, sockets: Path, *, fmt: str = "raw", bitmap: str | None = None, writable: bool = False
) -> object:
    """Eight clients at once, no own cache in front of the page cache (its default is writeback: the same)."""
    path = sockets / "qemu-nbd"
    options = ["-B", bitmap] if bitmap else []
    mode = [] if writable else ["-r"]
    return running(
        ["qemu-nbd", "--persistent", "-e", "8", "-k", str(path), "-f", fmt, *mode, *options, str(image)], path
    )
