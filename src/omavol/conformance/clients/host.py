"""Listens for the client under judgement: a thread a connection, all of them ended together."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from omavol.conformance.clients.honest import Handshake, World
from omavol.conformance.clients.seen import Seen
from omavol.nbd.uri import Uri

__all__ = ["Host", "Make"]

_LAST_WORDS = 1.0  # seconds
Make = Callable[[socket.socket, World, Seen, float], Handshake]


class Host:
    """A server on a unix socket, or on a free port of 127.0.0.1. `limit`: seconds any read of the client may take."""

    def __init__(self, make: Make, world: World, *, limit: float, tcp: bool = False) -> None:
        self.world = world
        self.seen = Seen()
        self._make = make
        self._limit = limit
        self._folder = Path(tempfile.mkdtemp(prefix="omavol-conformance-"))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopping = False
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.uri = Uri("127.0.0.1", self._listener.getsockname()[1], export=world.offers.names[0])
        else:
            path = self._folder / "nbd.sock"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen(64)
            self.uri = Uri(socket=str(path), export=world.offers.names[0])

    def __enter__(self) -> Host:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The client has ended: what it sent last is heard, then everything is closed."""
        self._stopping = True
        self._shut(self._listener)
        self._acceptor.join(self._limit)
        for thread in self._threads:
            thread.join(_LAST_WORDS)
        for connected in self._sockets:
            self._shut(connected)
        for thread in self._threads:
            thread.join(self._limit)
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _shut(each: socket.socket) -> None:
        with suppress(OSError):  # closed already
            each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            if self._stopping:
                connected.close()
                return
            served = self._make(connected, self.world, self.seen, self._limit)
            thread = threading.Thread(target=served.run, daemon=True)
            self._sockets.append(connected)
            self._threads.append(thread)
            thread.start()
