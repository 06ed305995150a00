"""Proving a destination: read it again and compare it with the digests of what was sent.

Next to the data (`verify`) a file or device is read past the page cache; from afar (`read_back`) an export is read
over NBD. Either answers with the ranges that differ; that there are none is the proof.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from omavol import _fastio
from omavol.copy.digests import Digests
from omavol.copy.ends import NULL, End, open_source
from omavol.copy.engine import CONNECTIONS, TIMEOUT
from omavol.copy.errors import CopyError
from omavol.copy.extents import allocation_of
from omavol.copy.plan import Work, plan

__all__ = ["VerifyResult", "read_back", "verify"]


@dataclass(frozen=True)
class VerifyResult:
    """`differing` are (offset, length) ranges that do not hold what the digests say, in order.

    `way` says how it was read: "direct" (O_DIRECT), "dropped" (page cache dropped before), "memory" (a file system
    that has no storage below its memory), "nbd" (whatever the server read).
    """

    differing: tuple[tuple[int, int], ...]
    way: str
    records: int
    bytes_read: int
    seconds: float

    @property
    def matches(self) -> bool:
        return not self.differing


def verify(volume: int | str | Path, digests: Digests | bytes | Path) -> VerifyResult:
    """Compare a file or block device (a path or an open descriptor) with digests (a file, its content, or decoded)."""
    known = digests if isinstance(digests, Digests) else Digests.decode(digests)
    begun = time.monotonic()
    fd = volume if isinstance(volume, int) else _open(volume)
    try:
        differing, way, bytes_read, fault = _fastio.verify_records(fd, known.packed, known.size)
    finally:
        if not isinstance(volume, int):
            os.close(fd)
    if fault is not None:
        raise CopyError.of(("volume", *fault[1:]), {"volume": str(volume)}, TIMEOUT)
    return VerifyResult(tuple(differing), way, len(known), bytes_read, time.monotonic() - begun)


def _open(volume: str | Path) -> int:
    try:
        return os.open(volume, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CopyError(f"volume {volume}: cannot open: {error.strerror}", code="copy.open", side="volume") from error


def read_back(uri: str, digests: Digests, *, connections: int = CONNECTIONS, timeout: float = TIMEOUT) -> VerifyResult:
    """Compare an export with digests by reading what they cover; zero runs only where its block status shows data."""
    begun = time.monotonic()
    with open_source(uri, connections=connections, timeout=timeout, side="destination") as end:
        allocation = allocation_of(end, timeout, "destination")
        loop = _fastio.CopyLoop(end, End("null", NULL), _work(digests, allocation), digests=True, timeout=timeout)
        if not loop.run():
            assert loop.fault is not None
            raise CopyError.of(("destination", *loop.fault[1:]), {"destination": uri}, timeout)
    differing = _differences(digests, Digests(digests.size, loop.records()))
    return VerifyResult(differing, "nbd", len(digests), loop.bytes_read, time.monotonic() - begun)


def _work(digests: Digests, allocation: list[tuple[int, int, int]] | None) -> list[Work]:
    """Each hashed range by itself, as it was hashed; the zero runs wherever the export does not say zero itself."""
    hashed = [(record.offset, record.length, False) for record in digests if record.digest is not None]
    zeroes = [(record.offset, record.length) for record in digests if record.digest is None]
    return sorted(hashed + plan(digests.size, allocation=allocation, changed=zeroes))


def _differences(sent: Digests, seen: Digests) -> tuple[tuple[int, int], ...]:
    """Ranges whose hash was seen and not sent, or sent and not seen; a zero run differs where data stands in it."""
    ours = {record for record in sent if record.digest is not None}
    theirs = {record for record in seen if record.digest is not None}
    return tuple(sorted({(record.offset, record.length) for record in ours ^ theirs}))
