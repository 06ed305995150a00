"""The numbers of the protocol under readable names (proto.md, "Values"); wire/numbers.pxi holds them for the loops."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from omavol import _wire

__all__ = [
    "DEFAULT_MAXIMUM",
    "DEFAULT_PORT",
    "MAXIMUM_STRING",
    "REPLY_SIZES",
    "Allocation",
    "Chunk",
    "Command",
    "CommandFlag",
    "Error",
    "Form",
    "Option",
    "OptionError",
    "Reply",
    "ReplyFlag",
    "Request",
    "TransmissionFlag",
    "describe_status",
    "parse_reply",
    "parse_request",
]

DEFAULT_PORT = 10809
DEFAULT_MAXIMUM = 32 * 1024 * 1024  # bytes of payload, where the server told no block sizes
MAXIMUM_STRING = 4096  # bytes
REPLY_SIZES = (16, 20, 32)  # bytes of a reply's header: simple, structured, extended


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class OptionError(IntEnum):
    UNSUP = 2**31 + 1
    POLICY = 2**31 + 2
    INVALID = 2**31 + 3
    PLATFORM = 2**31 + 4
    TLS_REQD = 2**31 + 5
    UNKNOWN = 2**31 + 6
    SHUTDOWN = 2**31 + 7
    BLOCK_SIZE_REQD = 2**31 + 8
    TOO_BIG = 2**31 + 9
    EXT_HEADER_REQD = 2**31 + 10


class TransmissionFlag(IntFlag):
    """What an export can do and is (proto.md, "Transmission flags")."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(IntFlag):
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


class Form(IntEnum):
    """How the headers of a connection look, by what was agreed."""

    SIMPLE = 0
    STRUCTURED = 1
    EXTENDED = 2


class Chunk(IntEnum):
    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = 2**15 + 1
    ERROR_OFFSET = 2**15 + 2


class ReplyFlag(IntFlag):
    DONE = 1


class Error(IntEnum):
    """What a server answers to a request that failed (proto.md, "Error values")."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108

    @classmethod
    def of(cls, number: int) -> Error:
        """The error of a number; one the protocol does not know counts as EINVAL (C4)."""
        return cls(number) if number in cls._value2member_map_ else cls.EINVAL


class Allocation(IntFlag):
    """Status bits of base:allocation."""

    HOLE = 1
    ZERO = 2


_STATUS_TEXT: dict[str, dict[int, str]] = {
    "base:allocation": {0: "data", 1: "hole", 2: "zero", 3: "hole,zero"},
    "qemu:dirty-bitmap:": {0: "clean", 1: "dirty"},
    "x-oma:changed-since:": {0: "unchanged", 1: "changed"},
    "qemu:allocation-depth": {0: "absent", 1: "local"},
}


def describe_status(context: str, status: int) -> str | None:
    """What a status means in a context, in nbdinfo's words; None where it has none.

    >>> describe_status("base:allocation", 3)
    'hole,zero'
    >>> describe_status("qemu:dirty-bitmap:today", 1)
    'dirty'
    """
    if context == "qemu:allocation-depth" and status > 1:
        return f"backing depth {status}"
    for known, texts in _STATUS_TEXT.items():
        if context == known or (known.endswith(":") and context.startswith(known)):
            return texts.get(status)
    return None


class Request(NamedTuple):
    """One request; `length` is bytes of effect (of a BLOCK_STATUS with payload: bytes of it)."""

    flags: int
    type: int
    cookie: int
    offset: int
    length: int

    def encode(self, extended: bool = False) -> bytes:
        """The header; an extended WRITE says PAYLOAD_LEN by itself (C21)."""
        return _wire.make_request(*self, extended)

    def payload(self, extended: bool = False) -> int:
        """Bytes that follow the header."""
        return _wire.payload_of(self.flags, self.type, self.length, extended)


class Reply(NamedTuple):
    """The header of one reply: a simple one, or a chunk with `length` bytes of payload behind it.

    An extended chunk repeats the `offset` of its request.
    """

    structured: bool
    flags: int
    type: int
    error: int
    length: int
    cookie: int
    extended: bool = False
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes of the header itself."""
        return REPLY_SIZES[2 if self.extended else 1 if self.structured else 0]


def parse_request(data: bytes, extended: bool = False) -> Request | None:
    """The request at the start of `data`, None if more bytes are needed; ValueError on a wrong magic."""
    fields = _wire.decode_request(data, extended)
    return None if fields is None else Request(*fields)


def parse_reply(data: bytes, form: Form | bool) -> Reply | None:
    """The reply header at the start of `data`, None if more is needed; ValueError on a magic that is wrong here.

    `form` may be told as whether structured replies were agreed.
    """
    fields = _wire.decode_reply(data, form)
    return None if fields is None else Reply(*fields)
