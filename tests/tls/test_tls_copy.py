"""`omavol copy` inside TLS, at either end or both: into and out of our server, qemu-nbd and nbdkit."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from benchmarks.servers import OMAVOL, wait_for

from omavol import _wire
from omavol._channel import SecureChannel, TlsCredentials
from omavol._fastio import CopyLoop
from omavol.copy.ends import End
from omavol.copy.engine import Job, Options, Result, replicate
from omavol.copy.errors import CopyError
from omavol.copy.verify import verify
from omavol.nbd.tls import SecureSocket
from omavol.nbd.transport import Transport
from peers import INSTALLED, NEWEST, Peers
from ports import free_ports

KIB, MIB = 1 << 10, 1 << 20
LIMIT = 60
FAMILIES = pytest.mark.parametrize("family", ["unix", "tcp"])


@dataclass(frozen=True)
class Secured:
    """A running server inside TLS; `query` are the parameters that a client needs, `user` those of a shared key."""

    process: subprocess.Popen[bytes]
    query: str
    user: str = ""
    unix: Path | None = None
    port: int = 0

    @property
    def uri(self) -> str:
        at = f"{self.user}@" if self.user else ""
        if self.unix is not None:
            return f"nbds+unix://{at}/?socket={self.unix}&{self.query}"
        return f"nbds://{at}localhost:{self.port}/?{self.query}"


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Servers, ended with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(LIMIT)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def serve(place, pki, running) -> Callable[..., Secured]:
    """Serve an image by `omavol serve`, which demands TLS by certificate."""

    def start(image: Path, family: str = "unix", *, unix: Path | None = None, certificates: Path | None = None):
        where = unix or place / f"s{len(running)}"
        argv = [OMAVOL, "serve", *(("--unix", where) if family == "unix" else ("--tcp", "127.0.0.1:0")), image]
        argv += ["--tls", "require", "--tls-certificates", certificates or pki.server]
        process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        port = urlsplit(process.stdout.readline().decode()).port or 0
        return Secured(process, f"tls-certificates={pki.trusting}", unix=where if family == "unix" else None, port=port)

    return start


@pytest.fixture
def peer(place, running) -> Callable[..., Secured]:
    """Start a peer's command, SOCK and PORT standing for where it is to listen."""

    def start(argv: list[str], family: str, peers: Peers, query: str, user: str = "") -> Secured:
        unix, port = place / f"s{len(running)}", free_ports(1)[0]
        command = [part.replace("SOCK", str(unix)).replace("PORT", str(port)) for part in argv]
        process = subprocess.Popen(command, env=peers.environment())
        running.append(process)
        if family == "unix":
            wait_for(socket.AF_UNIX, str(unix), process)
            return Secured(process, query, user, unix=unix)
        wait_for(socket.AF_INET, ("127.0.0.1", port), process)
        return Secured(process, query, user, port=port)

    return start


def listening(family: str, unix: tuple[str, ...], tcp: tuple[str, ...]) -> tuple[str, ...]:
    return unix if family == "unix" else tcp


def filled(path: Path, size: int) -> Path:
    """Random data, a hole of 2 MiB behind its first MiB, and an end that is no whole block."""
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.seek(3 * MIB)
        file.write(os.urandom(size - 3 * MIB))
    return path


@pytest.fixture
def image(place) -> Path:
    return filled(place / "image", 9 * MIB + 512)


