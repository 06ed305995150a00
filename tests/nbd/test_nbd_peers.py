"""Our client against the servers of others, and the handshakes of their clients against our machine."""

import json
import os
import select
import signal
import socket
import subprocess
import time

import pytest
from nbd_said import EXPORTS

from omavol.nbd.client import connect, negotiate
from omavol.nbd.errors import BadUri, Disconnected, NbdError, NotFixed, RequestFailed, UnknownExport
from omavol.nbd.wire import Error

MIB = 1 << 20
MAP = [(0, MIB, 3), (MIB, MIB, 0), (2 * MIB, 6 * MIB, 3)]


def exercise(uri: str) -> None:
    """Everything a writable 8 MiB disk with data in its second MiB can do."""
    with connect(uri, timeout=10) as disk:
        assert disk.size == 8 * MIB
        assert disk.read(MIB - 512, 1024) == bytes(512) + b"\xa5" * 512
        if disk.export.contexts:
            assert list(disk.extents("base:allocation")) == MAP
        disk.write(4096, b"w" * 3000, fua=True)
        disk.zero(MIB, 65536)
        disk.trim(2 * MIB, 65536)
        disk.flush()
        assert disk.read(4096, 3000) == b"w" * 3000
        assert disk.read(MIB, 65537) == bytes(65536) + b"\xa5"
    with connect(uri, timeout=10) as disk:
        assert disk.read(4096 + 2999, 2) == b"w\0"


def test_nbdkit(nbdkit, image):
    exercise(nbdkit("file", str(image)))


def test_nbdkit_by_tcp(nbdkit_by_tcp):
    exercise(nbdkit_by_tcp)
    with connect(nbdkit_by_tcp) as disk, socket.socket(fileno=os.dup(disk.fileno())) as connected:
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # X58


def test_nbdkit_without_structured_replies(nbdkit, image):
    exercise(nbdkit("--no-sr", "file", str(image)))


def test_nbdkit_that_is_not_fixed(nbdkit, image):
    uri = nbdkit("--mask-handshake=0", "file", str(image))
    exercise(uri)
    with negotiate(uri, timeout=10) as session, pytest.raises(NotFixed):
        session.exports()


def test_nbdkit_oldstyle_is_refused_in_words(nbdkit, image):
    with pytest.raises(NbdError, match="oldstyle"):
        connect(nbdkit("-o", "file", str(image)), timeout=10)


def test_nbdkit_with_strict_block_sizes(nbdkit):
    sizes = [f"blocksize-{name}" for name in ("minimum=512", "preferred=4096", "maximum=65536", "error-policy=error")]
    with connect(nbdkit("--filter=blocksize-policy", "memory", "4M", *sizes), timeout=10) as disk:
        assert (disk.export.minimum, disk.export.preferred, disk.export.maximum) == (512, 4096, 65536)
        disk.write(512, b"x" * 300_032)
        assert disk.read(0, 301_056) == bytes(512) + b"x" * 300_032 + bytes(512)


def test_nbdkit_that_fails_says_what_and_where(nbdkit):
    uri = nbdkit("--filter=error", "null", "1M", "error-pread=EIO", "error-pread-rate=100%")
    with connect(uri, timeout=10) as disk:
        for _ in range(2):  # the connection stays in step
            with pytest.raises(RequestFailed, match="READ of 512 bytes at 4096 failed: EIO") as failed:
                disk.read(4096, 512)
            assert failed.value.error is Error.EIO


def test_qemu_nbd_raw(qemu_nbd, image):
    exercise(qemu_nbd("-f", "raw", "--discard=unmap", str(image), export="web01"))


