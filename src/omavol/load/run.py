"""Runs one load: looks whether the export takes it, connects, lets the compiled loop run, says what went wrong."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from omavol._fastio import LoadLoop
from omavol.load.times import Times
from omavol.nbd.client import ALLOCATION, connect
from omavol.nbd.connection import Connection
from omavol.nbd.errors import Breach, Disconnected, NbdError, NotAllowed, NotOffered, RequestFailed, TimedOut
from omavol.nbd.handshake import Export, Wish
from omavol.nbd.transport import Transport
from omavol.nbd.uri import Uri, parse
from omavol.nbd.wire import Command, Error, TransmissionFlag

__all__ = ["OPERATIONS", "WRITING", "Load", "LoadFailed", "Result", "run"]

OPERATIONS = ("randread", "randwrite", "randrw", "read", "write", "status", "connect")
WRITING = ("randwrite", "randrw", "write")
MOST_DEPTH = 4096
_SEQUENTIAL = ("read", "write", "status")


class LoadFailed(NbdError):
    """The system refused something that the load needs."""

    code = "load.system"


@dataclass(frozen=True)
class Load:
    """What is asked of an export. `size` is bytes of a request, `seconds` and `warmup` last beside each other.

    `depth` requests are in flight on each of `connections`. `reads` is the percentage of reads in `randrw`. With `once`
    the export is gone through once, however long that takes. With `flush` a FLUSH ends it.
    """

    uri: str
    operation: str = "randread"
    size: int = 4096
    depth: int = 1
    connections: int = 1
    reads: int = 70
    seconds: float = 3.0
    warmup: float = 0.0
    once: bool = False
    flush: bool = False
    timeout: float = 30.0

    @property
    def writes(self) -> bool:
        """Whether it overwrites data."""
        return self.operation in WRITING


@dataclass(frozen=True)
class Result:
    """What came of a load: seconds of the clock and of this thread's processor, and the answers' times.

    `awake` of them were spent on waiting: with one request in flight the loop does not always sleep (brisk.pxi).
    `read` has the times of block status and of whole connects too. `errors` counts requests answered by an error, of
    which `first_error` tells one.
    """

    load: Load
    export: Export
    seconds: float
    user: float
    system: float
    awake: float
    read: Times
    write: Times
    extents: int = 0
    errors: int = 0
    first_error: str | None = None
    flush_seconds: float | None = None
    interrupted: bool = False

    @property
    def times(self) -> Times:
        """Of all requests."""
        return self.read + self.write

    @property
    def requests_per_second(self) -> float:
        return self.times.count / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.times.bytes / self.seconds if self.seconds else 0.0

    @property
    def processor(self) -> float:
        """Share of a processor that the load generator took to ask and to be answered; near 1 it may be the limit."""
        return max(0.0, self.user + self.system - self.awake) / self.seconds if self.seconds else 0.0


def run(load: Load) -> Result:
    """Do the whole load; an NbdError says why it could not begin or go on."""
    uri = parse(load.uri)
    _check(load)
    with connect(uri, timeout=load.timeout, extended=Wish.NEVER) as first:
        export = first.export
        _fits(load, export, uri)
        if load.operation == "connect":
            if first.secured:
                raise NotAllowed("whole connections are measured without TLS alone")
            return _run_connects(load, uri, export)
        with _connections(load, uri, first.release(), export) as transports:
            return _run_requests(load, uri, export, transports)


def _enter(uri: Uri, load: Load) -> Connection:
    """A connection with compact headers: the loop says what every server understands."""
    return connect(uri, timeout=load.timeout, extended=Wish.NEVER)


def _check(load: Load) -> None:
    """What is wrong whatever the export is."""
    if load.operation not in OPERATIONS:
        raise NotAllowed(f"{load.operation!r} is no operation; there are {', '.join(OPERATIONS)}")
    if load.once and load.operation not in _SEQUENTIAL:
        raise NotAllowed(f"{load.operation} has no end; only {', '.join(_SEQUENTIAL)} can go through an export once")
    if load.once and load.warmup:
        raise NotAllowed("what is done once has no warm-up")
    if load.operation == "connect" and load.depth > 1:
        raise NotAllowed("connect asks one request of each connection; for more at a time give connections, not depth")
    if not 1 <= load.depth <= MOST_DEPTH or load.connections < 1 or load.size < 1 or not 0 <= load.reads <= 100:
        raise NotAllowed(f"depth is 1 to {MOST_DEPTH}, connections and size at least 1, the share of reads 0 to 100")


def _fits(load: Load, export: Export, uri: Uri) -> None:
    """Whether the export takes these requests (C14, C15, C16)."""
    about = f"{uri.place}: export {export.name!r}"
    if load.writes and export.read_only:
        raise NotAllowed(f"{about} is read-only: {load.operation} cannot be done", "Operations that only read can.")
    if load.flush and not export.flags & TransmissionFlag.SEND_FLUSH:
        raise NotOffered(f"{about} does not offer FLUSH")
    if load.operation == "status":
        if ALLOCATION not in export.contexts:
            raise NotOffered(f"{about} does not offer block status ({ALLOCATION})")
        return
    if load.size > export.maximum:
        raise NotAllowed(f"{about} takes requests of at most {export.maximum} bytes, not {load.size}")
    if load.size > export.size:
        raise NotAllowed(f"{about} has {export.size} bytes, too few for requests of {load.size}")
    if load.size % export.minimum:
        raise NotAllowed(f"{about} takes multiples of {export.minimum} bytes, {load.size} is none")


@contextmanager
def _connections(load: Load, uri: Uri, first: Transport, export: Export) -> Iterator[list[Transport]]:
    """All connections, closed in the end; the first is there already."""
    transports = [first]
    try:
        for _ in range(load.connections - 1):
            another = connect(uri, timeout=load.timeout, extended=Wish.NEVER)
            transports.append(another.release())
            if (another.export.size, another.structured) != (export.size, export.structured):
                raise Breach(f"{uri.place}: another connection to export {export.name!r} shows another size")
        yield transports
    finally:
        for transport in transports:
            transport.close()


def _run_requests(load: Load, uri: Uri, export: Export, transports: list[Transport]) -> Result:
    status = load.operation == "status"
    reads = {"randrw": load.reads}.get(load.operation, 0 if load.writes else 100)
    loop = LoadLoop(
        fds=[transport.socket.fileno() for transport in transports],
        secured=[channel for transport in transports if (channel := transport.channel) is not None],
        command=Command.BLOCK_STATUS if status else Command.READ,
        reads=reads,
        random=load.operation.startswith("rand"),
        once=load.once,
        flush=load.flush,
        depth=load.depth,
        size=export.size - export.size % export.minimum,
        length=load.size,
        structured=export.structured,
        context=export.contexts.get(ALLOCATION, 0),
        seconds=load.seconds,
        warmup=load.warmup,
        timeout=load.timeout,
    )
    return _finish(loop, load, uri, export)


def _run_connects(load: Load, uri: Uri, export: Export) -> Result:
    loop = LoadLoop(
        address=_address(uri),
        name=uri.export.encode(),
        count=load.connections,
        random=True,
        size=export.size,
        length=load.size,
        seconds=load.seconds,
        warmup=load.warmup,
        timeout=load.timeout,
    )
    return _finish(loop, load, uri, export)


def _address(uri: Uri) -> bytes:
    """The struct sockaddr of a URI (unix(7), ip(7), ipv6(7))."""
    if uri.socket is not None:
        return struct.pack("@H", socket.AF_UNIX) + os.fsencode(uri.socket) + b"\0"
    family, _, _, _, place = socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)[0]
    packed = socket.inet_pton(family, str(place[0]))
    head = struct.pack("@H", family) + struct.pack("!H", uri.port)
    if family == socket.AF_INET:
        return head + packed + bytes(8)
    return head + bytes(4) + packed + struct.pack("@I", int(place[3]) if len(place) == 4 else 0)


def _finish(loop: LoadLoop, load: Load, uri: Uri, export: Export) -> Result:
    if not loop.run():
        raise _failure(loop, load, uri)
    told = loop.outcome()
    error = told["first_error"]
    return Result(
        load,
        export,
        told["seconds"],
        told["user"],
        told["system"],
        told["awake"],
        Times.of(told["read"]),
        Times.of(told["write"]),
        told["extents"],
        told["errors"],
        None if error is None else _answer(error[0], Command(error[1]).name, error[2]),
        told["flush_seconds"] if load.flush else None,
        told["interrupted"],
    )


def _answer(number: int, command: str, offset: int) -> str:
    known = Error(number).name if number in Error._value2member_map_ else f"error {number}"
    return f"{command} at offset {offset} was answered by {known}"


def _failure(loop: LoadLoop, load: Load, uri: Uri) -> NbdError:
    assert loop.fault is not None
    kind, number, offset, text = loop.fault
    if kind == "silent":
        return TimedOut(f"{uri.place}: no answer for {load.timeout:g} s")
    if kind == "closed":
        return Disconnected(f"{uri.place}: the server closed the connection while requests were in flight")
    if kind == "breach":
        return Breach(f"{uri.place}: the server broke the protocol at offset {offset}: {text}")
    if kind == "answered" and text == "handshake":
        return RequestFailed(f"{uri.place}: the server refused the export (error {number:#x})", number)
    if kind == "answered":
        return RequestFailed(f"{uri.place}: the server is shutting down", number, offset)
    return LoadFailed(f"{uri.place}: {text}: {os.strerror(number)}")
