"""The control socket of `omavol serve`: one JSON message a packet (AF_UNIX, SOCK_SEQPACKET), descriptors by SCM_RIGHTS.

A request is a tagged struct; its answer is `Done`, `Listing` or `Refused`. One request at a time a connection.
"""

from __future__ import annotations

import msgspec

from omavol.schema.common import Size

__all__ = [
    "Add",
    "AddPoint",
    "Answer",
    "Command",
    "Done",
    "DropPoint",
    "Hello",
    "ListExports",
    "Listing",
    "Refused",
    "Remove",
    "Retarget",
    "ServedExport",
    "SetFilters",
    "TlsCounts",
]

MESSAGE_LIMIT = 1 << 20


class Hello(msgspec.Struct, tag="hello", tag_field="command"):
    """Who is there: answered by a `Listing` without exports."""


class Add(msgspec.Struct, tag="add", tag_field="command", kw_only=True):
    """Serve the descriptor that comes with this packet as `name`; `size` bounds it and must not exceed the file's."""

    name: str
    size: Size
    read_only: bool = False
    description: str = ""


class Retarget(msgspec.Struct, tag="retarget", tag_field="command", kw_only=True):
    """New requests go to the descriptor that comes with this packet; answered when the old one is closed."""

    name: str
    size: Size
    same_content: bool = False
    """The bytes are those of the old descriptor, so its points go on; otherwise everything has changed since each."""


class Remove(msgspec.Struct, tag="remove", tag_field="command", kw_only=True):
    """Refuse new connections, end the present ones, flush, close; answered when the descriptor is closed."""

    name: str


class SetFilters(msgspec.Struct, tag="set_filters", tag_field="command", kw_only=True):
    """Put these filters before the store of an export, in place of those it has; an empty list takes all away.

    A filter is a text (omavol.serve.filters). Who waits in one passes the new ones as if it had just come.
    """

    name: str
    filters: list[str]


class AddPoint(msgspec.Struct, tag="add_point", tag_field="command", kw_only=True):
    """What was answered so far is before `point`; x-oma:changed-since:`point` tells what is changed from here on."""

    name: str
    point: str


class DropPoint(msgspec.Struct, tag="drop_point", tag_field="command", kw_only=True):
    """Forget a point and its meta context."""

    name: str
    point: str


class ListExports(msgspec.Struct, tag="list", tag_field="command"):
    """Every export with its counters."""


Command = Hello | Add | Retarget | Remove | SetFilters | AddPoint | DropPoint | ListExports


class ServedExport(msgspec.Struct, kw_only=True):
    """Counters are since the export was added; `changes` counts requests that may have changed a byte, payload or not.

    `failed` is the errno latched by a failed flush, 0 if none. `points` of change tracking stand from the oldest on.
    """

    name: str
    size: Size
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
    filters: list[str] = []
    points: list[str] = []


class TlsCounts(msgspec.Struct, kw_only=True):
    """Since the start: sessions that entered an export, those of them that the kernel encrypts, and failures."""

    sessions: int
    in_kernel: int
    failures: int


class Listing(msgspec.Struct, tag="listing", tag_field="answer", kw_only=True):
    """`incarnation` changes with every start of the server; `listeners` are NBD URIs without an export name.

    `connections` at present, in their handshake or past it; `turned_away` at once, for want of room, since the start;
    `limits` by name: connections, client_connections (0: none), handshake (seconds), workers.
    """

    incarnation: str
    version: str
    listeners: list[str]
    exports: list[ServedExport] = []
    connections: int = 0
    turned_away: int = 0
    limits: dict[str, float] = {}
    tls: TlsCounts | None = None


class Done(msgspec.Struct, tag="done", tag_field="answer", kw_only=True):
    """The command took effect; `export` as it stands after it, or stood when it was removed."""

    incarnation: str
    export: ServedExport


class Refused(msgspec.Struct, tag="refused", tag_field="answer", kw_only=True):
    code: str
    detail: str


Answer = Listing | Done | Refused
