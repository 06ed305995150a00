"""The extents of a whole export or file: what `omavol map` shows, and their totals."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from omavol.nbd.errors import NbdError
from omavol.nbd.wire import Allocation

__all__ = ["Extent", "NotMapped", "Total", "of_file", "totals"]

_HOLE = int(Allocation.HOLE | Allocation.ZERO)


class NotMapped(NbdError):
    """The file has no map."""

    code = "nbd.no-map"


class Extent(NamedTuple):
    """`length` bytes at `offset` with the same status in a meta context."""

    offset: int
    length: int
    status: int


class Total(NamedTuple):
    """All bytes of one status."""

    size: int
    percent: float
    status: int


def of_file(path: Path) -> Iterator[Extent]:
    """Data and holes of a file or block device, as base:allocation says them (lseek(2), SEEK_HOLE)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotMapped(f"{path}: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise NotMapped(f"{path}: neither a file nor a block device")
        yield from _seek(descriptor, os.lseek(descriptor, 0, os.SEEK_END))
    except OSError as error:
        raise NotMapped(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _seek(descriptor: int, size: int) -> Iterator[Extent]:
    offset = 0
    while offset < size:
        try:
            data = min(os.lseek(descriptor, offset, os.SEEK_DATA), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data behind here
                raise
            data = size
        if data > offset:
            yield Extent(offset, data - offset, _HOLE)
        if data == size:
            return
        offset = min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
        yield Extent(data, offset - data, 0)


def totals(extents: Iterable[Extent]) -> list[Total]:
    """Bytes and percent of each status, in the order of the statuses.

    >>> totals([Extent(0, 1, 0), Extent(1, 3, 3)])
    [Total(size=1, percent=25.0, status=0), Total(size=3, percent=75.0, status=3)]
    """
    sizes: dict[int, int] = {}
    for extent in extents:
        sizes[extent.status] = sizes.get(extent.status, 0) + extent.length
    whole = sum(sizes.values())
    return [Total(size, 100.0 * size / whole, status) for status, size in sorted(sizes.items())]
