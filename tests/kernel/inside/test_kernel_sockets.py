"""What only some kernels have: vsock, and TLS in the kernel (tls.rst); both between processes of the guest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL
from guest_world import LIMIT, MIB, run

from omavol import nbd
from omavol._channel import SecureChannel, TlsCredentials

KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"


@pytest.fixture
def vsock(tmp_path):
    """The URI of a disk of 4 MiB at a vsock, and the file."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(4 * MIB))
    with subprocess.Popen([OMAVOL, "serve", "--vsock", "10809", disk], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), disk
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def test_a_disk_is_served_and_read_over_vsock(vsock):
    uri, disk = vsock
    assert uri == "nbd+vsock://1/" or uri.startswith("nbd+vsock://1:"), uri
    with nbd.connect(uri, timeout=LIMIT) as client:
        assert client.read(0, 4 * MIB) == disk.read_bytes()
        client.write(MIB, b"w" * 70_000, fua=True)
        assert disk.read_bytes()[MIB : MIB + 70_000] == b"w" * 70_000
    assert int(run(OMAVOL, "info", "--size", uri)) == 4 * MIB


def test_a_disk_is_copied_over_vsock(vsock, tmp_path):
    uri, disk = vsock
    run(OMAVOL, "copy", uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == disk.read_bytes()


def tls_stat(name: str) -> int:
    lines = Path("/proc/net/tls_stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.split()[0] == name)


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["1.3", "1.2"])
def test_the_kernel_encrypts_what_a_server_sends_by_tcp(tmp_path, newest):
    """Its counters say so, and the bytes are the same at the other end."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{KEY}\n")
    keys.chmod(0o600)
    sessions = tls_stat("TlsTxSw")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    server = SecureChannel(far.detach(), TlsCredentials(serving=True, psk=keys))
    client = SecureChannel(near.detach(), TlsCredentials(serving=False, psk=keys, user="alice", newest=newest))
    data = os.urandom(3 * MIB)

    def serve() -> None:
        server.handshake(LIMIT)
        view = memoryview(data)
        while view:
            view = view[server.send(view, LIMIT) :]

    thread = threading.Thread(target=serve)
    thread.start()
    client.handshake(LIMIT)
    received = bytearray(len(data))
    view = memoryview(received)
    while view:
        view = view[client.receive_into(view, LIMIT) :]
    thread.join(LIMIT)
    assert bytes(received) == data
    assert server.in_kernel
    assert tls_stat("TlsTxSw") > sessions
    assert tls_stat("TlsDecryptError") == 0
    client.close()
    server.close()
