"""Servers that change their mind around TLS: each of our clients ends in its time, with the cause, and closes (C25)."""

from __future__ import annotations

import os
import re
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from nbd_said import ACK, GREETING, LIST, STARTTLS, Session, answer, chunk, option

from omavol import nbd
from omavol.copy.engine import replicate
from omavol.copy.errors import CopyError
from omavol.nbd.wire import Command
from raw_client import until

MIB = 1 << 20
DISK = {b"web01": (MIB, 0xDED & ~(1 << 8), 1, 4096, 1 << 25, b"")}  # of one connection
PATIENCE = 0.5  # seconds that a client waits
ENDS = 6.0  # seconds in which it has to have ended, on a busy machine
HALF = b"\x17\x03\x03\x40\x00" + bytes(100)  # of a record
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # a fatal one: handshake_failure


def granted(peer) -> None:
    """As far as STARTTLS's ACK."""
    peer.say(GREETING)
    peer.hear(4)
    assert peer.hear_option() == (STARTTLS, b"")
    peer.say(answer(STARTTLS, ACK))


def server_hello(peer, context: ssl.SSLContext) -> bytes:
    """What a good server answers to the ClientHello that has come."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_side=True)
    while not outgoing.pending:
        incoming.write(peer.socket.recv(65536))
        with suppress(ssl.SSLWantReadError):
            session.do_handshake()
    return outgoing.read()


def inside(peer, context: ssl.SSLContext) -> None:
    """A good handshake of TLS, and of NBD in it."""
    peer.socket = context.wrap_socket(peer.socket, server_side=True)
    session = Session(DISK, compact=True)
    while not session.transmits:
        peer.say(session.raw(peer.socket.recv(65536)))


def forge(peer, data: bytes) -> None:
    """Bytes that nobody encrypted."""
    os.write(peer.socket.fileno(), data)


def silent(peer) -> None:
    """Say no more; the client has to leave."""
    with suppress(OSError):
        while peer.socket.recv(65536):
            pass


# What comes instead of TLS's handshake, or in it; then silence, or the end.
SHAKING: dict[str, Callable[..., object]] = {
    "nothing": lambda peer, _: silent(peer),
    "the end": lambda peer, _: None,
    "an option's answer": lambda peer, _: (peer.say(answer(LIST, ACK) * 100), silent(peer)),
    "an option": lambda peer, _: (peer.say(option(LIST)), silent(peer)),
    "the greeting again": lambda peer, _: (peer.say(GREETING), silent(peer)),
    "an alert": lambda peer, _: (peer.say(ALERT), silent(peer)),
    "the client's own words": lambda peer, _: (peer.say(peer.socket.recv(65536)), silent(peer)),
    "half a ServerHello": lambda peer, context: (peer.say(server_hello(peer, context)[:60]), silent(peer)),
    "half a ServerHello and the end": lambda peer, context: peer.say(server_hello(peer, context)[:60]),
    "a ServerHello and an answer": lambda peer, context: (
        peer.say(server_hello(peer, context)[:127], answer(LIST, ACK) * 100),
        silent(peer),
    ),
    "an alert behind the ServerHello": lambda peer, context: (
        peer.say(server_hello(peer, context)[:127], ALERT),
        silent(peer),
    ),
}


# What comes instead of the answer to a READ, whose cookie is `cookie`.
ANSWERS: dict[str, Callable[..., object]] = {
    "nothing": lambda peer, cookie: silent(peer),
    "the end": lambda peer, cookie: peer.socket.close(),
    "close_notify": lambda peer, cookie: peer.socket.unwrap(),
    "an answer in the clear": lambda peer, cookie: (forge(peer, chunk(0, b"", cookie)), silent(peer)),
    "an alert": lambda peer, cookie: (forge(peer, ALERT), silent(peer)),
    "a ClientHello": lambda peer, cookie: (forge(peer, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"), silent(peer)),
    "half a record": lambda peer, cookie: (forge(peer, HALF), silent(peer)),
    "half a record and the end": lambda peer, cookie: forge(peer, HALF),
    "half an answer": lambda peer, cookie: (peer.say(chunk(1, bytes(4104), cookie)[:99]), silent(peer)),
    "half an answer and close_notify": lambda peer, cookie: (
        peer.say(chunk(1, bytes(4104), cookie)[:99]),
        peer.socket.unwrap(),
    ),
}


def first_read(peer) -> int:
    """Its cookie; what is asked before it is answered: all is data."""
    while (request := peer.request()).type != Command.READ:
        assert request.type == Command.BLOCK_STATUS
        peer.say(chunk(5, struct.pack(">III", 1, request.length, 0), request.cookie))
    return request.cookie


def blocking(uri: str) -> None:
    with nbd.connect(uri, timeout=PATIENCE) as client:
        client.read(0, 4096)


def awaited(uri: str) -> None:
    async def use() -> None:
        async with await nbd.aio.connect(uri, timeout=PATIENCE) as client:
            await client.read(0, 4096)

    anyio.run(use)


def copied(uri: str) -> None:
    replicate(uri, "null:", timeout=PATIENCE)


CLIENTS = {"blocking": (blocking, nbd.NbdError), "asyncio": (awaited, nbd.NbdError), "copy": (copied, CopyError)}


def open_descriptors() -> int:
    return sum(1 for _ in os.scandir("/proc/self/fd"))


@pytest.fixture
def context(pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server / "server-cert.pem", pki.server / "server-key.pem")
    return context


@pytest.fixture
def ended(scripted, pki) -> Callable[..., str]:
    """Meet a server that runs the script: our client ends in its time, in one line, and nothing of it stays open."""

    def meet(script: Callable[..., object], client: str) -> str:
        def run(peer) -> None:
            with suppress(OSError):
                try:
                    script(peer)
                finally:
                    peer.socket.close()

        uri = scripted(run)
        act, error = CLIENTS[client]
        descriptors = open_descriptors()
        begun = time.monotonic()
        with pytest.raises(error) as caught:
            act(f"nbds{uri.removeprefix('nbd')}&tls-certificates={pki.trusting}")
        assert time.monotonic() - begun < ENDS
        assert "\n" not in str(caught.value)
        until(lambda: open_descriptors() == descriptors)
        return str(caught.value)

    return meet


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("said", SHAKING)
def test_C25_T21_a_server_that_gives_up_the_handshake_of_tls_is_left(ended, context, said, client):
    def script(peer) -> None:
        granted(peer)
        SHAKING[said](peer, context)

    assert re.search("TLS|more than it was asked for", ended(script, client))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("said", ANSWERS)
def test_C25_T11_a_server_that_gives_up_tls_in_the_middle_is_left(ended, context, said, client):
    """Nothing that nobody encrypted is believed: the READ fails."""

    def script(peer) -> None:
        granted(peer)
        inside(peer, context)
        ANSWERS[said](peer, first_read(peer))

    ended(script, client)
