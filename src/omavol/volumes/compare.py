"""Comparing a volume with its source's digests: whether the digests fit the volume at all, then every byte of it.

The reading is the copy engine's (`omavol.copy.verify`): past the page cache, in C.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from omavol.copy.digests import Digests
from omavol.copy.errors import BadDigests, CopyError
from omavol.copy.verify import verify
from omavol.volumes.errors import VolumeError
from omavol.volumes.rows import VolumeRow
from omavol.volumes.sessions import open_device

__all__ = ["Compared", "compare", "digests_limit", "read_digests"]

_RECORD = 40
_SMALLEST_EXTENT = 4096
_FRAME = 64
_MOST = 1 << 30


@dataclass(frozen=True)
class Compared:
    """`differing` are (offset, length); `way` says how the page cache was passed by."""

    differing: tuple[tuple[int, int], ...]
    bytes_read: int
    way: str


def digests_limit(size: int) -> int:
    """The most bytes that the digest file of a disk of `size` bytes may have: a record for every 4 KiB, up to 1 GiB."""
    return min(_FRAME + _RECORD * (size // _SMALLEST_EXTENT + 2), _MOST)


def read_digests(path: Path, volume: VolumeRow, *, full: bool) -> Digests:
    """The digests, if they can prove this pass: whole, of this disk's size and, after a full pass, of all of it."""
    try:
        digests = Digests.decode(path)
    except FileNotFoundError as error:
        raise VolumeError(
            409,
            "digests_missing",
            f"no digests were stored for volume {volume.volume_id}",
            "PUT them to /api/v1/volumes/{id}/sessions/{sid}/digests first, or prove at level `flushed`.",
        ) from error
    except BadDigests as error:
        raise VolumeError(409, "digests_invalid", str(error), "Store the source's digest file again.") from error
    if digests.size != volume.size:
        raise VolumeError(
            409, "digests_invalid", f"the digests are of a disk of {digests.size} bytes, the volume has {volume.size}"
        )
    if full and (covered := sum(record.length for record in digests)) != volume.size:
        raise VolumeError(
            409, "digests_incomplete", f"the digests of a full copy cover {covered} of {volume.size} bytes"
        )
    return digests


def compare(volume: VolumeRow, digests: Digests) -> Compared:
    """Read what the digests cover; the ranges that differ."""
    descriptor = open_device(volume)
    try:
        result = verify(descriptor, digests)
    except CopyError as error:
        raise VolumeError(
            500, "verify_failed", f"{volume.device_path} could not be read again: {error}", "Check the storage."
        ) from error
    finally:
        os.close(descriptor)
    return Compared(result.differing, result.bytes_read, result.way)
