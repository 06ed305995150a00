"""A client of a few lines that says exactly what a test wants said, right or wrong."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omavol.nbd.wire import Chunk as ChunkType
from omavol.nbd.wire import Command, CommandFlag, Option, TransmissionFlag

__all__ = ["ACK", "DONE", "META_CONTEXT", "SERVER", "Chunk", "Raw", "trusting", "until"]

LIMIT = 20.0
DONE = 1
ACK, SERVER, INFO, META_CONTEXT = 1, 2, 3, 4  # answers to options
_CHUNK_MAGIC = 0x668E33EF
_SIMPLE_MAGIC = 0x67446698
_EXTENDED_MAGIC = 0x6E8A278C


@dataclass(frozen=True)
class Chunk:
    """One reply header with its payload; a simple reply has type None and its error, an extended one an offset."""

    type: int | None
    flags: int
    cookie: int
    payload: bytes
    error: int = 0
    offset: int | None = None


class Raw:
    """A connection past its handshake, unless `enter` is false; `contexts` are names, or true for base:allocation.

    `path` is a unix socket's, or a host and a port.

    With `tls` it enters inside TLS; what TLS refuses then is a ConnectionError, what would wait a BlockingIOError.
    """

    def __init__(
        self,
        path,
        export: str = "",
        *,
        structured: bool = True,
        extended: bool = False,
        contexts: bool | tuple[str, ...] = False,
        enter: bool = True,
        tls: ssl.SSLContext | None = None,
    ):
        if isinstance(path, tuple):
            self.socket = socket.create_connection(path, LIMIT)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(LIMIT)
            self.socket.connect(str(path))
        self.tls = tls
        self.structured, self.extended = structured or extended, extended
        self.ids: dict[str, int] = {}
        if enter:
            self.enter(export, contexts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def say(self, *data: bytes) -> None:
        with _told():
            self.socket.sendall(b"".join(data))

    def hear(self, size: int) -> bytes:
        heard = bytearray()
        while len(heard) < size:
            with _told():
                data = self.socket.recv(min(size - len(heard), 1 << 20))
            if not data:
                raise ConnectionResetError("the server left")
            heard += data
        return bytes(heard)

    def hears_the_end(self) -> bool:
        """Whether the server closes, with nothing said before."""
        try:
            with _told():
                return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask, and hear every answer up to the last one."""
        self.say(b"IHAVEOPT", struct.pack(">II", option, len(data)), data)
        answers = []
        while not answers or answers[-1][0] in (SERVER, INFO, META_CONTEXT):
            _, _, kind, length = struct.unpack(">QIII", self.hear(20))
            answers.append((kind, self.hear(length)))
        return answers

    def start_tls(self) -> None:
        """The greeting, STARTTLS and its ACK: what comes next has to be TLS."""
        self.hear(18)
        self.say(struct.pack(">I", 3))
        assert self.option(Option.STARTTLS)[-1][0] == ACK

    def secure(self, tls: ssl.SSLContext) -> None:
        """Go on inside TLS; where the handshake fails, ConnectionResetError."""
        with _told():
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def greet(self) -> None:
        """As far as the first option, which is asked inside TLS if that is wanted."""
        if self.tls is None:
            self.hear(18)
            self.say(struct.pack(">I", 3))
        else:
            self.start_tls()
            self.secure(self.tls)

    def enter(self, export: str, contexts: bool | tuple[str, ...]) -> None:
        self.greet()
        name = struct.pack(">I", len(export.encode())) + export.encode()
        if self.extended:
            assert self.option(Option.EXTENDED_HEADERS)[-1][0] == ACK
        elif self.structured:
            assert self.option(Option.STRUCTURED_REPLY)[-1][0] == ACK
        if contexts:
            names = ("base:allocation",) if contexts is True else contexts
            queries = b"".join(struct.pack(">I", len(query)) + query.encode() for query in names)
            told = self.option(Option.SET_META_CONTEXT, name + struct.pack(">I", len(names)) + queries)
            self.ids = {data[4:].decode(): int.from_bytes(data[:4]) for kind, data in told if kind == META_CONTEXT}
        answers = self.option(Option.GO, name + struct.pack(">H", 0))
        assert answers[-1][0] == ACK, answers
        told = next(data for kind, data in answers if kind == INFO and data[:2] == b"\0\0")
        _, self.size, flags = struct.unpack(">HQH", told)
        self.flags = TransmissionFlag(flags)

    def pack(self, command: int, offset: int = 0, length: int = 0, *, cookie: int = 1, flags: int = 0) -> bytes:
        """A request's header; an extended WRITE says that its payload follows."""
        if self.extended:
            flags |= CommandFlag.PAYLOAD_LEN if command == Command.WRITE else 0
            return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length)
        return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)

    def send(self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", **more: int) -> None:
        self.say(self.pack(command, offset, length, **more), payload)

    def chunk(self, simple_payload: int = 0) -> Chunk:
        """The next reply header with what belongs to it; a simple success brings `simple_payload` bytes."""
        magic, offset = struct.unpack(">I", self.hear(4))[0], None
        if magic == _SIMPLE_MAGIC:
            error, cookie = struct.unpack(">IQ", self.hear(12))
            return Chunk(None, DONE, cookie, self.hear(0 if error else simple_payload), error)
        assert magic == (_EXTENDED_MAGIC if self.extended else _CHUNK_MAGIC)
        if self.extended:
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", self.hear(28))
        else:
            flags, kind, cookie, length = struct.unpack(">HHQI", self.hear(16))
        payload = self.hear(length)
        error = struct.unpack(">I", payload[:4])[0] if kind & 0x8000 else 0
        return Chunk(kind, flags, cookie, payload, error, offset)

    def reply(self, simple_payload: int = 0) -> list[Chunk]:
        """Every chunk of one reply."""
        chunks = [self.chunk(simple_payload)]
        while not chunks[-1].flags & DONE:
            chunks.append(self.chunk())
        return chunks

    def ask(self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", **more: int) -> int:
        """Send one request; the error of its reply, 0 if there is none."""
        self.send(command, offset, length, payload, **more)
        simple = length if command == Command.READ and not self.structured else 0
        return next((chunk.error for chunk in self.reply(simple) if chunk.error), 0)

    def read(self, offset: int, length: int) -> bytes:
        self.send(Command.READ, offset, length)
        data = bytearray(length)
        for chunk in self.reply(0 if self.structured else length):
            assert chunk.error == 0, chunk
            if chunk.type is None:
                return chunk.payload
            if chunk.type == ChunkType.OFFSET_DATA:
                at = struct.unpack(">Q", chunk.payload[:8])[0] - offset
                data[at : at + len(chunk.payload) - 8] = chunk.payload[8:]
        return bytes(data)


def trusting(authority: Path, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's end of TLS that knows one authority; `versions` are attributes of the context."""
    context = ssl.create_default_context(cafile=str(authority))
    for name, version in versions.items():
        setattr(context, name, version)
    return context


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What TLS says of a socket, in a socket's own words."""
    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
        raise BlockingIOError from error
    except ssl.SSLError as error:
        raise ConnectionResetError(str(error)) from error


def until(condition: Callable[[], bool], limit: float = 10.0) -> None:
    """Return once the condition holds; fail after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.002)
