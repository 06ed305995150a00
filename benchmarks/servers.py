"""Starts NBD servers, ours and the peers', each on a socket of its own, Debian 12's peers and the newest."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.peers import INSTALLED, NEWEST, Peers
from tests.ports import free_ports

__all__ = [
    "OMAVOL",
    "Contenders",
    "Server",
    "contenders",
    "generations",
    "nbdkit",
    "nbdkit_file",
    "omavol_serve",
    "qemu_nbd",
    "running",
    "secured",
    "wait_for_socket",
]

OMAVOL = str(Path(sys.executable).with_name("omavol"))
FAMILIES = ("nbdkit", "qemu-nbd")


@dataclass(frozen=True)
class Server:
    """A running server; `family` is what it is, `name` says which release too."""

    uri: str
    pid: int
    name: str = ""
    family: str = ""
    peers: Peers = INSTALLED


@dataclass(frozen=True)
class Contenders:
    """The same store behind ours and behind every peer."""

    ours: Server
    peers: tuple[Server, ...]

    @property
    def all(self) -> tuple[Server, ...]:
        return (self.ours, *self.peers)


@functools.cache
def generations() -> tuple[Peers, ...]:
    """Debian 12's peers and the newest; alone Debian 12's, with a line that says so, where no archive is reached."""
    try:
        NEWEST.command("nbdkit")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"benchmarks: the newest peers are left out: {error}", file=sys.stderr)
        return (INSTALLED,)
    return INSTALLED, NEWEST


def wait_for_socket(path: Path, process: subprocess.Popen[bytes] | None = None, limit: float = 60.0) -> None:
    """Return once something listens on `path`; fail when the process (if it is ours) ends or the limit passes first."""
    wait_for(socket.AF_UNIX, os.fspath(path), process, limit)


def wait_for(
    family: int, address: str | tuple[str, int], process: subprocess.Popen[bytes] | None, limit: float = 60.0
) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        with socket.socket(family) as probe:
            try:
                probe.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.005)
            else:
                return
    raise TimeoutError(f"nothing listens on {address} after {limit} s")


def secured(server: Server, psk: Path, user: str) -> Server:
    """The same server by nbds+unix, with a pre-shared key."""
    _, _, path = server.uri.partition("socket=")
    return replace(server, uri=f"nbds+unix://{user}@/?socket={path}&tls-psk-file={psk}")


@contextmanager
def running(
    argv: Sequence[str],
    path: Path,
    export: str = "",
    *,
    family: str = "",
    peers: Peers = INSTALLED,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server whose command listens on the unix socket `path`."""
    path.unlink(missing_ok=True)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_for(socket.AF_UNIX, str(path), process)
        name = f"{family} ({peers.label})" if family in FAMILIES else family
        yield Server(f"nbd+unix:///{export}?socket={path}", process.pid, name, family, peers)
    finally:
        end(process)


@contextmanager
def running_tcp(argv: Sequence[str], port: int, *, family: str, peers: Peers = INSTALLED) -> Iterator[Server]:
    process = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(peers.environment())
    )
    try:
        wait_for(socket.AF_INET, ("127.0.0.1", port), process)
        name = f"{family} ({peers.label})" if family in FAMILIES else family
        yield Server(f"nbd://127.0.0.1:{port}", process.pid, name, family, peers)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def omavol_serve(image: Path | str, sockets: Path, *options: str) -> object:
    path = sockets / "omavol"
    return running([OMAVOL, "serve", "--unix", str(path), *options, str(image)], path, family="omavol")


def nbdkit_file(image: Path, sockets: Path, *options: str, peers: Peers = INSTALLED) -> object:
    return nbdkit(sockets, "file", str(image), *options, peers=peers)


def nbdkit(sockets: Path, *arguments: str, peers: Peers = INSTALLED, apart: str = "") -> object:
    """`apart` tells it from another of the same generation."""
    path = sockets / f"nbdkit-{int(peers.newest)}{apart}"
    argv = peers.nbdkit("-U", path, *arguments)
    return running(argv, path, family="nbdkit", peers=peers, environment=peers.environment())


def qemu_nbd(
    image: Path | str,
    sockets: Path,
    *options: str,
    fmt: str = "raw",
    bitmap: str | None = None,
    writable: bool = False,
    peers: Peers = INSTALLED,
) -> object:
    """As many clients at once as come, no own cache in front of the page cache (its default is writeback: the same)."""
    path = sockets / f"qemu-{int(peers.newest)}"
    more = ["-B", bitmap] if bitmap else []
    mode = [] if writable else ["-r"]
    form = ["-f", fmt] if fmt else []
    argv = peers.command("qemu-nbd", "--persistent", "-e", "0", "-k", path, *form, *mode, *more, *options, str(image))
    return running(argv, path, family="qemu-nbd", peers=peers, environment=peers.environment())


@contextmanager
def contenders(image: Path, sockets: Path, *, writable: bool = False, tcp: bool = False) -> Iterator[Contenders]:
    """`omavol serve`, nbdkit's file plugin and qemu-nbd over one image, each peer in every generation."""
    each = [("omavol", INSTALLED), *((family, peers) for peers in generations() for family in FAMILIES)]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                _by_tcp(family, image, peers, writable) if tcp else _by_unix(family, image, sockets, peers, writable)
            )
            for family, peers in each
        ]
        yield Contenders(servers[0], tuple(servers[1:]))


def _by_unix(family: str, image: Path, sockets: Path, peers: Peers, writable: bool) -> object:
    path = sockets / f"{family}-{int(peers.newest)}"
    where = ["-k" if family == "qemu-nbd" else "-U", str(path)]
    argv = [OMAVOL, "serve", "--unix", str(path), str(image)]
    if family != "omavol":
        argv = _argv(family, where, image, peers, writable)
    return running(argv, path, family=family, peers=peers, environment=peers.environment())


def _by_tcp(family: str, image: Path, peers: Peers, writable: bool) -> object:
    (port,) = free_ports(1)
    where = ["-b" if family == "qemu-nbd" else "-i", "127.0.0.1", "-p", str(port)]
    argv = [OMAVOL, "serve", "--tcp", f"127.0.0.1:{port}", str(image)]
    if family != "omavol":
        argv = _argv(family, where, image, peers, writable)
    return running_tcp(argv, port, family=family, peers=peers)


def _argv(family: str, where: Sequence[str], image: Path, peers: Peers, writable: bool) -> list[str]:
    """A peer's command; `where` is how it is told to listen."""
    if family == "nbdkit":
        return peers.nbdkit(*where, "file", image)
    mode = [] if writable else ["-r"]
    store = f"driver=raw,file.driver=file,file.filename={image},file.locking=off"  # other releases write the same file
    return peers.command("qemu-nbd", "--persistent", "-e", "0", *where, *mode, "--image-opts", store)
