"""The handshake for people: the values of the compiled machine under readable names, and its faults in words."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from omavol.nbd.errors import Breach, NbdError, NotFixed, Refused, UnknownExport
from omavol.nbd.wire import DEFAULT_MAXIMUM, Form, OptionError, TransmissionFlag

__all__ = ["Export", "Fault", "Goal", "Listed", "Next", "Seen", "Tls", "Wish", "breach", "refusal"]


class Next(IntEnum):
    """What a step of either machine asks its caller to do (_wire.pxd, "Handshakes")."""

    MORE = 0
    SEND = 1
    TRANSMIT = 2
    CLOSE = 3
    TLS = 4
    SEEN = 5
    ANSWERED = 6


class Goal(IntEnum):
    """A question of the client."""

    GO = 0
    INFO = 1
    LIST = 2
    CONTEXTS = 3
    ABORT = 4


class Tls(IntEnum):
    """A server's mode of TLS: none, for exports that want it, for everything."""

    NONE = 0
    SELECTIVE = 1
    FORCED = 2


class Wish(IntEnum):
    """How much structured replies, extended headers or TLS are wanted."""

    NEVER = 0
    OFFERED = 1
    DEMANDED = 2


class Seen(IntEnum):
    """What an answer told on the way."""

    NOTHING = 0
    EXPORT = 1
    NAME = 2
    DESCRIPTION = 3
    CONTEXT = 4


class Fault(IntEnum):
    """Why the client's machine gave up."""

    NONE = 0
    NOT_NBD = 1
    OLDSTYLE = 2
    NOT_FIXED = 3
    REPLY_MAGIC = 4
    REPLY_OPTION = 5
    REPLY_TYPE = 6
    REPLY_LENGTH = 7
    STRING = 8
    NO_EXPORT = 9
    SIZE = 10
    FLAGS = 11
    BLOCK_SIZE = 12
    CONTEXT = 13
    FLOOD = 14
    CALLER = 15
    UNASKED = 16


_FAULTS: dict[Fault, str] = {
    Fault.NONE: "the server ended the session",
    Fault.NOT_NBD: "what answers there is no NBD server",
    Fault.OLDSTYLE: "the server speaks the oldstyle handshake, which nobody should; only newstyle is spoken here",
    Fault.NOT_FIXED: "the server speaks no fixed newstyle handshake, so this cannot be asked of it",
    Fault.REPLY_MAGIC: "the server garbled an answer of the handshake (wrong magic)",
    Fault.REPLY_OPTION: "the server answered another option than the one asked",
    Fault.REPLY_TYPE: "the server gave an answer that the option does not have",
    Fault.REPLY_LENGTH: "the lengths inside an answer of the handshake do not add up",
    Fault.STRING: "the server sent a text that is longer than 4096 bytes, has a NUL or is no UTF-8",
    Fault.NO_EXPORT: "the server granted the export and did not tell its size",
    Fault.SIZE: "the server claims an export of 2^63 bytes or more",
    Fault.FLAGS: "the server sent transmission flags without HAS_FLAGS",
    Fault.BLOCK_SIZE: "the server sent block sizes that the protocol does not allow",
    Fault.CONTEXT: "the server selected a meta context that was not asked for, or gave one id twice",
    Fault.FLOOD: "the server does not stop answering one option",
    Fault.CALLER: "the buffers of this program are too small",
    Fault.UNASKED: "the server sent more than it was asked for",
}

_REFUSALS: dict[OptionError, tuple[str, str | None]] = {
    OptionError.UNSUP: ("does not know that option", None),
    OptionError.POLICY: ("does not allow that", None),
    OptionError.INVALID: ("calls the question invalid", None),
    OptionError.PLATFORM: ("cannot do that on its platform", None),
    OptionError.TLS_REQD: ("demands TLS", "Write nbds:// or nbds+unix:// in the URI."),
    OptionError.UNKNOWN: ("has no such export", "To see the exports of a server: omavol info --list URI"),
    OptionError.SHUTDOWN: ("is shutting down", None),
    OptionError.BLOCK_SIZE_REQD: ("wants its block sizes to be asked for", None),
    OptionError.TOO_BIG: ("calls the question too long", None),
    OptionError.EXT_HEADER_REQD: ("demands extended headers", None),
}


class Listed(NamedTuple):
    """One export of a server's list."""

    name: str
    description: str = ""


class Export(NamedTuple):
    """What a server tells of an export: sizes in bytes; `block_sizes_told` is False where they are the defaults.

    `structured`: replies come in chunks. `extended`: headers are extended, with lengths of 64 bits.
    """

    name: str
    size: int
    flags: TransmissionFlag
    structured: bool
    minimum: int = 1
    preferred: int = 4096
    maximum: int = DEFAULT_MAXIMUM
    block_sizes_told: bool = False
    canonical_name: str | None = None
    description: str | None = None
    contexts: Mapping[str, int] = MappingProxyType({})
    extended: bool = False

    @property
    def form(self) -> Form:
        """How headers look on a connection to it."""
        return Form.EXTENDED if self.extended else Form.STRUCTURED if self.structured else Form.SIMPLE

    @property
    def read_only(self) -> bool:
        return TransmissionFlag.READ_ONLY in self.flags

    @property
    def multi_conn(self) -> bool:
        """Whether a flush on one connection covers writes of the others, so that several may be used (C12)."""
        return TransmissionFlag.CAN_MULTI_CONN in self.flags


def breach(fault: Fault, place: str) -> NbdError:
    """The error of a machine that gave up."""
    kind = NotFixed if fault == Fault.NOT_FIXED else Breach
    return kind(f"{place}: {_FAULTS[fault]}")


def refusal(error: int, message: str, place: str, export: str | None) -> Refused:
    """The error of an option that the server refused, with the server's own words if it had any."""
    known = error in OptionError._value2member_map_
    text, advice = _REFUSALS[OptionError(error)] if known else (f"refuses (error {error:#x})", None)
    about = "" if export is None else f", asked for export {export!r}"
    said = f" ({message})" if message else ""
    kind = UnknownExport if error == OptionError.UNKNOWN else Refused
    return kind(f"{place}: the server {text}{about}{said}", error, advice)
