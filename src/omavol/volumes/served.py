"""The NBD server's table of exports as the daemon reaches it: the control socket, and what its refusals mean here."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from omavol.schema import control
from omavol.volumes.errors import ServerAway, VolumeError

__all__ = ["ControlSocket", "ServedTable", "ServerRefused", "uris_of"]

ANSWER_TIMEOUT = 15.0
REMOVE_TIMEOUT = 600.0  # a flush of many dirty GiB
UNKNOWN = "unknown_export"


class ServerRefused(VolumeError):
    """The server said no; `reason` is its own code."""

    def __init__(self, command: str, refused: control.Refused) -> None:
        super().__init__(502, "server_refused", f"omavol serve refused to {command}: {refused.detail}")
        self.reason = refused.code


class ServedTable(Protocol):
    """Calls block and may come from any thread. All raise ServerAway when there is no answer."""

    def add(self, name: str, size: int, descriptor: int, description: str) -> control.Done:
        """Serve `descriptor`, which stays the caller's to close."""

    def remove(self, name: str) -> control.Done | None:
        """End connections, flush, close; the counters as they stood. None: it was not served."""

    def listing(self) -> control.Listing:
        """Every export with its counters, and the server's incarnation."""


class ControlSocket:
    """`ServedTable` over the control socket at `path`; a connection a call, so that none can be stale."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, size: int, descriptor: int, description: str) -> control.Done:
        command = control.Add(name=name, size=size, description=description)
        return self._done(f"add export {name}", self._exchange(command, [descriptor]))

    def remove(self, name: str) -> control.Done | None:
        answer = self._exchange(control.Remove(name=name), timeout=REMOVE_TIMEOUT)
        if isinstance(answer, control.Refused) and answer.code == UNKNOWN:
            return None
        return self._done(f"remove export {name}", answer)

    def listing(self) -> control.Listing:
        answer = self._exchange(control.ListExports())
        if isinstance(answer, control.Refused):
            raise ServerRefused("list its exports", answer)
        if not isinstance(answer, control.Listing):
            raise ServerAway(f"omavol serve at {self.path} answered something else")
        return answer

    def _done(self, command: str, answer: control.Answer) -> control.Done:
        if isinstance(answer, control.Refused):
            raise ServerRefused(command, answer)
        if not isinstance(answer, control.Done):
            raise ServerAway(f"omavol serve at {self.path} answered something else")
        return answer

    def _exchange(
        self, command: control.Command, descriptors: list[int] | None = None, timeout: float = ANSWER_TIMEOUT
    ) -> control.Answer:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as peer:
                peer.settimeout(timeout)
                peer.connect(os.fspath(self.path))
                socket.send_fds(peer, [msgspec.json.encode(command)], descriptors or [])
                packet = peer.recv(control.MESSAGE_LIMIT)
        except OSError as error:
            raise ServerAway(f"omavol serve at {self.path} does not answer: {error.strerror or error}") from error
        if not packet:
            raise ServerAway(f"omavol serve at {self.path} hung up")
        try:
            answer: control.Answer = msgspec.json.decode(packet, type=control.Answer)
        except msgspec.DecodeError as error:
            raise ServerAway(f"omavol serve at {self.path} answered nonsense: {error}") from error
        return answer


def uris_of(listeners: list[str], export_name: str) -> list[str]:
    """The NBD URIs of an export, unix sockets first: they need no network and cost less.

    >>> uris_of(["nbd://127.0.0.1:10809", "nbd+unix:///?socket=/run/s"], "abc")
    ['nbd+unix:///abc?socket=/run/s', 'nbd://127.0.0.1:10809/abc']
    """
    uris = []
    for listener in sorted(listeners, key=lambda uri: not uri.startswith(("nbd+unix:", "nbds+unix:"))):
        parts = urlsplit(listener)
        query = f"?{parts.query}" if parts.query else ""
        uris.append(f"{parts.scheme}://{parts.netloc}/{export_name}{query}")
    return uris
