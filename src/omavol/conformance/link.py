"""One connection to the server under test: bytes out, bytes in, every wait bounded, the last ones kept as evidence."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from omavol.conformance.verdict import Failed, Gone, Silent

__all__ = ["Link"]

MOST_KEPT = 256  # bytes of evidence
_WAITS = 10  # limits of one answer that a whole connection may take
_PIECE = 1 << 20


class Link:
    """A connected stream socket. One thread; `timeout` is seconds for one answer.

    What cannot be sent because the server has closed is no error yet: what it said before is still to be heard, and
    hearing ends in Gone.
    """

    def __init__(self, connect: Callable[[float], socket.socket], timeout: float) -> None:
        self.timeout = timeout
        self.deadline = time.monotonic() + _WAITS * timeout
        self.came = b""
        self._heard_since_said = False
        try:
            self.socket: socket.socket = connect(timeout)
        except TimeoutError as error:
            raise Silent("the connection was not accepted") from error
        except OSError as error:
            raise Gone(f"no connection: {error.strerror or error}") from error

    def close(self) -> None:
        self.socket.close()

    def say(self, *data: bytes) -> None:
        """Send all of it, if the server still takes it."""
        if self._heard_since_said:
            self.came, self._heard_since_said = b"", False
        self._limit("taking what is sent")
        try:
            self.socket.sendall(b"".join(data))
        except TimeoutError as error:
            raise Silent("it takes nothing more") from error
        except OSError:
            pass  # hear() says what came before the end

    def hear(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = bytearray()
        until = time.monotonic() + self.timeout
        while len(data) < size:
            piece = self._receive(min(size - len(data), _PIECE), until)
            if not piece:
                raise Gone("it closed the connection" if not data else "it closed the connection in mid-answer")
            data += piece
        return bytes(data)

    def ends(self) -> bool:
        """Whether the server closes now and says nothing before; False where it speaks, Silent where it waits."""
        return not self._receive(1, time.monotonic() + self.timeout)

    def must_end(self, expected: str) -> None:
        """Fail unless the server closes now, saying nothing before."""
        try:
            if not self.ends():
                raise Failed(expected, "an answer", self.came)
        except Silent:
            raise Failed(expected, f"nothing; it was still open after {self.timeout:g} s") from None

    def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        """Upgrade: what was sent from here on is TLS."""
        self._limit("the TLS handshake")
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname=name, suppress_ragged_eofs=False)
        except TimeoutError as error:
            raise Silent("it does not answer in the TLS handshake") from error
        except ssl.SSLError as error:
            raise Failed("a TLS handshake", f"the TLS handshake failed: {error.reason or error}") from error
        except OSError as error:
            raise Gone("it closed the connection in the TLS handshake") from error

    def _receive(self, most: int, until: float) -> bytes:
        """Some bytes; none once the server has closed."""
        remaining = min(until, self.deadline) - time.monotonic()
        if remaining <= 0:
            raise Silent("no answer")
        self.socket.settimeout(remaining)
        try:
            data = self.socket.recv(most)
        except TimeoutError as error:
            raise Silent("no answer") from error
        except OSError:
            data = b""
        self.came = (self.came + data)[:MOST_KEPT]
        self._heard_since_said = True
        return data

    def _limit(self, what: str) -> None:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise Silent(f"waited too long for {what}")
        self.socket.settimeout(min(self.timeout, remaining))
