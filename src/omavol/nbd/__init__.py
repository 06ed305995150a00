r"""NBD as a library: look at an export and change it, from a program that waits or from asyncio.

>>> from omavol import nbd
>>> with nbd.connect(uri) as disk:
...     disk.write(4096, b"hello")
...     disk.flush()
...     disk.size, disk.read(4096, 6), list(disk.extents("base:allocation"))[0].length
(1048576, b'hello\x00', 32768)

`connect(uri)` gives a `Connection`, one request at a time; `aio.connect(uri)` one whose requests are awaited, many in
flight; `negotiate(uri)` asks a server what it has. Offsets and lengths are bytes, timeouts seconds. Errors are
`NbdError`s with a `code`, one line for a person and, where there is one, an `advice`. Nothing that a server says is
believed unchecked, and no wait is without a limit.

The protocol is `omavol._wire`, compiled and without I/O, with `session` around it; names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omavol.nbd import aio
    from omavol.nbd.answers import Descriptors, Run
    from omavol.nbd.client import Negotiation, connect, negotiate
    from omavol.nbd.connection import Connection
    from omavol.nbd.errors import (
        BadUri,
        Breach,
        ConnectFailed,
        Disconnected,
        Downgraded,
        NbdError,
        NotAllowed,
        NotFixed,
        NotOffered,
        Refused,
        RequestFailed,
        ServerShutsDown,
        TimedOut,
        TlsUnavailable,
        UnknownExport,
    )
    from omavol.nbd.extents import Extent
    from omavol.nbd.handshake import Export, Listed, Wish
    from omavol.nbd.uri import Uri
    from omavol.nbd.wire import Allocation, Error, TransmissionFlag

__all__ = [
    "Allocation",
    "BadUri",
    "Breach",
    "ConnectFailed",
    "Connection",
    "Descriptors",
    "Disconnected",
    "Downgraded",
    "Error",
    "Export",
    "Extent",
    "Listed",
    "NbdError",
    "Negotiation",
    "NotAllowed",
    "NotFixed",
    "NotOffered",
    "Refused",
    "RequestFailed",
    "Run",
    "ServerShutsDown",
    "TimedOut",
    "TlsUnavailable",
    "TransmissionFlag",
    "UnknownExport",
    "Uri",
    "Wish",
    "aio",
    "connect",
    "negotiate",
]

_HOMES: dict[str, tuple[str, ...]] = {
    "answers": ("Descriptors", "Run"),
    "client": ("Negotiation", "connect", "negotiate"),
    "connection": ("Connection",),
    "extents": ("Extent",),
    "handshake": ("Export", "Listed", "Wish"),
    "uri": ("Uri",),
    "wire": ("Allocation", "Error", "TransmissionFlag"),
}
_HOME_OF = dict.fromkeys(__all__, "errors") | {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import omavol.nbd` costs nothing."""
    if name == "aio":
        return importlib.import_module("omavol.nbd.aio")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'omavol.nbd' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"omavol.nbd.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
