"""Clients that change their mind around TLS: nobody else is harmed, each ends in its time, nothing stays (T12, T14)."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from hostile_target import FLAGS, MIB, SIZE, Target, option, started
from omavol.nbd.wire import Command, Option
from raw_client import Raw, trusting

HANDSHAKE = 1.5  # seconds that the server gives
ENDS = 10.0  # seconds in which a connection has to be gone, on a busy machine
PLAIN_READ = struct.pack(">IHHQQI", 0x25609513, 0, Command.READ, 1, 0, 4096)
PLAIN_OPTION = option(Option.LIST, 0)
FATAL_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # handshake_failure
OLD_HELLO = b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(37)  # SSL 2's form of a ClientHello


@pytest.fixture(scope="module")
def target(pki) -> Iterator[Target]:
    """A server that demands TLS, whose limit for a handshake can be waited for."""
    with started("tls", "--handshake-timeout", str(HANDSHAKE), pki=pki) as served:
        with served.client() as first:
            assert first.read(0, SIZE) == served.content()
        served.level = served.private()
        yield served


def client_hello(target: Target) -> bytes:
    """What a good client says first inside TLS."""
    assert target.tls is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = target.tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def acknowledged(target: Target, stack: ExitStack) -> Raw:
    """A connection whose STARTTLS is granted."""
    client = stack.enter_context(target.client(enter=False))
    client.start_tls()
    return client


def entered(target: Target, stack: ExitStack) -> Raw:
    return stack.enter_context(target.client())


def forge(client: Raw, data: bytes) -> None:
    """Put bytes on the wire that TLS has not seen."""
    with suppress(OSError):
        os.write(client.socket.fileno(), data)


def heard_until_the_end(client: Raw) -> bytes:
    """The bytes of the wire until the server closes; a socket.timeout is a failure of the test."""
    heard = b""
    with socket.socket(fileno=os.dup(client.socket.fileno())) as wire, suppress(ConnectionError):
        wire.settimeout(ENDS)
        while data := wire.recv(1 << 16):
            heard += data
    return heard


# What stands where the ClientHello should, or in the middle of the handshake.
INSTEAD: dict[str, Callable[[Target], bytes]] = {
    "an option": lambda _: PLAIN_OPTION,
    "a request": lambda _: PLAIN_READ,
    "many options": lambda _: PLAIN_OPTION * 20_000,
    "the flags again": lambda _: FLAGS,
    "an alert": lambda _: FATAL_ALERT,
    "SSL 2": lambda _: OLD_HELLO,
    "the ClientHello twice": lambda target: client_hello(target) * 2,
    "a ClientHello and an option": lambda target: client_hello(target) + PLAIN_OPTION * 10,
    "a ClientHello and an alert": lambda target: client_hello(target) + FATAL_ALERT,
    "half a ClientHello and an option": lambda target: client_hello(target)[:100] + PLAIN_OPTION * 100,
}


@pytest.mark.parametrize("said", INSTEAD)
def test_t14_what_is_no_handshake_ends_the_session(target, unharmed, said):
    """At once where it cannot become TLS any more, else by the limit of the handshake; no option is answered."""
    with ExitStack() as stack:
        clients = [acknowledged(target, stack) for _ in range(5)]
        for client in clients:
            with suppress(ConnectionError):
                client.say(INSTEAD[said](target))
        unharmed()
        for client in clients:
            assert struct.pack(">Q", 0x3E889045565A9) not in heard_until_the_end(client)


@pytest.mark.parametrize("most", [0, 1, 5, 100], ids=lambda most: f"{most} bytes")
def test_h54_t15_a_client_that_falls_silent_inside_the_handshake_is_ended_by_its_limit(target, unharmed, most):
    with ExitStack() as stack:
        clients = [acknowledged(target, stack) for _ in range(5)]
        for client in clients:
            client.say(client_hello(target)[:most])
        unharmed()
        for client in clients:
            assert heard_until_the_end(client) == b""


def test_t15_a_client_that_says_its_hello_byte_by_byte_is_ended_by_the_limit_too(target, unharmed):
    """What moves does not count: the handshake as a whole has its time."""
    with ExitStack() as stack:
        client = acknowledged(target, stack)
        gone = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                for byte in client_hello(target):
                    if gone.wait(HANDSHAKE / 100):
                        return
                    client.socket.send(bytes([byte]))

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert heard_until_the_end(client) == b""
        finally:
            gone.set()
            dripping.join(ENDS)


MIDDLE: dict[str, bytes] = {
    "a request": PLAIN_READ,
    "an option": PLAIN_OPTION,
    "an alert": FATAL_ALERT,
    "half a record": b"\x17\x03\x03\x40\x00" + bytes(100),
    "a record too long": b"\x17\x03\x03\xff\xff" + bytes(0xFFFF),
    "a record of nothing": b"\x17\x03\x03\x00\x00",
    "another ClientHello": b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(41),
}


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "replies in flight"])
@pytest.mark.parametrize("said", MIDDLE)
def test_t11_what_nobody_encrypted_ends_the_session(target, unharmed, said, busy):
    """No byte of it is obeyed or answered; half a record waits for its rest, and harms nobody meanwhile."""
    before = target.content()
    with ExitStack() as stack:
        clients = [entered(target, stack) for _ in range(5)]
        for client in clients:
            if busy:
                client.say(*(client.pack(Command.READ, 0, SIZE, cookie=cookie) for cookie in range(4)))
            forge(client, MIDDLE[said])
        unharmed()
        for client in clients:
            if said != "half a record":
                heard_until_the_end(client)
    assert target.content() == before


@pytest.mark.parametrize("stage", ["acknowledged", "half a ClientHello", "shaken", "entered", "replies in flight"])
@pytest.mark.parametrize("how", ["close", "close_notify", "half-close", "close_notify and more"])
def test_x54_t18_a_client_that_closes_in_the_middle(target, unharmed, stage, how):
    with ExitStack() as stack:
        for _ in range(5):
            client = acknowledged(target, stack)
            if stage == "half a ClientHello":
                client.say(client_hello(target)[:100])
            elif stage != "acknowledged":
                client.secure(target.tls)
            if stage in ("entered", "replies in flight"):
                client.greet = lambda: None  # it is done
                client.enter(target.export, False)
            if stage == "replies in flight":
                client.say(*(client.pack(Command.READ, 0, SIZE, cookie=cookie) for cookie in range(4)))
            leave(client, how)


def leave(client: Raw, how: str) -> None:
    if how.startswith("close_notify") and isinstance(client.socket, ssl.SSLSocket):
        client.socket.setblocking(False)
        with suppress(OSError):  # the server's own close_notify is not waited for
            client.socket.unwrap()
        if how.endswith("more"):
            forge(client, PLAIN_READ * 10)
            with suppress(BlockingIOError):
                heard_until_the_end(client)
    if how == "half-close":
        client.socket.shutdown(socket.SHUT_WR)
        heard_until_the_end(client)
    client.socket.close()


@contextmanager
def carried(target: Target) -> Iterator[str]:
    """The path of a socket behind which TLS begins at once: NBD's part of it is done here."""
    path = target.socket.parent / "carried"
    path.unlink(missing_ok=True)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        far = acknowledged(target, stack).socket

        def carry() -> None:
            near = listener.accept()[0]
            back = threading.Thread(target=pour, args=(far, near))
            back.start()
            pour(near, far)
            back.join(ENDS)
            near.close()

        carrier = threading.Thread(target=carry)
        carrier.start()
        try:
            yield str(path)
        finally:
            far.shutdown(socket.SHUT_RDWR)
            carrier.join(ENDS)
            assert not carrier.is_alive()


def pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def s_client(path: str, target: Target, version: str, command: str, times: int) -> str:
    """What openssl's client says when it is told a command letter so many times."""
    argv = ["openssl", "s_client", "-unix", path, "-CAfile", str(target.pki.trusting / "ca-cert.pem"), f"-{version}"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process:
        said = ""
        for line in process.stdout:  # the letters are commands once the handshake is over
            said += line
            if "Verify return code" in line:
                break
        with suppress(BrokenPipeError):
            for _ in range(times):
                process.stdin.write(f"{command}\n")
                process.stdin.flush()
            process.stdin.write("Q\n")
            process.stdin.flush()
        rest, _ = process.communicate(timeout=ENDS)
    return said + rest


def test_t11_a_renegotiation_is_refused(target, unharmed):
    """CVE-2009-3555; nor may a client make the server work by asking for many (CVE-2011-1473)."""
    with carried(target) as path:
        said = s_client(path, target, "tls1_2", "R", 20)
    assert re.search("RENEGOTIATING[^$]*(no renegotiation|alert)", said), said


def test_keys_may_be_updated_as_often_as_a_client_likes(target, unharmed):
    with carried(target) as path:
        said = s_client(path, target, "tls1_3", "K", 20)
    assert said.count("KEYUPDATE") >= 1 and "error" not in said.lower(), said


def test_a_client_of_tls_1_1_is_refused(target, unharmed):
    """T17."""
    with ExitStack() as stack, pytest.warns(DeprecationWarning):
        old = trusting(target.pki.trusting / "ca-cert.pem", minimum_version=ssl.TLSVersion.TLSv1_1,
                       maximum_version=ssl.TLSVersion.TLSv1_1)  # fmt: skip
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ConnectionResetError):
            acknowledged(target, stack).secure(old)


def test_clients_that_connect_inside_tls_and_leave_at_once_cost_nothing_that_stays(target, unharmed):
    for _ in range(100):
        with target.client() as client:
            client.say(client.pack(Command.READ, 0, MIB))
