"""The points of an export and the file that keeps what changed since each of them (NBD.md, D9; server_tracking.pxi).

The file: a head (`OMATRACK`, version, length and CRC-32 of a JSON text, the text), at byte 4096 the state (`OMASTATE`,
closed or not, when the disk was last written), from 8192 on a layer for each point, a bit for each 64 KiB that changed
between it and the next one. The server writes state and layers in place; a new list of points is a new file, renamed
over the old one. A file that is not closed, or whose disk is not the one it was kept for or was written by somebody
else since, answers that everything has changed since every point: that is always true.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from omavol import failpoint
from omavol._fastio import Server, TableError
from omavol.serve.errors import ExportRefused, ServeError

__all__ = ["CONTEXT", "GRAIN", "Disk", "Tracker", "TrackingUnusable", "layer_size"]

CONTEXT = "x-oma:changed-since:"
GRAIN = 1 << 16
_PAGE = 4096
_STATE, _LAYERS = _PAGE, 2 * _PAGE
_VERSION = 1
_HEAD = struct.Struct("<8sIII")
_MARK = struct.Struct("<8sqqq")
_POINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TrackingUnusable(ServeError):
    """The file of the changes cannot be used; it was not changed."""

    def __init__(self, path: Path, detail: str, advice: str) -> None:
        super().__init__("tracking_unusable", f"{path}: {detail}", advice)


class Head(msgspec.Struct, kw_only=True):
    """What the file is about: `disk` as Disk.identity tells it, the points from the oldest on."""

    size: int
    disk: str
    points: list[str]


@dataclass(frozen=True)
class Disk:
    """What tells a disk from another of its size, and when a regular file was last written (seconds, nanoseconds)."""

    identity: str
    written: tuple[int, int]

    @classmethod
    def of(cls, descriptor: int) -> Disk:
        """A file by its number, a block device by what it says it is; null by that.

        A block device without an id is known by its number, and until the next boot only; it tells no time.
        """
        if descriptor < 0:
            return cls("null", (0, 0))
        facts = os.fstat(descriptor)
        if not stat.S_ISBLK(facts.st_mode):
            return cls(f"file:{facts.st_ino}", divmod(facts.st_mtime_ns, 10**9))
        import hashlib  # which a file does not need

        place = Path(f"/sys/dev/block/{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}")
        for name in ("dm/uuid", "wwid", "serial", "device/wwid", "loop/backing_file"):
            with contextlib.suppress(OSError):
                if text := (place / name).read_text().strip():
                    return cls(f"block:{name}:{hashlib.sha256(text.encode()).hexdigest()}", (0, 0))
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(f"block:{facts.st_rdev}:{boot}", (0, 0))


@dataclass(frozen=True)
class _Kept:
    """A file as it was found: `layers` are None unless it vouches for every change until `written`."""

    head: Head
    layers: list[bytes] | None
    written: tuple[int, int]


class Tracker:
    """Tracks one export of a server; its points live in `path`, or as long as the server where that is None.

    Any thread may call any method; a lock lets one change happen at a time. Methods raise TableError as the server
    does, ExportRefused for a name that no point can have, OSError for a file that cannot be written.
    """

    def __init__(self, server: Server, name: str, size: int, disk: Disk, path: str | None = None) -> None:
        """Begin to track. TrackingUnusable: the file is no good, or in use."""
        self._server = server
        self._name = name
        self._size = size
        self._disk = disk.identity
        self._path = None if path is None else Path(path).absolute()
        self._lock = threading.Lock()
        self._points: list[str] = []
        if self._path is None:
            server.track(name, [], -1, False)
        else:
            self._begin(self._path, disk.written)

    @property
    def points(self) -> list[str]:
        """From the oldest on."""
        return list(self._points)

    def add(self, point: str) -> None:
        """Take a point: what was answered before is before it, what is answered later is a change since."""
        if not _POINT.fullmatch(point):
            raise ExportRefused(
                "bad_point",
                f"{point!r} is no name of a point",
                "Letters, digits, dot, dash and underscore; at most 64.",
            )
        with self._lock:
            self._go_on([*self._points, point], added=CONTEXT + point)
            failpoint.reach("serve.point-taken")

    def drop(self, point: str) -> None:
        """Forget a point; the others answer as before."""
        with self._lock:
            self._go_on([one for one in self._points if one != point], dropped=CONTEXT + point)

    def follow(self, disk: Disk) -> None:
        """The export was retargeted to `disk`: the file is about that from now on."""
        with self._lock:
            self._disk = disk.identity
            if self._path is not None:
                self._go_on(self._points)

    def _go_on(self, points: list[str], added: str | None = None, dropped: str | None = None) -> None:
        """The server goes on with another list of points, in a file of its own that replaces the present one.

        The server says `open` in the old file before it writes to the new one, so that a crash between the two, or
        before the name changes over, finds no file that claims too much.
        """
        if self._path is None:
            self._server.point(self._name, added, dropped)
        else:
            descriptor = self._fresh(self._path, points)
            try:
                self._server.point(self._name, added, dropped, descriptor)
            except TableError:
                os.close(descriptor)
                _replacement(self._path).unlink(missing_ok=True)
                raise
            failpoint.reach("serve.point-unnamed")
            _replace(self._path)
        self._points = points

    def _begin(self, path: Path, written: tuple[int, int]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(path, descriptor)
            kept = _read(path, descriptor)
            if kept is None:
                kept = _Kept(Head(size=self._size, disk=self._disk, points=[]), None, written)
            head = kept.head
            same = (head.size, head.disk, kept.written) == (self._size, self._disk, written)
            names = [CONTEXT + point for point in head.points]
            if same and kept.layers is not None:
                self._server.track(self._name, list(zip(names, kept.layers, strict=True)), descriptor, True)
                self._points = head.points
                return
            layers = [bytes(layer_size(self._size)) for _ in names]
            layers[-1:] = [b"\xff" * layer_size(self._size)] if layers else []
            fresh = self._fresh(path, head.points, layers)
            try:
                self._server.track(self._name, list(zip(names, layers, strict=True)), fresh, False)
            except BaseException:
                os.close(fresh)
                raise
            _replace(path)
            self._points = head.points
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)

    def _fresh(self, path: Path, points: list[str], layers: list[bytes] | None = None) -> int:
        """A locked descriptor of a new file beside `path` that says open; the server writes layers not given."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(_replacement(path), flags, 0o600)
        try:
            _lock(path, descriptor)
            text = msgspec.json.encode(Head(size=self._size, disk=self._disk, points=points))
            os.pwrite(descriptor, _HEAD.pack(b"OMATRACK", _VERSION, len(text), zlib.crc32(text)) + text, 0)
            os.pwrite(descriptor, _MARK.pack(b"OMASTATE", 0, 0, 0), _STATE)
            os.ftruncate(descriptor, _LAYERS + len(points) * layer_size(self._size))
            for number, layer in enumerate(layers or ()):
                os.pwrite(descriptor, layer, _LAYERS + number * len(layer))
            os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def layer_size(size: int) -> int:
    """Bytes of a layer of a disk of `size` bytes: a bit for each grain, in whole pages (layer_words).

    >>> layer_size(1 << 20), layer_size(1 << 40)
    (4096, 2101248)
    """
    return (size // GRAIN // 64 // 512 + 1) * _PAGE


def _read(path: Path, descriptor: int) -> _Kept | None:
    """What the file holds; None if it is new."""
    page = os.pread(descriptor, _PAGE, 0)
    if not page:
        return None
    advice = "Move it away to start without points, or name another file."
    if len(page) < _HEAD.size or not page.startswith(b"OMATRACK"):
        raise TrackingUnusable(path, "it keeps no changes of a disk", advice)
    _, version, length, checksum = _HEAD.unpack_from(page)
    if version > _VERSION:
        raise TrackingUnusable(path, f"a newer release wrote it (version {version})", "Start that release.")
    text = page[_HEAD.size : _HEAD.size + length]
    if zlib.crc32(text) != checksum:
        raise TrackingUnusable(path, "its head is damaged", advice)
    head = msgspec.json.decode(text, type=Head)
    mark = os.pread(descriptor, _MARK.size, _STATE)
    magic, closed, *written = _MARK.unpack(mark) if len(mark) == _MARK.size else (b"", 0, 0, 0)
    size = layer_size(head.size)
    layers = [os.pread(descriptor, size, _LAYERS + number * size) for number in range(len(head.points))]
    whole = magic == b"OMASTATE" and closed == 1 and all(len(layer) == size for layer in layers)
    return _Kept(head, layers if whole else None, (written[0], written[1]))


def _lock(path: Path, descriptor: int) -> None:
    """One server a file; the lock goes with the descriptor (flock(2))."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TrackingUnusable(path, "another server keeps it", "Give each export a file of its own.") from None


def _replacement(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _replace(path: Path) -> None:
    """The new file takes the name, on stable storage when this returns."""
    _replacement(path).rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
