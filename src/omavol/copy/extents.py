"""Asking a source what it holds: allocation, and what changed since a bitmap was begun.

The questions and answers pass through C alone: 10,240 extents of a 64 GiB disk take a few milliseconds.
"""

from __future__ import annotations

import os

from omavol import _fastio
from omavol.copy.ends import ALLOCATION, End, open_source
from omavol.copy.errors import CopyError

__all__ = ["allocation_of", "changed_extents", "dirty_extents"]

_DIRTY = 1  # qemu:dirty-bitmap:NAME (qemu's docs/interop/nbd.txt)


def allocation_of(end: End, timeout: float, side: str = "source") -> list[tuple[int, int, int]] | None:
    """(offset, length, base:allocation flags) of an open end; None where it has no holes to tell of."""
    if end.kind == "file":
        if os.fstat(end.fds[0]).st_blocks * 512 >= end.size:
            return None  # no holes to look for; on tmpfs the look costs 17 ms a GiB
        extents, fault = _fastio.file_extents(end.fds[0], end.size)
    elif ALLOCATION in end.contexts:
        extents, fault = _status(end, ALLOCATION, timeout)
    else:
        return None
    if extents is None:
        assert fault is not None
        raise CopyError.of((side, *fault[1:]), {side: end.name}, timeout)
    return extents


def _status(end: End, context: str, timeout: float) -> tuple[list[tuple[int, int, int]] | None, _fastio.Fault | None]:
    return _fastio.block_status(
        end.fds[0],
        end.contexts[context],
        end.size,
        timeout,
        extended=end.extended,
        secured=end.secured[0] if end.secured else None,
    )


def changed_extents(end: End, context: str, timeout: float) -> list[tuple[int, int]]:
    """(offset, length) of what a dirty-bitmap context of an open end marks, in order, neighbours joined."""
    if context not in end.contexts:
        raise CopyError(
            f"source {end.name}: the export has no context {context}",
            code="copy.context",
            side="source",
            advice="Export the bitmap by name: qemu-nbd -B NAME, or block-export-add; of omavol serve: take a point.",
        )
    extents, fault = _status(end, context, timeout)
    if extents is None:
        assert fault is not None
        raise CopyError.of(fault, {"source": end.name}, timeout)
    return [(offset, min(length, end.size - offset)) for offset, length, flags in extents if flags & _DIRTY]


def dirty_extents(uri: str, context: str, *, timeout: float = 60.0) -> list[tuple[int, int]]:
    """What changed, by the meta context of an NBD export, such as `qemu:dirty-bitmap:point-1`."""
    with open_source(uri, connections=1, timeout=timeout, contexts=(context,)) as end:
        return changed_extents(end, context, timeout)
