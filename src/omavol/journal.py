"""One append-only file of checked records: what a process must still know after it was killed.

Layout, all numbers big-endian. The file begins with `OMAJ`, the format's version (u16), the length of the tag (u16)
and the tag, which names what the records are about. A record is its magic (u32), kind (u16), version of that kind
(u16), length of the payload (u32), CRC-32 of all that and the payload (u32), the payload.

An append that was cut off by a crash is a *torn tail*: bytes at the end that are no whole record. Opening cuts it off.
A bad record with a good one behind it is not torn but damaged, and refused: to cut there would forget what was known.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Journal", "JournalDamaged", "JournalError", "JournalTooNew", "Record"]

FORMAT = 1
_HEAD = struct.Struct(">4sHH")
_RECORD = struct.Struct(">IHHII")
_MAGIC = b"OMAJ"
_RECORD_MAGIC = 0x4F4D4152  # "OMAR"
_PAYLOAD_LIMIT = 1 << 28


class JournalError(Exception):
    """The journal cannot be used; the message says which file, and what to do."""

    code = "journal_unusable"

    def __init__(self, path: Path, detail: str, advice: str) -> None:
        super().__init__(f"{path}: {detail}; {advice}")
        self.path = path
        self.detail = detail
        self.advice = advice


class JournalTooNew(JournalError):
    """A newer release wrote it; nothing was changed."""

    code = "journal_too_new"


class JournalDamaged(JournalError):
    """Something other than a crash changed it; nothing was changed."""

    code = "journal_damaged"


class Record(NamedTuple):
    kind: int
    version: int
    payload: bytes


class Journal:
    """An open journal: `records` as they were found at opening, `append` for new ones.

    `versions`: the kinds a caller understands, each with the newest version of it. Appending and compacting may be
    called from any thread, one at a time each (a lock sees to it).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.journal"
    >>> with Journal(path, tag="example", versions={1: 1}) as journal:
    ...     journal.append(1, b"first", durable=True)
    >>> with Journal(path, tag="example", versions={1: 1}) as journal:
    ...     [record.payload for record in journal.records]
    [b'first']
    """

    def __init__(self, path: str | os.PathLike[str], *, tag: str, versions: Mapping[int, int]) -> None:
        self.path = Path(path)
        self._tag = tag.encode()
        self._versions = dict(versions)
        self._lock = threading.Lock()
        _remove_leftover(self._replacement)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.records = self._open()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def append(self, kind: int, payload: bytes, *, durable: bool = False) -> None:
        """Add one record; with `durable` it is on the disk when this returns. Raises OSError (a full disk, say)."""
        with self._lock:
            self._write(encode(kind, self._versions[kind], payload))
            if durable:
                os.fdatasync(self._descriptor)

    def compact(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Replace everything by `records` (kind, payload) at once: a crash leaves the old file or the new one."""
        with self._lock:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(self._replacement, flags, 0o600)
            try:
                content = b"".join(encode(kind, self._versions[kind], payload) for kind, payload in records)
                _write_all(descriptor, self._head() + content)
                os.fsync(descriptor)
                self._replacement.rename(self.path)
            except BaseException:
                os.close(descriptor)
                raise
            _sync_folder(self.path.parent)
            os.close(self._descriptor)
            self._descriptor = descriptor
            self._size = len(self._head()) + len(content)

    def close(self) -> None:
        """Close the file; closing twice is no error."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    @property
    def _replacement(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def _head(self) -> bytes:
        return _HEAD.pack(_MAGIC, FORMAT, len(self._tag)) + self._tag

    def _write(self, data: bytes) -> None:
        try:
            _write_all(self._descriptor, data)
        except OSError:
            # Half a record must not stand before the next one.
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _open(self) -> list[Record]:
        content = self.path.read_bytes()
        head = self._head()
        if len(content) < len(head) and head.startswith(content):
            os.ftruncate(self._descriptor, 0)
            _write_all(self._descriptor, head)
            os.fsync(self._descriptor)
            _sync_folder(self.path.parent)
            self._size = len(head)
            return []
        self._check_head(content)
        records, end = parse(content, len(head))
        if end < len(content):
            if (next_one := find_record(content, end + 1)) is not None:
                raise JournalDamaged(
                    self.path,
                    f"the record at byte {end} is damaged, and a good one stands behind it at byte {next_one}",
                    "restore the file from a backup, or move it away to start without what it knew",
                )
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
        self._size = end
        for record in records:
            if record.version > self._versions.get(record.kind, -1):
                raise JournalTooNew(
                    self.path,
                    f"it holds a record of kind {record.kind}, version {record.version}, unknown to this release",
                    "start the release that wrote it, or a newer one",
                )
        return records

    def _check_head(self, content: bytes) -> None:
        head = self._head()
        if len(content) < _HEAD.size or content[:4] != _MAGIC:
            raise JournalDamaged(self.path, "it is not a journal", "move it away, or name another directory")
        _, version, _ = _HEAD.unpack_from(content)
        if version > FORMAT:
            raise JournalTooNew(
                self.path,
                f"its format is version {version}, this release reads up to {FORMAT}",
                "start the release that wrote it, or a newer one",
            )
        if content[: len(head)] != head:
            raise JournalDamaged(
                self.path, f"it is not a journal of {self._tag.decode()!r}", "move it away, or name another directory"
            )


def encode(kind: int, version: int, payload: bytes) -> bytes:
    """A record as it stands in the file."""
    if len(payload) > _PAYLOAD_LIMIT:
        raise ValueError(f"a record of {len(payload)} bytes is larger than {_PAYLOAD_LIMIT}")
    start = struct.pack(">IHHI", _RECORD_MAGIC, kind, version, len(payload))
    return start + struct.pack(">I", zlib.crc32(payload, zlib.crc32(start))) + payload


def parse(content: bytes, offset: int) -> tuple[list[Record], int]:
    """The whole records from `offset` on, and where the last one ends."""
    records: list[Record] = []
    while (found := _record_at(content, offset)) is not None:
        record, offset = found
        records.append(record)
    return records, offset


def find_record(content: bytes, offset: int) -> int | None:
    """Where the first whole record at or behind `offset` begins, if any."""
    magic = struct.pack(">I", _RECORD_MAGIC)
    while (offset := content.find(magic, offset)) >= 0:
        if _record_at(content, offset) is not None:
            return offset
        offset += 1
    return None


def _record_at(content: bytes, offset: int) -> tuple[Record, int] | None:
    if len(content) - offset < _RECORD.size:
        return None
    magic, kind, version, length, checksum = _RECORD.unpack_from(content, offset)
    end = offset + _RECORD.size + length
    if magic != _RECORD_MAGIC or length > _PAYLOAD_LIMIT or end > len(content):
        return None
    payload = content[offset + _RECORD.size : end]
    if zlib.crc32(payload, zlib.crc32(content[offset : offset + _RECORD.size - 4])) != checksum:
        return None
    return Record(kind, version, payload), end


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _remove_leftover(path: Path) -> None:
    """A replacement that was never renamed is of no use: the crash came before it counted."""
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
