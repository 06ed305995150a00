"""A server that negotiates honestly and answers as a test wants: the compiled handshake, then a script."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from omavol import _wire

SIZE = 4 << 20
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
FLAGS = 1 | 1 << 2 | 1 << 6  # HAS_FLAGS, SEND_FLUSH, SEND_WRITE_ZEROES: one connection
DONE = 1
NONE_CHUNK = 0

TRANSMIT, CLOSE, SEND = 2, 3, 1


@dataclass(frozen=True)
class Asked:
    """One request; `payload` of a WRITE."""

    flags: int
    type: int
    cookie: int
    offset: int
    length: int
    payload: bytes = b""

    def data(self, content: bytes, flags: int = DONE) -> bytes:
        """A whole READ's answer."""
        return _wire.make_data_chunk(flags, self.cookie, self.offset, self.length) + content

    def done(self) -> bytes:
        return _wire.make_chunk(DONE, NONE_CHUNK, self.cookie, 0)


Script = Callable[[Asked, socket.socket], bytes | None]


def negotiate(connection: socket.socket, *, size: int = SIZE, flags: int = FLAGS, extended: bool = False) -> bytes:
    """The server's half of the handshake; bytes that came behind it."""
    machine = _wire.ServerMachine({b"": (size, flags, 1, 4096, 1 << 25, b"")}, compact=not extended)
    data = b""
    while True:
        todo, used, out = machine.step(data)
        data = data[used:]
        if out:
            connection.sendall(out)
        if todo == TRANSMIT:
            return data
        if todo == CLOSE:
            raise ConnectionError
        if todo != SEND:
            data += receive(connection)


def receive(connection: socket.socket) -> bytes:
    connection.settimeout(15)
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError
    return data


def requests(connection: socket.socket, data: bytes) -> Iterator[Asked]:
    """Requests as they come, with their payload."""
    while True:
        while len(data) < 28:
            data += receive(connection)
        decoded = _wire.decode_request(data[:28])
        assert decoded is not None
        data = data[28:]
        flags, kind, cookie, offset, length = decoded
        while kind == WRITE and len(data) < length:
            data += receive(connection)
        payload, data = (data[:length], data[length:]) if kind == WRITE else (b"", data)
        yield Asked(flags, kind, cookie, offset, length, payload)


def scripted(script: Script, *, size: int = SIZE, flags: int = FLAGS) -> Callable[[socket.socket], None]:
    """A behaviour for the `fake` fixture: what the script returns is sent; None closes the connection.

    Block status says "all data" and DISC ends the connection, whatever the script is.
    """

    def behave(connection: socket.socket) -> None:
        for asked in requests(connection, negotiate(connection, size=size, flags=flags)):
            if asked.type == DISC:
                return
            if asked.type == STATUS:
                descriptor = asked.length.to_bytes(4, "big") + bytes(4)
                answer: bytes | None = _wire.make_status_chunk(DONE, asked.cookie, 1, 1) + descriptor
            else:
                answer = script(asked, connection)
            if answer is None:
                return
            connection.sendall(answer)

    return behave
