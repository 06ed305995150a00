"""Sessions of real clients, recorded and garbled by a seed: the server ends each, and serves everybody else."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

import pytest
from recording import mutated, recorded

from hostile_target import SIZE, Target

ROUNDS = 300  # garbled sessions of each client and flavour
URI = "nbd+unix:///{export}?socket={{proxy}}"
QEMU_IO = (
    "write -P 7 0 512",
    "write -f -P 8 4k 1k",
    "aio_write -P 9 8k 512",
    "aio_read 0 1M",
    "write -z 64k 64k",
    "write -z -u 128k 64k",
    "discard 256k 64k",
    "aio_flush",
    "map",
    "read 0 4k",
)
READS = tuple(text for text in QEMU_IO if "read" in text or "map" in text or "flush" in text)


def clients(target: Target) -> dict[str, list[str]]:
    """The command of each client that can work on this export."""
    uri, disk = URI.format(export=target.export), ["-f", "raw"]
    qemu = uri
    if target.pki:
        uri = f"nbds{uri.removeprefix('nbd')}&tls-certificates={target.pki.trusting}"
        disk = ["--object", f"tls-creds-x509,id=t,endpoint=client,dir={target.pki.trusting}", "--image-opts"]
        qemu = "driver=nbd,server.type=unix,server.path={proxy},tls-creds=t,tls-hostname=localhost"
    script = [part for text in (QEMU_IO if target.writable else READS) for part in ("-c", text)]
    mode = [] if target.writable else ["-r"]
    return {
        "nbdinfo": ["nbdinfo", "--map", uri],
        "nbdcopy": ["nbdcopy", "--connections=1", uri, "null:"],
        "qemu-io": ["qemu-io", *mode, *disk, *script, qemu],
        "qemu-img": ["qemu-img", "map", *disk, "--output=json", qemu],
    }


def replay(target: Target, session: bytes, luck: random.Random) -> None:
    """Say it all, in pieces, reading or not; then the server has to close within its time."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(15)
        client.connect(str(target.socket))
        patient = luck.random() < 0.7
        with suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            at = 0
            while at < len(session):
                piece = luck.choice((1, 28, 1000, len(session)))
                client.sendall(session[at : at + piece])
                at += piece
            if patient:
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 20):
                    pass


@pytest.mark.parametrize("name", ["nbdinfo", "nbdcopy", "qemu-io", "qemu-img"])
def test_a_garbled_session_harms_nobody(target, unharmed, tmp_path, name):
    sessions = recorded(clients(target)[name], target.socket, target.socket.parent)
    for number in range(ROUNDS):
        luck = random.Random(f"{target.flavour} {name} {number}")
        replay(target, mutated(luck.choice(sessions), luck), luck)
    assert len(target.content()) == SIZE
