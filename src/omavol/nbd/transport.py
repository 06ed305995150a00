"""A connected stream socket on which nothing waits without a limit (C25)."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omavol._channel import TlsFailed
from omavol.nbd.errors import ConnectFailed, Disconnected, NbdError, TimedOut
from omavol.nbd.uri import Uri

if TYPE_CHECKING:
    from omavol._channel import SecureChannel
    from omavol.nbd.tls import SecureSocket

__all__ = ["Transport"]


class Transport:
    """Sends and receives until a deadline; every failure is an NbdError that names the server.

    One thread at a time. A call's `deadline` is a time.monotonic() value, from `within()`.
    """

    def __init__(self, connected: socket.socket, place: str, timeout: float) -> None:
        self.socket: socket.socket | SecureSocket = connected
        self.place = place
        self.timeout = timeout

    @classmethod
    def connect(cls, uri: Uri, timeout: float) -> Transport:
        """Connect to the URI's server within `timeout` seconds."""
        try:
            connected = _connected(uri, timeout)
        except TimeoutError as error:
            raise TimedOut(f"{uri.place}: no connection within {timeout:g} s") from error
        except OSError as error:
            raise ConnectFailed(
                f"cannot connect to {uri.place}: {error.strerror or error}",
                "Is the server running there, and may this user reach it?",
                errno=error.errno,
            ) from error
        except ValueError as error:  # what no resolver takes: a label of 64 letters, a NUL
            raise ConnectFailed(f"{uri.host!r} is no name of a host") from error
        return cls(connected, uri.place, timeout)

    def within(self, seconds: float | None = None) -> float:
        """The deadline of something that begins now."""
        return time.monotonic() + (self.timeout if seconds is None else seconds)

    def send(self, data: bytes | memoryview, deadline: float) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            self._limit(deadline, "taking a request")
            try:
                view = view[self.socket.send(view) :]
            except (OSError, TlsFailed) as error:
                raise self._failed(error, "taking a request") from error

    def receive(self, limit: int, deadline: float) -> bytes:
        """Some bytes, at most `limit`; never none."""
        self._limit(deadline, "an answer")
        try:
            data = self.socket.recv(limit)
        except (OSError, TlsFailed) as error:
            raise self._failed(error, "an answer") from error
        if not data:
            raise Disconnected(f"{self.place}: the server closed the connection")
        return data

    def receive_some(self, view: memoryview, deadline: float) -> int:
        """Some bytes into the view, from its start; how many, never none."""
        self._limit(deadline, "an answer")
        return self.receive_now(view)

    def send_some(self, views: Sequence[memoryview], deadline: float) -> int:
        """Some of the views, in order; how many bytes."""
        self._limit(deadline, "taking a request")
        return self.send_now(views)

    def receive_now(self, view: memoryview) -> int:
        """As receive_some, as the socket is: BlockingIOError where it is non-blocking and has nothing."""
        try:
            count = self.socket.recv_into(view)
        except BlockingIOError:
            raise
        except (OSError, TlsFailed) as error:
            raise self._failed(error, "an answer") from error
        if not count:
            raise Disconnected(f"{self.place}: the server closed the connection")
        return count

    def send_now(self, views: Sequence[memoryview]) -> int:
        """As send_some, as the socket is: BlockingIOError where it is non-blocking and full."""
        try:
            return self.socket.sendmsg(views)
        except BlockingIOError:
            raise
        except (OSError, TlsFailed) as error:
            raise self._failed(error, "taking a request") from error

    def secure(self, uri: Uri, deadline: float) -> None:
        """Begin TLS: whatever comes next is its handshake (T20). TlsUnavailable ends the connection (T21)."""
        from omavol.nbd.tls import secure  # which a plain connection does not need

        self.socket = secure(self.socket, uri, max(0.0, deadline - time.monotonic()))

    def widen(self, size: int) -> None:
        """Ask for a send buffer of `size` bytes; a system that does not grant it is no failure."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.socket.fileno())) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    @property
    def channel(self) -> SecureChannel | None:
        """TLS of this connection, for a loop of the extension modules; None: it is plain."""
        return None if isinstance(self.socket, socket.socket) else self.socket.channel

    def close(self) -> None:
        self.socket.close()

    def _limit(self, deadline: float, what: str) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimedOut(f"{self.place}: waited too long for {what}")
        self.socket.settimeout(remaining)

    def _failed(self, error: OSError | TlsFailed, what: str) -> NbdError:
        if isinstance(error, TlsFailed):
            return Disconnected(f"{self.place}: TLS ended the connection: {error}")
        if isinstance(error, TimeoutError):
            return TimedOut(f"{self.place}: waited too long for {what}")
        return Disconnected(f"{self.place}: the connection failed: {error.strerror or error}")


def _connected(uri: Uri, timeout: float) -> socket.socket:
    """A connected socket of the URI's family; OSError, or ValueError for a host that no resolver takes."""
    if uri.socket is None and uri.cid is None:
        connected = socket.create_connection((uri.host, uri.port), timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected
    family = socket.AF_UNIX if uri.socket is not None else socket.AF_VSOCK
    connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connected.settimeout(timeout)
        connected.connect(os.fsencode(uri.socket) if uri.socket is not None else (uri.cid, uri.port))
    except BaseException:
        connected.close()
        raise
    return connected
