"""The kernel's NBD client, /dev/nbdN, by generic netlink (linux/nbd-netlink.h, drivers/block/nbd.c).

The kernel holds the connected sockets from CONNECT on: whoever made them may end. What a device is connected to stands
in its `backend`, which RECONFIGURE must name too.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from omavol.block.errors import BlockError, NotAttached, Unattachable, Unavailable
from omavol.block.genetlink import Attributes, Family, attributes_of, nested, text, u32, u64

__all__ = ["DeadLinks", "KernelNbd", "NbdDevice", "index_of", "node"]

FAMILY = "nbd"
GROUP = "nbd_mc_group"
SYSFS = Path("/sys/block")
SECTOR = 512
_LOAD = "Load it: modprobe nbd. Kernels of containers and small virtual machines often have none."


class Command(IntEnum):
    CONNECT = 1
    DISCONNECT = 2
    RECONFIGURE = 3
    LINK_DEAD = 4
    STATUS = 5


class Attribute(IntEnum):
    INDEX = 1
    SIZE_BYTES = 2
    BLOCK_SIZE_BYTES = 3
    TIMEOUT = 4
    SERVER_FLAGS = 5
    CLIENT_FLAGS = 6
    SOCKETS = 7
    DEAD_CONN_TIMEOUT = 8
    DEVICE_LIST = 9
    BACKEND_IDENTIFIER = 10


SOCKET_ITEM, SOCKET_FD = 1, 1
DEVICE_INDEX, DEVICE_CONNECTED = 1, 2


@dataclass(frozen=True)
class NbdDevice:
    """A connected /dev/nbdN: `size` is bytes, `backend` what it is connected to, empty where nobody said."""

    index: int
    size: int
    read_only: bool
    backend: str

    @property
    def path(self) -> Path:
        return node(self.index)


def node(index: int) -> Path:
    """
    >>> node(3)
    PosixPath('/dev/nbd3')
    """
    return Path(f"/dev/nbd{index}")


def index_of(device: str) -> int:
    """The number of /dev/nbdN, given as a path or a link to it; NotAttached where it is something else."""
    match = re.fullmatch(r"nbd(\d+)", Path(device).resolve().name)
    if match is None:
        raise NotAttached(f"{device} is none of the kernel's NBD devices", "They are /dev/nbd0, /dev/nbd1 and so on.")
    return int(match[1])


class _Kernel:
    """The kernel's NBD family, open as long as the block lasts."""

    def __init__(self) -> None:
        self._family = _family()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._family.__exit__(kind, error, trace)


