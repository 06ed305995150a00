"""What is served: files and descriptors become exports of the live table, checked before they are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omavol._fastio import Server, TableError
from omavol.nbd.uri import Security
from omavol.schema.control import ServedExport, TlsCounts
from omavol.schema.sizes import parse_size
from omavol.serve.errors import ExportRefused
from omavol.serve.filters import parse_all
from omavol.serve.limits import Limits
from omavol.serve.listeners import Listener
from omavol.serve.tls import Mode, Tls
from omavol.serve.tracking import Disk, Tracker

if TYPE_CHECKING:  # the stub's name for a shape; the compiled module gives plain dicts
    from omavol._fastio import Facts

__all__ = ["ExportTable", "disk_size", "null_size", "open_disk"]

NULL = -1  # the descriptor of a disk that reads as zeroes and drops what is written
_BLKROGET = 0x125E  # linux/fs.h


class ExportTable:
    """The server's table and its listeners. Any thread may call any method; `stop` is the last call."""

    def __init__(
        self, limits: Limits, *, hidden: bool = False, filters: Sequence[str] = (), tls: Tls | None = None
    ) -> None:
        """`hidden`: names are secrets, LIST is refused. `filters`: what every export begins with (BadFilter).

        TlsUnusable where `tls` cannot be had.
        """
        self.tls = tls or Tls()
        self._first_filters = list(filters)
        self._first_rows = parse_all(filters)
        self._filters: dict[str, list[str]] = {}  # of the exports that have others by now
        self._server = Server(
            workers=limits.workers,
            connections=limits.connections,
            client_connections=limits.client_connections,
            handshake=limits.handshake,
            hide_exports=hidden,
            tls=self.tls.load(),
            tls_required=self.tls.mode == Mode.REQUIRE,
        )
        self.limits = limits
        self._listeners: list[Listener] = []
        self._trackers: dict[str, Tracker] = {}
        self._tracking = threading.Lock()
        self._stop = threading.Lock()

    def start(self) -> None:
        """Start to serve whoever connects."""
        self._server.start()

    def listen(self, listener: Listener) -> None:
        """Accept from a listener; its socket is the server's from now on, its file is removed by `stop`."""
        if self.tls.mode == Mode.REQUIRE:
            listener = replace(listener, uri=listener.uri._replace(tls=Security()))
        self._listeners.append(listener)
        self._server.listen(listener.socket.detach())

    def adopt(self, descriptor: int) -> None:
        """Serve whoever is at the other end of a connected socket, which is the server's from now on."""
        self._server.adopt(descriptor)

    def tell_vacant(self, eventfd: int, *, after_any: bool = False) -> None:
        """Add 1 to an eventfd, the caller's, when the last client has left: one that entered an export, or any."""
        self._server.tell_vacant(eventfd, after_any)

    @property
    def listeners(self) -> list[Listener]:
        return list(self._listeners)

    def add_path(
        self,
        name: str,
        path: str,
        *,
        read_only: bool,
        description: str = "",
        track: str | None = None,
        direct: bool = False,
    ) -> ServedExport:
        """Open a regular file or block device and serve all of it; null:SIZE is a disk of zeroes that keeps nothing.

        `direct` goes past the page cache (O_DIRECT): clients are told the blocks in which they must ask.

        `track` is the file that keeps what changes since the points of the export (serve.tracking).
        """
        if path.startswith("null:"):
            return self._add(name, NULL, null_size(path), read_only, description, track)
        descriptor = open_disk(path, read_only=read_only, direct=direct)
        try:
            size = disk_size(descriptor, path)
            return self.add(name, descriptor, size, read_only=read_only, description=description, track=track)
        except BaseException:
            os.close(descriptor)
            raise

    def add(
        self,
        name: str,
        descriptor: int,
        size: int,
        *,
        read_only: bool = False,
        description: str = "",
        track: str | None = None,
    ) -> ServedExport:
        """Serve the first `size` bytes of a descriptor, which is the table's unless this raises ServeError."""
        _check_access(descriptor, read_only)
        return self._add(name, descriptor, size, read_only, description, track)

    def _add(
        self, name: str, descriptor: int, size: int, read_only: bool, description: str, track: str | None
    ) -> ServedExport:
        disk = Disk.of(descriptor)
        kept = os.dup(descriptor) if track and descriptor >= 0 else -1  # the caller's own, should tracking be refused
        try:
            row = self._server.add(
                name, kept if kept >= 0 else descriptor, size, read_only, description, self._first_rows
            )
        except TableError as error:
            if kept >= 0:
                os.close(kept)
            raise _refused(name, error) from error
        if track:
            try:
                with self._tracking:
                    self._trackers[name] = Tracker(self._server, name, size, disk, track)
            except BaseException:
                self._server.remove(name)
                raise
            if kept >= 0:
                os.close(descriptor)
        return self._served(row)

    def add_point(self, name: str, point: str) -> ServedExport:
        """Take a point of change tracking: x-oma:changed-since:`point` tells what changed since this instant.

        What was answered before is before it. Like a retarget it waits for the requests in hand, and a client that
        takes and gives nothing for 2 s is cut off. Without a tracking file points last as long as this server.
        """
        with _refusing(name):
            with self._tracking:
                if name not in self._trackers:
                    self._trackers[name] = Tracker(self._server, name, self._named(name).size, Disk.of(NULL))
                self._trackers[name].add(point)
            return self._named(name)

    def drop_point(self, name: str, point: str) -> ServedExport:
        """Forget a point; the others tell what they told before."""
        with _refusing(name):
            with self._tracking:
                if name not in self._trackers:
                    raise ExportRefused("unknown_point", f"export {self._named(name).name!r} has no points")
                self._trackers[name].drop(point)
            return self._named(name)

    def _named(self, name: str) -> ServedExport:
        row = next((row for row in self.list() if row.name == name), None)
        if row is None:
            raise ExportRefused("unknown_export", f"export {name!r}: no export has that name")
        return row

    def retarget(self, name: str, descriptor: int, size: int, *, same_content: bool = False) -> ServedExport:
        """Serve another descriptor under the name; returns when the old one is synced and closed.

        Unless it is the `same_content`, everything has changed since each of the export's points.
        """
        disk = Disk.of(descriptor)
        row = next((row for row in self._server.list() if row["name"] == name), None)
        if row is not None:
            _check_access(descriptor, row["read_only"])
        with _refusing(name):
            moved = self._server.retarget(name, descriptor, size, same_content)
        with self._tracking, contextlib.suppress(TableError, OSError):
            # The disk has changed over all the same; a file about the old one will say that everything has changed.
            if name in self._trackers:
                self._trackers[name].follow(disk)
        return self._served(moved)

    def remove(self, name: str) -> ServedExport:
        """End the export and its clients; returns when the descriptor is synced and closed."""
        with _refusing(name):
            last = self._served(self._server.remove(name))
        self._filters.pop(name, None)
        with self._tracking:
            self._trackers.pop(name, None)
        return last

    def set_filters(self, name: str, filters: Sequence[str]) -> ServedExport:
        """Put other filters before an export's store, at once; those that wait in one pass the new ones from the first.

        BadFilter if one cannot be read, ExportRefused if there is no such export; then nothing has changed.
        """
        rows = parse_all(filters)
        with _refusing(name):
            facts = self._server.set_filters(name, rows)
        self._filters[name] = [*filters]
        return self._served(facts)

    def list(self) -> list[ServedExport]:
        """Every export as it stands, in the order they were added."""
        return [self._served(row) for row in self._server.list()]

    def _served(self, facts: Facts) -> ServedExport:
        tracker = self._trackers.get(facts["name"])
        return ServedExport(
            **facts,
            filters=self._filters.get(facts["name"], self._first_filters),
            points=tracker.points if tracker else [],
        )

    @property
    def connections(self) -> int:
        """Clients at present, in the handshake or past it."""
        return self._server.connections

    @property
    def tls_counts(self) -> TlsCounts:
        """What became of TLS since the start."""
        sessions, in_kernel, failures = self._server.tls_counts
        return TlsCounts(sessions=sessions, in_kernel=in_kernel, failures=failures)

    @property
    def turned_away(self) -> int:
        """Connections closed at once because there were too many."""
        return self._server.refused

    def stop(self) -> int:
        """End connections, sync, close; 0, or the errno of a sync that failed. Within 5 s whatever clients do."""
        with self._stop:
            for listener in self._listeners:
                listener.close()
            return self._server.stop()


