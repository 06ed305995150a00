"""The digest file: what a copy saw of each piece it sent, so that whoever holds the destination can compare.

    header   magic "OMADIGST", version u32, piece size u32, disk size u64, number of records u64
    records  offset u64, length u64, flags u32 (1: reads as zero), 0 u32, xxh3-128 in canonical form (16 bytes)
    end      CRC-32 (zlib) of everything before, u32

Little-endian, packed. A record lies inside one piece-aligned piece, but a zero run of any length is one record.
Records are sorted and disjoint; what no record covers was not sent. A newer version is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omavol import _fastio
from omavol.copy.errors import BadDigests

if TYPE_CHECKING:  # a copy does not need it
    from pathlib import Path

__all__ = ["MAGIC", "PIECE", "VERSION", "ZERO", "Digests", "Record"]

MAGIC = b"OMADIGST"
VERSION = 1
PIECE = 1 << 20
ZERO = 1

_HEADER = struct.Struct("<8sIIQQ")
_RECORD = struct.Struct("<QQII16s")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """`digest` is None for a zero run."""

    SIZE: ClassVar[int] = 40  # bytes, packed

    offset: int
    length: int
    digest: bytes | None


@dataclass(frozen=True)
class Digests:
    """Digests of a disk of `size` bytes; `packed` are the records as the loops write and read them."""

    size: int
    packed: bytes

    def __len__(self) -> int:
        return len(self.packed) // _RECORD.size

    def __iter__(self) -> Iterator[Record]:
        for offset, length, flags, _, digest in _RECORD.iter_unpack(self.packed):
            yield Record(offset, length, None if flags & ZERO else digest)

    def encode(self) -> bytes:
        """The file's content."""
        body = _HEADER.pack(MAGIC, VERSION, PIECE, self.size, len(self)) + self.packed
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def of(cls, size: int, records: list[Record]) -> Digests:
        """From records in order, for tools and tests."""
        return cls(
            size,
            b"".join(
                _RECORD.pack(
                    record.offset, record.length, ZERO if record.digest is None else 0, 0, record.digest or b""
                )
                for record in records
            ),
        )

    @classmethod
    def decode(cls, data: bytes | Path) -> Digests:
        """Read a file's content, or the file; BadDigests says what is wrong with it."""
        if not isinstance(data, bytes):
            data = data.read_bytes()
        if len(data) < _HEADER.size + _CRC.size or not data.startswith(MAGIC):
            raise BadDigests("this is no digest file")
        _, version, piece, size, count = _HEADER.unpack_from(data)
        if version > VERSION:
            raise BadDigests(f"the digest file has version {version}, this program reads up to {VERSION}")
        if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
            raise BadDigests("the digest file is damaged: its checksum does not match")
        packed = data[_HEADER.size : -_CRC.size]
        if piece != PIECE or version < 1 or len(packed) != count * _RECORD.size:
            raise BadDigests("the digest file is damaged: its header does not match its length")
        if (bad := _fastio.check_records(packed, size)) >= 0:
            raise BadDigests(f"the digest file is damaged: record {bad} is not possible")
        return cls(size, packed)
