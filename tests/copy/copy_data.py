"""Content and sizes that the tests of copying share."""

from __future__ import annotations

import sys
from pathlib import Path

OMAVOL = str(Path(sys.executable).with_name("omavol"))
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def content(size: int, seed: int = 1) -> bytes:
    """Bytes without a zero, different for each seed."""
    return (bytes((seed + number) % 255 + 1 for number in range(251)) * (size // 251 + 1))[:size]


def make(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    """A sparse file with data at offsets."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return path


def allocated(path: Path) -> int:
    """Bytes of storage a file takes."""
    return path.stat().st_blocks * 512
