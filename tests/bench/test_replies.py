"""Replies that no server may give end the load, whatever they were meant to say (C1, C22, C23)."""

import socket
import struct
import threading
from contextlib import suppress

import pytest

from omavol._fastio import LoadLoop
from omavol.nbd.wire import Command

SIZE = 4096
ENOUGH = 5.0


def chunk(kind, cookie, payload=b"", *, done=True, length=None):
    return struct.pack(">IHHQI", 0x668E33EF, done, kind, cookie, len(payload) if length is None else length) + payload


def simple(cookie, error=0):
    return struct.pack(">IIQ", 0x67446698, error, cookie)


def data(cookie, offset, length, **options):
    return chunk(1, cookie, struct.pack(">Q", offset) + bytes(length), **options)


def load(script, **options):
    """Run a load against a script: (cookie, offset) of each request gives the bytes of the answer."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def serve():
        held = b""
        with suppress(ConnectionError):  # the load leaves at the first breach
            while received := theirs.recv(65536):
                held += received
                while len(held) >= 28:
                    _, _, command, cookie, offset, _ = struct.unpack(">IHHQQI", held[:28])
                    held = held[28:]
                    if command != Command.DISC:
                        theirs.sendall(script(cookie, offset))

    thread = threading.Thread(target=serve)
    thread.start()
    options = {"size": 1 << 20, "length": SIZE, "structured": True, "seconds": ENOUGH, "timeout": ENOUGH} | options
    loop = LoadLoop(fds=[ours.fileno()], **options)
    well = loop.run()
    ours.close()
    thread.join(ENOUGH)
    theirs.close()
    return well, loop


BREACHES = {
    "a wrong magic": (lambda cookie, at: b"\0" * 20, "wrong magic"),
    "a foreign cookie": (lambda cookie, at: data(cookie + 1000, at, SIZE), "not sent"),
    "a cookie of an earlier use": (lambda cookie, at: data(cookie, at, SIZE) * 2, "not sent"),
    "a simple reply to READ (X3)": (lambda cookie, at: simple(cookie), "simple reply to READ"),
    "data before the request": (lambda cookie, at: data(cookie, at - 1, SIZE), "outside the request"),
    "data behind the request": (lambda cookie, at: data(cookie, at + 1, SIZE), "outside the request"),
    "data at a negative offset": (lambda cookie, at: data(cookie, 2**64 - 8, 8), "outside the request"),
    "a hole longer than the request": (
        lambda cookie, at: chunk(2, cookie, struct.pack(">QI", at, SIZE + 1)),
        "outside the request",
    ),
    "an empty hole (X26)": (lambda cookie, at: chunk(2, cookie, struct.pack(">QI", at, 0)), "outside the request"),
    "too little data (X27)": (lambda cookie, at: data(cookie, at, SIZE - 1), "without exactly its data"),
    "no data at all (X27)": (lambda cookie, at: chunk(0, cookie), "without exactly its data"),
    "data twice (X26)": (
        lambda cookie, at: data(cookie, at, SIZE, done=False) + data(cookie, at, SIZE),
        "without exactly its data",
    ),
    "NONE without DONE (X31)": (lambda cookie, at: chunk(0, cookie, done=False), "cannot answer"),
    "NONE with a payload": (lambda cookie, at: chunk(0, cookie, b"x"), "cannot answer"),
    "block status": (lambda cookie, at: chunk(5, cookie, bytes(12)), "cannot answer"),
    "an unknown type": (lambda cookie, at: chunk(77, cookie, bytes(12)), "cannot answer"),
    "a chunk of 4 GiB": (lambda cookie, at: chunk(1, cookie, length=2**32 - 1), "cannot answer"),
    "an error chunk too short": (lambda cookie, at: chunk(0x8001, cookie, bytes(5)), "cannot answer"),
    "an error of 0 (X30)": (lambda cookie, at: chunk(0x8001, cookie, bytes(6)), "without an error"),
}


@pytest.mark.parametrize("case", BREACHES)
def test_a_breach_ends_the_load(case):
    script, words = BREACHES[case]
    well, loop = load(script, depth=2, random=True)
    assert not well
    assert loop.fault[0] == "breach"
    assert words in loop.fault[3]


def extents(cookie, *pairs, context=7, **options):
    return chunk(
        5, cookie, struct.pack(">I", context) + b"".join(struct.pack(">II", *pair) for pair in pairs), **options
    )


STATUS_BREACHES = {
    "an empty extent (C26)": (lambda cookie, at: extents(cookie, (0, 0)), "empty extent"),
    "another context": (lambda cookie, at: extents(cookie, (4096, 0), context=8), "not selected"),
    "no extents (C26)": (lambda cookie, at: simple(cookie), "without extents"),
    "extents past the request (X47)": (
        lambda cookie, at: extents(cookie, (1 << 20, 0), (4096, 1)),
        "past the request",
    ),
}


@pytest.mark.parametrize("case", STATUS_BREACHES)
def test_a_breach_of_block_status_ends_the_load(case):
    script, words = STATUS_BREACHES[case]
    well, loop = load(script, command=Command.BLOCK_STATUS, context=7)
    assert not well
    assert loop.fault[0] == "breach"
    assert words in loop.fault[3]


GOOD = {
    "one chunk": lambda cookie, at: data(cookie, at, SIZE),
    "a chunk and NONE": lambda cookie, at: data(cookie, at, SIZE, done=False) + chunk(0, cookie),
    "halves in any order": lambda cookie, at: (
        data(cookie, at + SIZE // 2, SIZE // 2, done=False) + data(cookie, at, SIZE // 2)
    ),
    "data and a hole": lambda cookie, at: (
        data(cookie, at, 512, done=False) + chunk(2, cookie, struct.pack(">QI", at + 512, SIZE - 512))
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_every_form_of_a_good_answer_counts(case):
    well, loop = load(GOOD[case], once=True)
    assert (well, loop.fault) == (True, None)
    assert loop.outcome()["read"]["bytes"] == 1 << 20


ERRORS = {
    "an error chunk": lambda cookie, at: chunk(0x8001, cookie, struct.pack(">IH", 5, 4) + b"oops"),
    "an error with its offset": lambda cookie, at: chunk(0x8002, cookie, struct.pack(">IHQ", 5, 0, at)),
    "an error nobody knows (C2)": lambda cookie, at: chunk(0x8055, cookie, struct.pack(">IH", 5, 0) + bytes(9)),
    "data, then an error (X28)": lambda cookie, at: (
        data(cookie, at, SIZE, done=False) + chunk(0x8002, cookie, struct.pack(">IHQ", 5, 0, at))
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_count_apart(case):
    well, loop = load(ERRORS[case], once=True)
    outcome = loop.outcome()
    assert (well, outcome["errors"], outcome["read"]["count"]) == (True, (1 << 20) // SIZE, 0)
    assert outcome["first_error"] == (5, Command.READ, 0)


def test_answers_may_come_a_byte_at_a_time():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = LoadLoop(fds=[ours.fileno()], size=SIZE * 4, length=16, structured=True, once=True, timeout=ENOUGH)
    thread = threading.Thread(target=loop.run)
    thread.start()
    for _ in range(SIZE * 4 // 16):
        _, _, _, cookie, offset, _ = struct.unpack(">IHHQQI", theirs.recv(28, socket.MSG_WAITALL))
        for byte in data(cookie, offset, 16)[:45] if offset < 64 else [data(cookie, offset, 16)]:
            theirs.sendall(bytes([byte]) if isinstance(byte, int) else byte)
    thread.join(ENOUGH)
    assert loop.outcome()["read"]["bytes"] == SIZE * 4
    ours.close()
    theirs.close()


@pytest.mark.parametrize("depth", [1, 7])
def test_never_more_is_in_flight_than_was_asked(depth):
    """All of `depth` come unanswered; then each answer brings exactly one more."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(ENOUGH)
    loop = LoadLoop(fds=[ours.fileno()], size=1 << 20, depth=depth, random=True, structured=True, seconds=ENOUGH)
    thread = threading.Thread(target=loop.run)
    thread.start()
    requests = [theirs.recv(28, socket.MSG_WAITALL) for _ in range(depth)]
    for request in requests:
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        theirs.settimeout(ENOUGH)
        _, _, _, cookie, offset, length = struct.unpack(">IHHQQI", request)
        theirs.sendall(data(cookie, offset, length))
        theirs.recv(28, socket.MSG_WAITALL)
    theirs.close()
    thread.join(ENOUGH)
    assert loop.fault[0] == "closed"
    ours.close()


def test_a_server_that_shuts_down_ends_the_load():
    """C6."""
    well, loop = load(lambda cookie, at: chunk(0x8001, cookie, struct.pack(">IH", 108, 0)))
    assert (well, loop.fault[:2]) == (False, ("answered", 108))
