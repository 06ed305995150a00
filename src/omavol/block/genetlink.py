"""Generic netlink: questions to one family of the kernel, their answers, and what it tells unasked (netlink(7)).

By hand: four messages are all that is said, and importing pyroute2 costs 0.6 s of processor time, as much as thirty
starts of Python.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

__all__ = ["Attributes", "Family", "Heard", "nested", "text", "u32", "u64"]

# linux/netlink.h, linux/genetlink.h
NETLINK_GENERIC = 16
SOL_NETLINK = 270
ADD_MEMBERSHIP = 1
REQUEST, ACK = 1, 4
MESSAGE_ERROR = 2
CONTROL = 16  # the family that tells of families
GET_FAMILY = 3
FAMILY_ID, FAMILY_NAME, MULTICAST_GROUPS = 1, 2, 7
GROUP_NAME, GROUP_ID = 1, 2
NESTED, TYPE_MASK = 0x8000, 0x3FFF
VERSION = 1

_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_RECEIVE = 65536  # bytes; an answer has fewer
LIMIT = 60.0  # seconds that the kernel may take for an answer

Attributes = list[tuple[int, bytes]]


@dataclass(frozen=True)
class Heard:
    """What a family told unasked."""

    command: int
    attributes: Attributes


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes.

    >>> attribute(1, b"abc").hex()
    '0700010061626300'
    """
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=Q", value))


def text(kind: int, value: str) -> bytes:
    """A text with the NUL that the kernel wants."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, inner: Sequence[bytes]) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NESTED, b"".join(inner))


def attributes_of(data: bytes) -> Attributes:
    """Attributes in order; one that claims more than there is ends them.

    >>> attributes_of(u32(1, 7) + text(2, "nbd"))
    [(1, b'\\x07\\x00\\x00\\x00'), (2, b'nbd\\x00')]
    """
    found: Attributes = []
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found.append((kind & TYPE_MASK, data[_ATTRIBUTE.size : length]))
        data = data[(length + 3) & ~3 :]
    return found


class Family:
    """A socket that speaks to the family of a name; a context manager, one thread at a time.

    OSError everywhere: the errno is the kernel's answer. ENOENT from the constructor: no such family is loaded.
    """

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(LIMIT)
            answers = self._call(CONTROL, GET_FAMILY, text(FAMILY_NAME, name))
            told = dict(answers[0])
            (self._id,) = struct.unpack("=H", told[FAMILY_ID])
            groups = [dict(attributes_of(each)) for _, each in attributes_of(told.get(MULTICAST_GROUPS, b""))]
        except BaseException:
            self._socket.close()
            raise
        self._groups = {
            group[GROUP_NAME].rstrip(b"\0").decode(): int(struct.unpack("=I", group[GROUP_ID])[0]) for group in groups
        }

    def __enter__(self) -> Family:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Readable when something was told."""
        return self._socket.fileno()

    def ask(self, command: int, attributes: Sequence[bytes] = ()) -> list[Attributes]:
        """One command, and every answer to it."""
        return self._call(self._id, command, b"".join(attributes))

    def join(self, group: str) -> None:
        """Be told what is told to a group; ask no questions of this object from here on."""
        self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, self._groups[group])

    def heard(self) -> list[Heard]:
        """What has been told by now, at least something where `fileno` is readable; never waits.

        ENOBUFS: more was told than there was room for, and some of it is lost.
        """
        self._socket.setblocking(False)
        try:
            data = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return []
        return [
            Heard(_GENERIC.unpack_from(body)[0], attributes_of(body[_GENERIC.size :]))
            for kind, _, body in _messages(data)
            if kind == self._id and len(body) >= _GENERIC.size
        ]

    def _call(self, family: int, command: int, attributes: bytes) -> list[Attributes]:
        self._sequence += 1
        body = _GENERIC.pack(command, VERSION, 0) + attributes
        header = _MESSAGE.pack(_MESSAGE.size + len(body), family, REQUEST | ACK, self._sequence, 0)
        self._socket.send(header + body)
        answers: list[Attributes] = []
        while True:
            for kind, sequence, data in _messages(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                if kind != MESSAGE_ERROR:
                    answers.append(attributes_of(data[_GENERIC.size :]))
                    continue
                (code,) = struct.unpack_from("=i", data)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return answers


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence and body of each message of a datagram."""
    while len(data) >= _MESSAGE.size:
        length, kind, _, sequence, _ = _MESSAGE.unpack_from(data)
        if not _MESSAGE.size <= length <= len(data):
            return
        yield kind, sequence, data[_MESSAGE.size : length]
        data = data[(length + 3) & ~3 :]
