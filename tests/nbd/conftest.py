"""Servers for the client to meet: real ones, and scripted ones that misbehave."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from nbd_said import EXPORTS, Session

from omavol.nbd.uri import Uri
from omavol.nbd.wire import Request, parse_request

LIMIT = 20.0  # seconds any peer of a test may take


class Peer:
    """The server's end of a connection, in the hands of a test's script."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(LIMIT)
        self.heard = b""
        self.extended = False

    def say(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def hear(self, size: int) -> bytes:
        while len(self.heard) < size:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("the client left")
            self.heard += data
        said, self.heard = self.heard[:size], self.heard[size:]
        return said

    def hear_option(self) -> tuple[int, bytes]:
        head = self.hear(16)
        return int.from_bytes(head[8:12]), self.hear(int.from_bytes(head[12:]))

    def hear_end(self) -> bytes:
        """Everything until the client leaves."""
        with suppress(ConnectionError):
            while data := self.socket.recv(65536):
                self.heard += data
        return self.heard

    def negotiate(self, exports=EXPORTS, compact: bool = True, **options) -> Session:
        """Drive a good server's handshake until the client is in, or gone; `compact`: without extended headers."""
        session = Session(exports, flags=b"", compact=compact, **options)
        self.extended = not compact
        self.say(session.greeting)
        while not (session.transmits or session.closed):
            data = self.socket.recv(65536)
            if not data:
                break
            self.say(session.raw(data))
        self.heard = session.rest
        return session

    def request(self) -> Request:
        request = parse_request(self.hear(32 if self.extended else 28), self.extended)
        assert request is not None
        return request


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="nbd", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def scripted(folder) -> Iterator[Callable[..., str]]:
    """Start a server that runs one script a connection, in order; gives its URI. Checks of a script are the test's."""
    with ExitStack() as stack:
        failures: list[BaseException] = []

        def start(*scripts: Callable[[Peer], object], export: str = "web01") -> str:
            path = folder / "s"
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            over, end = map(stack.enter_context, socket.socketpair())
            listener.bind(str(path))
            listener.listen()

            def serve() -> None:
                try:
                    for script in scripts:
                        if over in select.select([listener, over], [], [], LIMIT)[0]:
                            return
                        with listener.accept()[0] as connected, suppress(ConnectionError):
                            script(Peer(connected))
                except BaseException as error:  # noqa: BLE001 (handed to the test below)
                    failures.append(error)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            stack.callback(thread.join, LIMIT)
            stack.callback(end.close)
            return f"nbd+unix:///{export}?socket={path}"

        yield start
    assert not failures, failures


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def activated(stack: ExitStack, listener: socket.socket, command: list[str]) -> None:
    """Run a server that takes its listening socket from us (sd_listen_fds(3)): it can be connected to at once."""
    script = f'exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", script, "server", *command], pass_fds=(listener.fileno(),), stderr=subprocess.DEVNULL
    )
    listener.close()

    def stop() -> None:
        process.terminate()
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT)

    stack.callback(stop)


@pytest.fixture
def image(folder) -> Path:
    """A sparse raw file of 8 MiB: data in its second MiB."""
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(8 << 20)
        os.pwrite(file.fileno(), b"\xa5" * (1 << 20), 1 << 20)
    return path


@pytest.fixture
def nbdkit(folder) -> Iterator[Callable[..., str]]:
    """Start nbdkit with these arguments; gives a URI."""
    with ExitStack() as stack:

        def start(*arguments: str, export: str = "") -> str:
            activated(stack, listening(folder / "k"), ["nbdkit", "-f", *arguments])
            return f"nbd+unix:///{export}?socket={folder}/k"

        yield start


@pytest.fixture(params=["127.0.0.1", "::1"])
def nbdkit_by_tcp(request, image) -> Iterator[str]:
    """nbdkit serving the image on loopback; gives its URI."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        listener = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    uri = Uri(request.param, listener.getsockname()[1])
    with ExitStack() as stack:
        activated(stack, listener, ["nbdkit", "-f", "file", str(image)])
        yield str(uri)


@pytest.fixture
def qemu_nbd(folder) -> Iterator[Callable[..., str]]:
    """Start qemu-nbd with these arguments; gives a URI."""
    with ExitStack() as stack:

        def start(*arguments: str, export: str = "") -> str:
            activated(stack, listening(folder / "q"), ["qemu-nbd", "-t", "-x", export, *arguments])
            return f"nbd+unix:///{export}?socket={folder}/q"

        yield start
