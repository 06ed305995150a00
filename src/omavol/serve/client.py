"""The caller's end of the control socket: one command, one answer, blocking, with a limit on the wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import msgspec

from omavol.schema.control import (
    MESSAGE_LIMIT,
    Add,
    AddPoint,
    Answer,
    Command,
    Done,
    DropPoint,
    Hello,
    ListExports,
    Listing,
    Refused,
    Remove,
    Retarget,
    SetFilters,
)
from omavol.serve.errors import ControlFailed, ControlRefused

__all__ = ["ControlClient"]

DRAIN_TIMEOUT = 600.0  # a sync of many dirty GiB


class ControlClient:
    """A connection to `omavol serve --control`; a context manager. One thread at a time.

    Every call raises ControlRefused (`code`: unknown_export, export_exists, export_busy, size_differs, too_small,
    not_a_disk, bad_descriptor, bad_name, bad_filter, bad_request, point_exists, unknown_point, too_many_points,
    bad_point, tracking_failed, stopping) or ControlFailed when there is no answer; after ControlFailed the client is
    closed. `timeout` is seconds for an answer; `drain` where clients are waited for.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 15.0, drain: float = DRAIN_TIMEOUT) -> None:
        self._path = os.fspath(path)
        self._timeout = timeout
        self._drain = drain
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(self._path)
        except OSError as error:
            self._socket.close()
            raise ControlFailed(
                f"no server at {self._path}: {error.strerror or error}", "Start omavol serve --control on it."
            ) from error

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def hello(self) -> Listing:
        """Incarnation, version and listeners."""
        return self._listing(Hello())

    def list(self) -> Listing:
        """The same with every export and its counters."""
        return self._listing(ListExports())

    def add(self, name: str, descriptor: int, size: int, *, read_only: bool = False, description: str = "") -> Done:
        """Serve a copy of `descriptor`, which stays the caller's to close."""
        command = Add(name=name, size=size, read_only=read_only, description=description)
        return self._done(command, [descriptor], self._timeout)

    def retarget(self, name: str, descriptor: int, size: int, *, same_content: bool = False) -> Done:
        """Serve another descriptor under the name; answered when the old one is synced and closed."""
        command = Retarget(name=name, size=size, same_content=same_content)
        return self._done(command, [descriptor], self._drain)

    def add_point(self, name: str, point: str) -> Done:
        """Take a point of change tracking: what is answered so far is before it."""
        return self._done(AddPoint(name=name, point=point), [], self._drain)

    def drop_point(self, name: str, point: str) -> Done:
        return self._done(DropPoint(name=name, point=point), [], self._drain)

    def remove(self, name: str) -> Done:
        """End the export and its clients; `export.failed` tells a sync that failed."""
        return self._done(Remove(name=name), [], self._drain)

    def set_filters(self, name: str, filters: Sequence[str]) -> Done:
        """Replace the filters of an export (omavol.serve.filters); with none the ways are free again."""
        return self._done(SetFilters(name=name, filters=list(filters)), [], self._timeout)

    def _listing(self, command: Command) -> Listing:
        answer = self._ask(command, [], self._timeout)
        if not isinstance(answer, Listing):
            raise ControlFailed(f"the server at {self._path} answered something else")
        return answer

    def _done(self, command: Command, descriptors: Sequence[int], timeout: float) -> Done:
        answer = self._ask(command, descriptors, timeout)
        if not isinstance(answer, Done):
            raise ControlFailed(f"the server at {self._path} answered something else")
        return answer

    def _ask(self, command: Command, descriptors: Sequence[int], timeout: float) -> Answer:
        try:
            self._socket.settimeout(timeout)
            socket.send_fds(self._socket, [msgspec.json.encode(command)], descriptors)
            packet = self._socket.recv(MESSAGE_LIMIT)
            answer: Answer = msgspec.json.decode(packet, type=Answer)
        except (OSError, msgspec.DecodeError) as error:
            self.close()  # an answer that comes late would be taken for the next one's
            raise ControlFailed(f"no answer from the server at {self._path}: {error}") from error
        if isinstance(answer, Refused):
            raise ControlRefused(answer.code, answer.detail)
        return answer
