"""`omavol serve` with TLS, against the clients of qemu and libnbd, old and newest, over unix and TCP."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from benchmarks.servers import OMAVOL

from peers import INSTALLED, NEWEST, Peers

MIB = 1 << 20
LIMIT = 60


@dataclass
class Server:
    """A running `omavol serve`: its sockets, and what it has said on standard error."""

    process: subprocess.Popen[bytes]
    unix: Path
    port: int
    log: Path

    def uri(self, family: str, user: str = "", **parameters: object) -> str:
        at = f"{user}@" if user else ""
        query = [f"tls-{key.replace('_', '-')}={value}" for key, value in parameters.items()]
        if family == "unix":
            return f"nbds+unix://{at}/?{'&'.join([f'socket={self.unix}', *query])}"
        return f"nbds://{at}localhost:{self.port}/?{'&'.join(query)}"

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def image(place: Path) -> Path:
    """5 MiB and some bytes, of which a part is a hole."""
    path = place / "image"
    path.write_bytes(os.urandom(5 * MIB + 512) + bytes(2 * MIB))
    return path


@pytest.fixture
def serve(place: Path, image: Path) -> Iterator[Callable[..., Server]]:
    """Start it with options of TLS; both a unix socket and a port of 127.0.0.1 are served."""
    started: list[Server] = []

    def start(*options: object) -> Server:
        unix, log = place / f"s{len(started)}", place / f"log{len(started)}"
        argv = [OMAVOL, "serve", "--unix", unix, "--tcp", "127.0.0.1:0", *map(str, options), image]
        with log.open("wb") as errors:
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors)
        server = Server(process, unix, 0, log)
        started.append(server)
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(2)]
        assert all(lines), server.said()
        server.port = urlsplit(lines[1]).port or 0
        return server

    yield start
    for server in started:
        server.process.send_signal(signal.SIGTERM)
        try:
            assert server.process.wait(LIMIT) == 0
        finally:
            server.process.kill()
            assert server.process.stdout is not None
            server.process.stdout.close()


@pytest.fixture
def secured(serve, pki) -> Server:
    return serve("--tls", "require", "--tls-certificates", pki.server)


def run(argv: list[str], peers: Peers = INSTALLED) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, env=peers.environment())


def generations():
    return pytest.mark.parametrize("peers", [INSTALLED, NEWEST], ids=lambda peers: peers.label)


@generations()
@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_nbdcopy_reads_and_writes_every_byte(secured, pki, image, place, family, peers):
    uri = secured.uri(family, certificates=pki.trusting)
    done = run(peers.command("nbdcopy", uri, place / "out"), peers)
    assert done.returncode == 0, done.stderr
    assert (place / "out").read_bytes() == image.read_bytes()
    other = os.urandom(image.stat().st_size)
    (place / "in").write_bytes(other)
    done = run(peers.command("nbdcopy", "--flush", place / "in", uri), peers)
    assert done.returncode == 0, done.stderr
    assert image.read_bytes() == other


def qemu_objects(pki, **more: str) -> str:
    extra = "".join(f",{key.replace('_', '-')}={value}" for key, value in more.items())
    return f"tls-creds-x509,id=t,endpoint=client,dir={pki.client}{extra}"


@generations()
@pytest.mark.parametrize("priority", ["NORMAL", "NORMAL:-VERS-TLS1.3"], ids=["1.3", "1.2"])
def test_qemu_img_compares_equal_with_a_client_certificate(serve, pki, image, peers, priority):
    server = serve("--tls", "require", "--tls-certificates", pki.server, "--tls-verify-client")
    done = run(
        peers.command(
            "qemu-img", "compare", "--object", qemu_objects(pki, priority=priority), "--image-opts",
            f"driver=raw,file.driver=nbd,file.host=localhost,file.port={server.port},file.tls-creds=t",
            f"driver=raw,file.driver=file,file.filename={image}",
        ),
        peers,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout + server.said()


@generations()
def test_qemu_io_writes_and_reads_with_a_pre_shared_key(serve, pki, place, image, peers):
    keys = place / "keys"
    keys.mkdir()
    shutil.copy(pki.keys, keys / "keys.psk")
    server = serve("--tls", "require", "--tls-psk", pki.keys)
    done = run(
        peers.command(
            "qemu-io", "--object", f"tls-creds-psk,id=t,endpoint=client,dir={keys},username=alice", "--image-opts",
            f"driver=nbd,server.type=unix,server.path={server.unix},tls-creds=t",
            "-c", "write -P 7 1M 64k", "-c", "flush", "-c", "read -P 7 1M 64k",
        ),
        peers,
    )  # fmt: skip
    assert done.returncode == 0 and "wrote 65536" in done.stdout, done.stderr + done.stdout + server.said()
    assert image.read_bytes()[MIB : MIB + 65536] == b"\x07" * 65536


@generations()
@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_libnbd_speaks_a_pre_shared_key(serve, pki, family, peers, image):
    server = serve("--tls", "require", "--tls-psk", pki.keys)
    done = run(peers.command("nbdinfo", "--size", server.uri(family, user="alice", psk_file=pki.keys)), peers)
    assert done.stdout.strip() == str(image.stat().st_size), done.stderr + server.said()


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_a_wrong_key_and_an_unknown_user_are_refused_counted_and_said(serve, pki, user):
    """T14, T15: that session alone."""
    server = serve("--tls", "require", "--tls-psk", pki.keys)
    done = run(["nbdinfo", server.uri("unix", user=user, psk_file=pki.wrong_keys)])
    assert done.returncode != 0
    assert re.search(r"omavol serve: TLS with a local client failed: .+\n", server.said())
    assert run(["nbdinfo", server.uri("unix", user="alice", psk_file=pki.keys)]).returncode == 0


def test_a_certificate_and_a_key_are_both_taken_where_both_are_given(serve, pki):
    server = serve("--tls", "require", "--tls-certificates", pki.server, "--tls-psk", pki.keys)
    assert run(["nbdinfo", server.uri("tcp", user="alice", psk_file=pki.keys)]).returncode == 0
    assert run(["nbdinfo", server.uri("tcp", certificates=pki.trusting)]).returncode == 0


@pytest.mark.parametrize("client", ["trusting", "stranger"])
def test_a_client_without_a_good_certificate_is_refused_where_one_is_demanded(serve, pki, client, place):
    server = serve("--tls", "require", "--tls-certificates", pki.server, "--tls-verify-client")
    mixed = shutil.copytree(getattr(pki, client), place / "mixed")
    shutil.copy(pki.trusting / "ca-cert.pem", mixed / "ca-cert.pem")
    assert run(["nbdinfo", server.uri("tcp", certificates=mixed)]).returncode != 0
    assert "TLS with 127.0.0.1 failed: " in server.said()
    assert run(["nbdinfo", server.uri("tcp", certificates=pki.client)]).returncode == 0


@pytest.mark.parametrize("mode", ["on", "require"])
def test_plain_clients_are_served_where_tls_is_on_and_told_where_it_is_required(serve, pki, mode):
    """T4, T6."""
    server = serve("--tls", mode, "--tls-certificates", pki.server)
    done = run(["nbdinfo", f"nbd+unix:///?socket={server.unix}"])
    assert (done.returncode == 0) == (mode == "on"), done.stderr
    done = run([OMAVOL, "info", f"nbd+unix:///?socket={server.unix}"])
    assert (done.returncode == 0) == (mode == "on")
    assert mode == "on" or ("demands TLS" in done.stderr and "nbds+unix://" in done.stderr)


GREETING = b"NBDMAGICIHAVEOPT"
STARTTLS = b"IHAVEOPT" + (5).to_bytes(4) + bytes(4)


def plain(server: Server) -> socket.socket:
    """A connection that has said its flags."""
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(LIMIT)
    connected.connect(str(server.unix))
    assert connected.recv(18, socket.MSG_WAITALL).startswith(GREETING)
    connected.sendall((3).to_bytes(4))
    return connected


def rest_of(connected: socket.socket) -> bytes:
    heard = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connected.recv(65536):
            heard += data
    return heard


def test_bytes_behind_starttls_end_the_session_without_an_ack(secured):
    """T12, CVE-2021-3716: nothing said in the clear gets into the session."""
    with plain(secured) as connected:
        connected.sendall(STARTTLS + b"IHAVEOPT" + (3).to_bytes(4) + bytes(4))
        assert rest_of(connected) == b""


@pytest.mark.parametrize(
    "hostile",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), os.urandom(300)],
    ids=["leaves", "http", "half", "garbage"],
)
def test_a_hostile_client_in_the_tls_handshake_harms_nobody_else(secured, pki, hostile):
    """T14, T15. Each holds its half of a handshake while another client is served."""
    held = []
    for _ in range(20):
        connected = plain(secured)
        connected.sendall(STARTTLS)
        assert connected.recv(20, socket.MSG_WAITALL)[12:16] == (1).to_bytes(4)
        connected.sendall(hostile)
        held.append(connected)
    assert run(["nbdinfo", secured.uri("unix", certificates=pki.trusting)]).returncode == 0
    for connected in held:
        connected.shutdown(socket.SHUT_WR)
        rest_of(connected)
        connected.close()
    assert secured.said().count("omavol serve: TLS with a local client failed: ") == 20


def test_new_certificates_are_what_the_next_client_gets(serve, pki, place):
    """Reload while running: a bad file leaves the old ones and is said once, a good one is taken."""
    live = shutil.copytree(pki.elsewhere, place / "live")
    server = serve("--tls", "require", "--tls-certificates", live)
    uri = server.uri("tcp", certificates=pki.trusting)
    assert "hostname mismatch" in run([OMAVOL, "info", uri]).stderr
    (live / "server-cert.pem").write_text("half a file")
    assert "hostname mismatch" in run([OMAVOL, "info", uri]).stderr
    assert "hostname mismatch" in run([OMAVOL, "info", uri]).stderr
    assert server.said().count("the older ones stay") == 1
    for name in ("server-cert.pem", "server-key.pem"):
        shutil.copy(pki.server / name, live / name)
    assert run([OMAVOL, "info", uri]).returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls", "require"], "--tls-certificates DIR or --tls-psk FILE"),
        (["--tls-certificates", "SERVER"], "TLS is off"),
        (["--tls", "on", "--tls-certificates", "/nowhere"], "cannot read /nowhere/server-cert.pem"),
        (["--tls", "on", "--tls-certificates", "MIXED"], "this key does not belong to the certificate"),
        (["--tls", "on", "--tls-certificates", "EXPIRED"], "server-cert.pem has expired"),
        (["--tls", "on", "--tls-psk", "SERVER/server-cert.pem"], "no line username:hexkey"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(pki, place, image, options, words):
    mixed = shutil.copytree(pki.server, place / "mixed")
    shutil.copy(pki.elsewhere / "server-key.pem", mixed / "server-key.pem")
    named = {"SERVER": pki.server, "MIXED": mixed, "EXPIRED": pki.expired}
    arguments = [re.sub("[A-Z]{2,}", lambda found: str(named[found[0]]), option) for option in options]
    done = run([OMAVOL, "serve", "--unix", str(place / "s"), *arguments, str(image)])
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_sigterm_ends_it_while_clients_are_inside_tls(serve, pki, image):
    """X55, X56: within its bound; the fixture asserts the exit."""
    server = serve("--tls", "require", "--tls-certificates", pki.server)
    script = (
        "import nbd, sys\nh = nbd.NBD()\nh.set_tls(nbd.TLS_REQUIRE)\n"
        f"h.set_tls_certificates('{pki.trusting}')\nh.connect_tcp('localhost', '{server.port}')\n"
        "assert len(h.pread(1048576, 0)) == 1048576\nprint('in', flush=True)\nsys.stdin.read()\n"
    )
    client = subprocess.Popen(
        ["/usr/bin/python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with client:
        assert client.stdout is not None and client.stdout.readline() == b"in\n", client.communicate()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        client.kill()