class KernelNbd(_Kernel):
    """Commands to the kernel's NBD client; a context manager. Root (CAP_SYS_ADMIN).

    Every method raises Unavailable without the kernel's module or the right to use it, and what is said beside it.
    """

    def connect(
        self,
        sockets: Sequence[int],
        *,
        size: int,
        block: int,
        flags: int,
        timeout: int,
        dead_timeout: int,
        backend: str,
        index: int | None = None,
    ) -> int:
        """Make a device of connected sockets (descriptors in the transmission phase); its number.

        `size` is bytes; `block` a power of two from 512 to a page; `flags` the export's transmission flags; `timeout`
        seconds that a request may take; `dead_timeout` seconds that requests wait for RECONFIGURE when no connection
        is left. Without `index` the kernel takes the first free device, or makes one. Unattachable: it refuses.
        """
        asked = [
            u64(Attribute.SIZE_BYTES, size),
            u64(Attribute.BLOCK_SIZE_BYTES, block),
            u64(Attribute.TIMEOUT, timeout),
            u64(Attribute.SERVER_FLAGS, flags),
            u64(Attribute.DEAD_CONN_TIMEOUT, dead_timeout),
            text(Attribute.BACKEND_IDENTIFIER, backend),
            _sockets(sockets),
        ]
        if index is not None:
            asked.append(u32(Attribute.INDEX, index))
        try:
            answers = self._family.ask(Command.CONNECT, asked)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Unattachable(f"{node(index or 0)} is in use already", "omavol attached shows them.") from error
            raise _failed(error, "the kernel does not attach it") from error
        return int(struct.unpack("=I", dict(answers[0])[Attribute.INDEX])[0])

    def reconfigure(self, index: int, sockets: Sequence[int], backend: str) -> None:
        """Give a device new connections for dead ones; those more than are dead are not taken.

        Unattachable: it is connected to another backend, or to none.
        """
        asked = [u32(Attribute.INDEX, index), text(Attribute.BACKEND_IDENTIFIER, backend), _sockets(sockets)]
        try:
            self._family.ask(Command.RECONFIGURE, asked)
        except OSError as error:
            raise _failed(error, f"{node(index)} takes no new connection") from error

    def disconnect(self, index: int) -> None:
        """Say DISC to the server and free the device; what is in flight fails. Nothing is flushed."""
        try:
            self._family.ask(Command.DISCONNECT, [u32(Attribute.INDEX, index)])
        except OSError as error:
            raise _failed(error, f"{node(index)} is not let go") from error

    def connected(self) -> list[NbdDevice]:
        """The devices that are connected, in order."""
        try:
            answers = self._family.ask(Command.STATUS)
        except OSError as error:
            raise _failed(error, "the kernel does not tell its NBD devices") from error
        found = sorted(index for told in answers for index in _connected_of(told))
        return [_device(index) for index in found]

    def device(self, index: int) -> NbdDevice:
        """One that is connected; NotAttached where it is not."""
        for each in self.connected():
            if each.index == index:
                return each
        raise NotAttached(f"{node(index)} is not attached", "omavol attached shows those that are.")


class DeadLinks(_Kernel):
    """Hears of connections that the kernel has given up; a context manager. `fileno` is readable when there are any."""

    def __init__(self) -> None:
        super().__init__()
        self._family.join(GROUP)

    def fileno(self) -> int:
        return self._family.fileno()

    def take(self) -> list[int] | None:
        """The device of each connection that died since the last call; None when the kernel's words were lost."""
        try:
            told = self._family.heard()
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return None
            raise
        return [
            int(struct.unpack("=I", value)[0])
            for heard in told
            if heard.command == Command.LINK_DEAD
            for kind, value in heard.attributes
            if kind == Attribute.INDEX
        ]


def _family() -> Family:
    try:
        return Family(FAMILY)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise Unavailable("this kernel's NBD client is not loaded", _LOAD) from error
        raise Unavailable(f"this kernel has no generic netlink: {error.strerror}") from error


def _sockets(descriptors: Sequence[int]) -> bytes:
    return nested(Attribute.SOCKETS, [nested(SOCKET_ITEM, [u32(SOCKET_FD, each)]) for each in descriptors])


def _connected_of(told: Attributes) -> list[int]:
    """The numbers of a list of devices that are connected."""
    found = []
    for _, item in attributes_of(dict(told).get(Attribute.DEVICE_LIST, b"")):
        facts = dict(attributes_of(item))
        if facts[DEVICE_CONNECTED][0]:
            found.append(int(struct.unpack("=I", facts[DEVICE_INDEX])[0]))
    return found


def _device(index: int) -> NbdDevice:
    def fact(name: str) -> str:
        try:
            return (SYSFS / f"nbd{index}" / name).read_text().strip()
        except OSError:  # it is being let go, or this kernel does not say
            return ""

    return NbdDevice(index, int(fact("size") or 0) * SECTOR, fact("ro") == "1", fact("backend"))


def _failed(error: OSError, what: str) -> BlockError:
    if error.errno == errno.EPERM:
        return Unavailable("only root (CAP_SYS_ADMIN) may attach and detach NBD devices")
    if error.errno == errno.ENOENT:
        return NotAttached(what)
    return Unattachable(f"{what}: {error.strerror}")
