"""The loops that move data: serve and copy. Data never passes through Python; these are the handles."""

import builtins
from collections.abc import Sequence
from typing import Literal, Protocol, TypedDict

from omavol._channel import SecureChannel, TlsCredentials

Fault = tuple[str, str, int, int, str]  # side, kind, code, offset, text

class EndFacts(Protocol):
    """One end of a copy (omavol.copy.ends.End): `fds` are negotiated connections, or one file.

    `secured` are the TLS sessions of all connections, or of none.
    """

    @property
    def kind(self) -> str: ...
    @property
    def fds(self) -> Sequence[int]: ...
    @property
    def secured(self) -> Sequence[SecureChannel]: ...
    @property
    def size(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def minimum(self) -> int: ...
    @property
    def maximum(self) -> int: ...
    @property
    def structured(self) -> bool: ...
    @property
    def extended(self) -> bool: ...

class CopyLoop:
    def __init__(
        self,
        source: EndFacts,
        destination: EndFacts,
        work: Sequence[tuple[int, int, bool]],
        *,
        digests: bool = False,
        scan_zeroes: bool = False,
        destination_is_zero: bool = False,
        allocated: bool = False,
        timeout: float = 60.0,
        rate: int = 0,
        request_size: int = 262144,
        in_flight: int = 16777216,
        reconnects: bool = False,
        flush_every: int = 2147483648,
        records: bytes = b"",
    ) -> None: ...
    def run(self) -> bool: ...
    def cancel(self) -> None: ...
    @property
    def fault(self) -> Fault | None: ...
    @property
    def lost(self) -> tuple[str, ...]: ...
    def due(self) -> tuple[list[tuple[int, int, bool]], list[tuple[int, int, bool]]]: ...
    rate: int
    @property
    def planned(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_zero(self) -> int: ...
    @property
    def flushed(self) -> bool: ...
    def records(self) -> bytes: ...

def block_status(
    fd: int,
    context: int,
    size: int,
    timeout: float = 60.0,
    side: int = 1,
    extended: bool = False,
    secured: SecureChannel | None = None,
) -> tuple[list[tuple[int, int, int]], None] | tuple[None, Fault]: ...
def file_extents(fd: int, size: int, side: int = 1) -> tuple[list[tuple[int, int, int]], None] | tuple[None, Fault]: ...
def verify_records(
    fd: int, records: bytes, size: int
) -> tuple[list[tuple[int, int]], Literal["direct", "dropped", "memory"], int, Fault | None]: ...
def digest(data: bytes, plain: bool = False) -> bytes: ...
def check_records(records: bytes, size: int) -> int: ...

class LoadTimes(TypedDict):
    """Answered requests of one kind, in nanoseconds; `buckets` are (most that falls into it, requests)."""

    count: int
    bytes: int
    sum: int
    least: int
    most: int
    buckets: builtins.list[tuple[int, int]]

class LoadOutcome(TypedDict):
    """What came of a load; times in seconds."""

    seconds: float
    flush_seconds: float
    user: float
    system: float
    awake: float
    interrupted: bool
    extents: int
    errors: int
    first_error: tuple[int, int, int] | None  # error, command, offset
    read: LoadTimes
    write: LoadTimes

class LoadLoop:
    def __init__(
        self,
        *,
        fds: Sequence[int] = (),
        secured: Sequence[SecureChannel] = (),
        address: bytes | None = None,
        name: bytes = b"",
        count: int = 0,
        command: int = 0,
        reads: int = 100,
        random: bool = False,
        once: bool = False,
        flush: bool = False,
        depth: int = 1,
        size: int = 0,
        length: int = 4096,
        structured: bool = False,
        context: int = 0,
        seconds: float = 3.0,
        warmup: float = 0.0,
        timeout: float = 30.0,
    ) -> None: ...
    def run(self) -> bool: ...
    @property
    def fault(self) -> tuple[str, int, int, str] | None: ...  # kind, code, offset, text
    def outcome(self) -> LoadOutcome: ...

def count_times(times: Sequence[int]) -> LoadTimes: ...

CONNECTION_SIZE: int

class TableError(Exception):
    """The live table refused: `code` is stable, `detail` says why."""

    code: str
    detail: str
    def __init__(self, code: str, detail: str) -> None: ...

class Facts(TypedDict):
    """An export as it stands; the counters are since it was added."""

    name: str
    size: int
    read_only: bool
    generation: int
    connections: int
    requests: int
    changes: int
    bytes_read: int
    bytes_written: int
    flushes: int
    stalled_clients: int
    failed: int

class FilterRow(TypedDict, total=False):
    """One filter of an export, by `kind`; delays are seconds by command number (8: entering), rates bytes a second."""

    kind: Literal["delay", "error", "rate", "pause"]
    delays: dict[int, float]
    fast_zero: bool
    error: int
    commands: builtins.list[int]
    every: int
    next: int
    probability: float
    range: tuple[int, int]
    rates: tuple[int, int]

class Server:
    """An NBD server over a live table of exports; see fastio/server.pxi for threads and ownership."""

    def __init__(
        self,
        *,
        workers: int = 8,
        connections: int = 1024,
        client_connections: int = 0,
        handshake: float = 10.0,
        hide_exports: bool = False,
        tls: TlsCredentials | None = None,
        tls_required: bool = False,
    ) -> None: ...
    def start(self) -> None: ...
    def listen(self, fd: int) -> None: ...
    def adopt(self, fd: int) -> None: ...
    def tell_vacant(self, fd: int, after_any: bool) -> None: ...
    def add(
        self,
        name: str,
        fd: int,
        size: int,
        read_only: bool = False,
        description: str = "",
        filters: Sequence[FilterRow] = (),
    ) -> Facts: ...
    def set_filters(self, name: str, filters: Sequence[FilterRow]) -> Facts: ...
    def retarget(self, name: str, fd: int, size: int, same_content: bool = False) -> Facts: ...
    def remove(self, name: str) -> Facts: ...
    def track(self, name: str, layers: builtins.list[tuple[str, bytes]], fd: int, closed: bool) -> None: ...
    def point(self, name: str, added: str | None = None, dropped: str | None = None, fd: int = -1) -> None: ...
    def list(self) -> builtins.list[Facts]: ...
    @property
    def connections(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def tls_counts(self) -> tuple[int, int, int]: ...
    def stop(self) -> int: ...