def open_disk(path: str, *, read_only: bool, direct: bool = False) -> int:
    """A descriptor of the file or device at `path`, the caller's to close; ExportRefused where it cannot be had."""
    way = (os.O_RDONLY if read_only else os.O_RDWR) | (os.O_DIRECT if direct else 0)
    try:
        return os.open(path, way | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            detail, advice = f"cannot open {path}: its file system has no direct I/O", "Serve it without --direct."
            raise ExportRefused("unusable", detail, advice) from error
        advice = "" if read_only else _read_only_advice(path)
        raise ExportRefused("unusable", f"cannot open {path}: {error.strerror}", advice) from error


def disk_size(descriptor: int, path: str) -> int:
    """Bytes of a regular file or block device; ExportRefused for anything else."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise ExportRefused("not_a_disk", f"{path} is a directory", "Give the disk image inside it.")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ExportRefused("not_a_disk", f"{path} is neither a regular file nor a block device")
    return os.lseek(descriptor, 0, os.SEEK_END)


def null_size(text: str) -> int:
    """Bytes of null:SIZE, with K, M, G, T or P for powers of 1024.

    >>> null_size("null:1T")
    1099511627776
    """
    size = parse_size(text.removeprefix("null:"))
    if size is None:
        raise ExportRefused("unusable", f"{text} does not say how large the disk is", "Write null:SIZE, as null:64G.")
    return size


def _read_only_advice(path: str) -> str:
    if Path(path).is_dir():
        return "Give the disk image inside it."
    return "It can be read: try --read-only." if os.access(path, os.R_OK) else ""


def _check_access(descriptor: int, read_only: bool) -> None:
    """A descriptor must be able to do what its export promises; O_APPEND would put every write at the end."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    wanted = (os.O_RDONLY, os.O_RDWR) if read_only else (os.O_RDWR,)
    if flags & os.O_APPEND or flags & os.O_PATH or flags & os.O_ACCMODE not in wanted:
        how = "reading" if read_only else "reading and writing"
        raise ExportRefused("bad_descriptor", f"the descriptor is not open for {how} at any place")
    if not read_only and stat.S_ISBLK(os.fstat(descriptor).st_mode):
        told = fcntl.ioctl(descriptor, _BLKROGET, bytes(4))
        if any(told):  # root may open it for writing all the same, and finds out with the first write
            raise ExportRefused("read_only_device", "the device is read-only", "Serve it with --read-only.")


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What the live table, or the file of an export's points, does not take, as ExportRefused that names the export."""
    try:
        yield
    except TableError as error:
        raise _refused(name, error) from error
    except OSError as error:
        raise ExportRefused("tracking_failed", f"export {name!r}: {error.strerror}: {error.filename}") from error


def _refused(name: str, error: TableError) -> ExportRefused:
    return ExportRefused(error.code, f"export {name!r}: {error.detail}")
