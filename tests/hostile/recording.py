"""What real clients say to a server, recorded on the way, and the same with bytes flipped, cut and doubled."""

from __future__ import annotations

import random
import select
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["mutated", "recorded"]

_TELLING = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 4096, 1 << 25)
_LONGEST = 1 << 18  # bytes of one session


def recorded(command: Sequence[str], server: Path, place: Path) -> list[bytes]:
    """Run a client whose arguments name `{proxy}` (a socket path); what it said, a connection each."""
    path = place / "proxy"
    path.unlink(missing_ok=True)
    said: list[bytearray] = []
    over, end = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, over, end:
        listener.bind(str(path))
        listener.listen()
        carrier = threading.Thread(target=_carry, args=(listener, over, server, said))
        carrier.start()
        try:
            subprocess.run([part.format(proxy=path) for part in command], check=True, capture_output=True, timeout=60)
        finally:
            end.close()
            carrier.join(20)
    assert said
    return [bytes(each[:_LONGEST]) for each in said]


def _carry(listener: socket.socket, over: socket.socket, server: Path, said: list[bytearray]) -> None:
    """Carry every connection's bytes both ways until `over` ends."""
    peers: dict[socket.socket, socket.socket] = {}
    heard: dict[socket.socket, bytearray] = {}
    while True:
        ready, _, _ = select.select([listener, over, *peers], [], [])
        if over in ready:
            break
        if listener in ready:
            client, far = listener.accept()[0], socket.socket(socket.AF_UNIX)
            far.connect(str(server))
            peers[client], peers[far] = far, client
            heard[client] = bytearray()
            said.append(heard[client])
        for each in ready:
            if each in peers:
                _pass_on(each, peers, heard)
    for each in peers:
        each.close()


def _pass_on(each: socket.socket, peers: dict[socket.socket, socket.socket], heard: dict[socket.socket, bytearray]):
    peer = peers[each]
    try:
        data = each.recv(1 << 20)
        if data:
            peer.sendall(data)
            if each in heard:
                heard[each] += data
            return
    except OSError:
        pass
    for gone in (each, peer):
        del peers[gone]
        gone.close()


def mutated(session: bytes, luck: random.Random) -> bytes:
    """The session with one to four faults in it."""
    data = bytearray(session)
    for _ in range(luck.randint(1, 4)):
        at = luck.randrange(len(data)) if data else 0
        some = luck.choice((1, 2, 4, 8, 16, 28, 200))
        kind = luck.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + some]
        elif kind == 2:
            data[at:at] = data[at : at + some]
        elif kind == 3:
            data[at:at] = luck.randbytes(some)
        elif kind == 4 and len(data) - at >= 4:
            data[at : at + 4] = luck.choice(_TELLING).to_bytes(4)
        elif kind == 5:
            other = luck.randrange(len(data)) if data else 0
            data[at : at + some] = data[other : other + some]
        elif data:
            data[at % len(data)] ^= 1 << luck.randrange(8)
    return bytes(data)
