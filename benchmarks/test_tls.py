"""Sequential reads inside TLS. The client is our load generator for all: one thread, 4 connections."""

from contextlib import ExitStack

import pytest

from benchmarks.aims import Faster, Thrift
from benchmarks.loads import load_lane
from benchmarks.servers import generations, nbdkit, omavol_serve, qemu_nbd, secured

PIECE = 256 << 10


@pytest.fixture
def keys(sockets):
    """A pre-shared key, in the form of GnuTLS's psktool that all of them read."""
    folder = sockets / "psk"
    folder.mkdir(exist_ok=True)
    (folder / "keys.psk").write_text("bench:" + "5a" * 32 + "\n")
    return folder


def test_sequential_read_inside_tls(race, image, keys, sockets):
    """Aim 1.5x. Bound by the cipher: the client decrypts in one thread what the server encrypts.

    Alike: a unix socket, TLS 1.3 by a pre-shared key, AES-256-GCM, structured replies, reads of 256 KiB, 8 in flight on
    each of 4 connections, a warm page cache. The peers use GnuTLS, a record of 16 KiB a system call; ours OpenSSL, many
    records a call.
    """
    psk = keys / "keys.psk"
    with ExitStack() as stack:
        servers = [stack.enter_context(omavol_serve(image, sockets, "--tls", "require", "--tls-psk", str(psk)))]
        for peers in generations():
            servers.append(
                stack.enter_context(
                    nbdkit(sockets, "--tls=require", f"--tls-psk={psk}", "file", str(image), peers=peers)
                )
            )
            credentials = f"tls-creds-psk,id=tls0,endpoint=server,dir={keys}"
            options = ("--object", credentials, "--tls-creds", "tls0")
            servers.append(stack.enter_context(qemu_nbd(image, sockets, *options, peers=peers)))
        lanes = [
            load_lane(secured(server, psk, "bench"), "read", unit=1 << 30, size=PIECE, depth=8, connections=4)
            for server in servers
        ]
        race(
            "sequential read inside TLS",
            ours=lanes[0],
            peers=lanes[1:],
            aims=[Faster(1.5), Thrift(1, "server", 1 << 30)],
            show=lambda cost: f"{1 / cost:.2f} GiB/s",
        )