def empty(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def copy(source: object, destination: object, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [OMAVOL, "copy", str(source), str(destination), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT)


def copied(source: object, destination: object, *options: str) -> None:
    done = copy(source, destination, *options)
    assert (done.returncode, done.stderr) == (0, "")


@FAMILIES
@pytest.mark.parametrize("options", [(), ("--verify",)], ids=["by the file", "verified"])
def test_a_file_goes_into_our_server_and_out_of_it_again(serve, image, place, family, options):
    size = image.stat().st_size
    server = serve(empty(place / "there", size), family)
    copied(image, server.uri, *options)
    assert (place / "there").read_bytes() == image.read_bytes()
    copied(server.uri, place / "back", *options)
    assert (place / "back").read_bytes() == image.read_bytes()
    assert (place / "back").stat().st_blocks * 512 < size  # the hole is one still


@pytest.mark.parametrize(("here", "there"), [("unix", "unix"), ("tcp", "unix"), ("tcp", "tcp")])
def test_both_ends_are_secured(serve, image, place, here, there):
    destination = serve(empty(place / "there", image.stat().st_size), there)
    copied(serve(image, here).uri, destination.uri, "--verify")
    assert (place / "there").read_bytes() == image.read_bytes()


def test_the_digests_are_those_of_the_file(serve, image):
    secured = replicate(serve(image).uri, "null:").digests
    assert secured is not None and secured == replicate(str(image), "null:").digests


def generations():
    return pytest.mark.parametrize("peers", [INSTALLED, NEWEST], ids=lambda peers: peers.label)


@generations()
@pytest.mark.parametrize(
    ("family", "priority"), [("unix", "NORMAL"), ("tcp", "NORMAL:-VERS-TLS1.3")], ids=["unix-1.3", "tcp-1.2"]
)
def test_qemu_nbd_takes_and_gives_every_byte_by_certificates(peer, pki, image, place, family, priority, peers):
    there = empty(place / "there", image.stat().st_size)
    objects = f"tls-creds-x509,id=t,endpoint=server,dir={pki.server},verify-peer=no,priority={priority}"
    where = listening(family, ("-k", "SOCK"), ("-b", "127.0.0.1", "-p", "PORT"))
    argv = peers.command("qemu-nbd", "--object", objects, "--tls-creds", "t", "-t", "-e", 8, "-f", "raw", *where, there)
    server = peer(argv, family, peers, f"tls-certificates={pki.trusting}")
    copied(image, server.uri)
    copied(server.uri, place / "back")
    assert there.read_bytes() == (place / "back").read_bytes() == image.read_bytes()


@generations()
@FAMILIES
def test_nbdkit_takes_and_gives_every_byte_by_a_pre_shared_key(peer, pki, image, place, family, peers):
    there = empty(place / "there", image.stat().st_size)
    where = listening(family, ("-U", "SOCK"), ("-i", "127.0.0.1", "-p", "PORT"))
    argv = peers.nbdkit(*where, "--tls=require", f"--tls-psk={pki.keys}", "file", there)
    server = peer(argv, family, peers, f"tls-psk-file={pki.keys}", "alice")
    copied(image, server.uri, "--verify")
    copied(server.uri, place / "back")
    assert there.read_bytes() == (place / "back").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("secured", ["source", "destination", "both"])
def test_a_large_copy_is_held_back_by_a_slow_end_and_loses_nothing(serve, peer, pki, place, secured):
    """The slow end takes or gives 64 MiB a second: both sockets and both buffers of TLS are full on the way."""
    size = 96 * MIB + 4096
    image = filled(place / "large", size)
    there = empty(place / "there", size)
    slow = ("-U", "SOCK", "--filter=rate", "file", f"connection-rate={64 << 23}")
    key = ("--tls=require", f"--tls-psk={pki.keys}")
    if secured == "source":
        server = peer(INSTALLED.nbdkit(*key, *slow, image), "unix", INSTALLED, f"tls-psk-file={pki.keys}", "alice")
        result = replicate(server.uri, str(there))
    else:
        server = peer(INSTALLED.nbdkit(*key, *slow, there), "unix", INSTALLED, f"tls-psk-file={pki.keys}", "alice")
        result = replicate(serve(image).uri if secured == "both" else str(image), server.uri)
    assert result.digests is not None and verify(there, result.digests).matches
    assert verify(image, result.digests).matches


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("wrong", ["authority", "host", "key"])
def test_who_is_not_who_it_should_be_is_refused_in_one_line(serve, peer, pki, image, place, side, wrong):
    """T21, T22; nothing is copied."""
    if wrong == "key":
        argv = INSTALLED.nbdkit("-U", "SOCK", "--tls=require", f"--tls-psk={pki.keys}", "file", image)
        uri = peer(argv, "unix", INSTALLED, f"tls-psk-file={pki.wrong_keys}", "alice").uri
    else:
        uri = serve(image, certificates=pki.elsewhere if wrong == "host" else pki.server).uri
    if wrong == "authority":
        uri = uri.replace(str(pki.trusting), str(pki.stranger))
    before = image.read_bytes()
    other = filled(place / "other", 4 * MIB)
    done = copy(uri, place / "new") if side == "source" else copy(other, uri)
    assert done.returncode == 1
    assert done.stderr.startswith(f"omavol copy: {side} {uri}: ") and done.stderr.count("\n") == 1
    assert not (place / "new").exists()
    assert image.read_bytes() == before


class Copying(threading.Thread):
    """A copy of so few bytes a second that its server can be ended in the middle."""

    def __init__(self, source: str, destination: str, **options) -> None:
        super().__init__()
        self.job = Job(source, destination, Options(rate=4 * MIB, timeout=20.0, **options))
        self.result: Result | None = None
        self.error: CopyError | None = None
        self.start()
        deadline = time.monotonic() + LIMIT
        while not self.job.counters().done:
            assert self.is_alive() and time.monotonic() < deadline, self.error
            time.sleep(0.002)

    def run(self) -> None:
        try:
            self.result = self.job.run()
        except CopyError as error:
            self.error = error

    def end(self) -> None:
        self.job.rate = 0
        self.join(LIMIT)
        assert not self.is_alive()


def kill(server: Secured) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(LIMIT)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_server_that_dies_in_the_middle_ends_the_copy(serve, image, place, side):
    server = serve(image if side == "source" else empty(place / "there", image.stat().st_size))
    ends = (server.uri, "null:") if side == "source" else (str(image), server.uri)
    copying = Copying(*ends)
    kill(server)
    copying.end()
    assert copying.error is not None
    assert (copying.error.code, copying.error.side) == ("copy.closed", side)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_server_that_comes_back_gets_a_new_session_and_the_rest(serve, image, place, side):
    there = empty(place / "there", image.stat().st_size)
    served = image if side == "source" else there
    server = serve(served)
    ends = (server.uri, str(there)) if side == "source" else (str(image), server.uri)
    copying = Copying(*ends, retries=50, retry_delay=0.1)
    kill(server)
    assert server.unix is not None
    serve(served, unix=server.unix)
    copying.end()
    assert copying.error is None and copying.result is not None
    assert copying.result.counters.reconnects == 1
    assert there.read_bytes() == image.read_bytes()


READ, DISC = 0, 2
ESHUTDOWN = 108


class Listener(threading.Thread):
    """The server's end of a session by Python's ssl: answers by `answer`, keeps what it was asked and how it ended."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, answer: Callable[[int, int], bytes]) -> None:
        super().__init__()
        connected.settimeout(LIMIT)
        self.connected, self.context, self.answer = connected, context, answer
        self.descriptor = connected.fileno()
        self.asked: list[int] = []
        self.ended = "not"
        self.start()

    def run(self) -> None:
        secured = self.context.wrap_socket(self.connected, server_side=True, suppress_ragged_eofs=False)
        data = b""
        with secured:
            try:
                while more := secured.recv(65536):
                    data += more
                    while len(data) >= 28:
                        request = _wire.decode_request(data[:28])
                        data = data[28:]
                        assert request is not None
                        self.asked.append(request[1])
                        if request[1] != DISC:
                            secured.sendall(self.answer(request[2], request[4]))
                self.ended = "close_notify"
            except (ssl.SSLError, OSError) as error:
                self.ended = repr(error)


@pytest.fixture
def listener(pki) -> Iterator[Callable[..., tuple[Listener, End]]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server / "server-cert.pem", pki.server / "server-key.pem")
    started: list[Listener] = []

    def start(answer: Callable[[int, int], bytes]) -> tuple[Listener, End]:
        near, far = socket.socketpair()
        started.append(Listener(far, context, answer))
        trusted = TlsCredentials(serving=False, ca=pki.trusting / "ca-cert.pem", verify=True)
        channel = SecureChannel(near.detach(), trusted, "localhost")
        channel.handshake(LIMIT)
        transport = Transport(near, "there", LIMIT)
        transport.socket = SecureSocket(channel)
        return started[-1], End("nbd", "there", (channel.fileno(),), 4 * MIB, transports=(transport,))

    yield start
    for one in started:
        one.join(LIMIT)
        assert not one.is_alive()


WORK = [(0, 4 * MIB, False)]


def test_T18_a_finished_copy_says_disc_then_close_notify(listener):
    server, end = listener(lambda cookie, length: _wire.make_simple_reply(0, cookie) + bytes(length))
    loop = CopyLoop(end, End("null", "null:", size=4 * MIB), WORK)
    assert loop.run()
    end.close()
    server.join(LIMIT)
    assert server.asked == [READ] * (len(server.asked) - 1) + [DISC]
    assert server.ended == "close_notify"


def test_C6_a_server_that_shuts_down_is_left_by_disc_and_close_notify(listener):
    server, end = listener(lambda cookie, length: _wire.make_simple_reply(ESHUTDOWN, cookie))
    loop = CopyLoop(end, End("null", "null:", size=4 * MIB), WORK)
    assert not loop.run()
    end.close()
    server.join(LIMIT)
    assert loop.fault is not None and loop.fault[:3] == ("source", "answered", ESHUTDOWN)
    assert server.asked[-1] == DISC and server.asked.count(DISC) == 1
    assert server.ended == "close_notify"


def test_what_is_no_tls_any_more_ends_the_copy_as_a_breach(listener):
    """Bytes that nobody encrypted, in the middle of the session."""

    def forge(descriptor: int) -> bytes:
        os.write(descriptor, b"no record of TLS")
        return b""

    server, end = listener(lambda cookie, length: forge(server.descriptor))
    loop = CopyLoop(end, End("null", "null:", size=4 * MIB), WORK)
    assert not loop.run()
    assert loop.fault is not None and loop.fault[:2] == ("source", "breach")
    assert loop.fault[4]
    end.close()
