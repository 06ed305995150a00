"""The protocol's numbers as the suite needs them beside omavol.nbd.wire, and their names for people."""

from __future__ import annotations

from enum import IntEnum

from omavol.nbd.wire import Error, Option, OptionError

__all__ = [
    "CHUNK_MAGIC",
    "CONTENT",
    "EXTENDED_REPLY_MAGIC",
    "EXTENDED_REQUEST_MAGIC",
    "FIXED_NEWSTYLE",
    "GREETING",
    "MAXIMUM_FRAGMENTLESS",
    "NO_ZEROES",
    "OPTION_MAGIC",
    "REPLY_MAGIC",
    "REQUEST_MAGIC",
    "SIMPLE_MAGIC",
    "SURELY_NO_ATTACK",
    "ZEROES",
    "Info",
    "Rep",
    "error_name",
    "option_name",
    "rep_name",
]

GREETING = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_REPLY_MAGIC = 0x6E8A278C

FIXED_NEWSTYLE = 1
NO_ZEROES = 2
ZEROES = 124  # bytes after EXPORT_NAME's answer

SURELY_NO_ATTACK = 1 << 25  # bytes of payload ("Size constraints")
MAXIMUM_FRAGMENTLESS = 65536  # bytes; a READ with DF works up to here
CONTENT = (1, 2)  # chunks: OFFSET_DATA, OFFSET_HOLE


class Rep(IntEnum):
    """Option replies that are no error."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4


class Info(IntEnum):
    """Information types."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


def rep_name(kind: int) -> str:
    """The document's name of an option reply.

    >>> rep_name(1), rep_name(2**31 + 6), rep_name(77)
    ('NBD_REP_ACK', 'NBD_REP_ERR_UNKNOWN', 'reply type 0x4d')
    """
    if kind in Rep._value2member_map_:
        return f"NBD_REP_{Rep(kind).name}"
    if kind in OptionError._value2member_map_:
        return f"NBD_REP_ERR_{OptionError(kind).name}"
    return f"reply type {kind:#x}"


def option_name(option: int) -> str:
    """The document's name of an option."""
    return f"NBD_OPT_{Option(option).name}" if option in Option._value2member_map_ else f"option {option:#x}"


def error_name(error: int) -> str:
    """The document's name of an error of the transmission phase; 0 is success.

    >>> error_name(0), error_name(22), error_name(7)
    ('success', 'NBD_EINVAL', 'error 7')
    """
    if error == 0:
        return "success"
    return f"NBD_{Error(error).name}" if error in Error._value2member_map_ else f"error {error}"