def test_qemu_nbd_with_a_bitmap(qemu_nbd, folder):
    disk = str(folder / "disk.qcow2")
    for command in (
        ["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"],
        ["qemu-img", "bitmap", "--add", disk, "today"],
        ["qemu-io", "-f", "qcow2", "-c", "write 1M 64k", disk],
    ):
        subprocess.run(command, check=True, capture_output=True)
    uri = qemu_nbd("-r", "-f", "qcow2", "-B", "today", "-D", "a disk", disk, export="web01")
    bitmap = "qemu:dirty-bitmap:today"
    with negotiate(uri, timeout=10) as session:
        assert [listed.name for listed in session.exports()] == ["web01"]
        assert session.contexts("web01") == ("base:allocation", bitmap)
        with pytest.raises(UnknownExport):
            session.info("nope")
    with connect(uri, timeout=10, contexts=("base:allocation", bitmap)) as connection:
        assert connection.export.read_only
        assert connection.export.description == "a disk"
        assert set(connection.export.contexts) == {"base:allocation", bitmap}
        assert list(connection.extents(bitmap)) == [(0, MIB, 0), (MIB, 65536, 1), (MIB + 65536, 7 * MIB - 65536, 0)]
        assert set(connection.block_status(0, 4096, one=True)) == {"base:allocation", bitmap}


@pytest.fixture
def nbd_server(folder, image):
    """nbd-server with one export, on its own socket; gives a URI."""
    settings = folder / "settings"
    with socket.create_server(("127.0.0.1", 0)) as free:  # it wants a port beside its socket; 0 means stdin to it
        port = free.getsockname()[1]
    settings.write_text(
        f"[generic]\nunixsock = {folder}/n\nport = {port}\nlistenaddr = 127.0.0.1\nallowlist = true\n"
        f"[web01]\nexportname = {image}\nflush = true\nfua = true\ntrim = true\n"
    )
    subprocess.run(["nbd-server", "-C", str(settings), "-p", str(folder / "pid")], check=True, timeout=10)
    uri = f"nbd+unix:///web01?socket={folder}/n"
    deadline = time.monotonic() + 10
    while True:
        try:
            negotiate(uri, timeout=1).close()
            break
        except NbdError:
            assert time.monotonic() < deadline, "nbd-server does not listen"
            time.sleep(0.01)  # it cannot be told to take a socket, nor say when it listens
    process = os.pidfd_open(int((folder / "pid").read_text()))
    yield uri
    signal.pidfd_send_signal(process, signal.SIGTERM)
    ended = select.poll()
    ended.register(process, select.POLLIN)
    assert ended.poll(10_000)
    os.close(process)


def test_nbd_server(nbd_server):
    with connect(nbd_server, timeout=10) as disk:
        assert disk.read(MIB - 512, 1024) == bytes(512) + b"\xa5" * 512
        disk.write(4096, b"w" * 3000, fua=True)
        disk.flush()
        assert disk.read(4096, 3000) == b"w" * 3000
    with negotiate(nbd_server, timeout=10) as session:
        assert [listed.name for listed in session.exports()] == ["web01"]
    with pytest.raises((UnknownExport, Disconnected)):
        connect(nbd_server.replace("web01", "nope"), timeout=10)


@pytest.mark.parametrize("listed", [True, False])
def test_nbdinfo_and_qemu_nbd_understand_our_handshake(scripted, listed):
    uri = scripted(*[lambda peer: peer.negotiate(EXPORTS, listed=listed)] * 6)
    told = subprocess.run(["nbdinfo", "--json", "--no-content", uri], capture_output=True, check=True, timeout=20)
    export = json.loads(told.stdout)["exports"][0]
    assert (export["export-name"], export["description"], export["export-size"]) == (
        "web01",
        "the system disk",
        1 << 30,
    )
    assert export["contexts"] == ["base:allocation"]
    assert (export["block_size_minimum"], export["block_size_maximum"]) == (512, 1 << 25)
    assert (export["can_df"], export["can_fast_zero"], export["is_read_only"]) == (True, True, False)
    path = uri.partition("socket=")[2]
    names = subprocess.run(["qemu-nbd", "--list", "-k", path], capture_output=True, text=True, timeout=20)
    assert ("export: 'web01'" in names.stdout) is listed


@pytest.mark.parametrize("uri", ["nbd2://localhost", "localhost", ""])
def test_a_client_takes_no_other_uri(uri):
    with pytest.raises(BadUri):
        connect(uri)
