"""The NBD server's table of exports as the daemon reaches it: the control socket, and what its refusals mean here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from omavol.schema.control import Done, Listing
from omavol.serve.client import ControlClient
from omavol.serve.errors import ControlFailed, ControlRefused
from omavol.volumes.errors import ServerAway, VolumeError

__all__ = ["ControlSocket", "ServedTable", "ServerRefused", "uris_of"]

UNKNOWN = "unknown_export"
STOPPING = "stopping"
PAUSE = "pause"  # omavol.serve.filters


class ServerRefused(VolumeError):
    """The server said no; `reason` is its own code."""

    def __init__(self, refused: ControlRefused) -> None:
        super().__init__(502, "server_refused", f"omavol serve refused: {refused.detail}")
        self.reason = refused.code


class ServedTable(Protocol):
    """Calls block and may come from any thread. All raise ServerAway when there is no answer."""

    def add(self, name: str, size: int, descriptor: int, description: str) -> Done:
        """Serve `descriptor`, which stays the caller's to close."""

    def remove(self, name: str) -> Done | None:
        """End connections, flush, close; the counters as they stood. None: it was not served."""

    def retarget(self, name: str, size: int, descriptor: int, *, same_content: bool) -> Done:
        """Serve `name` from another descriptor, which stays the caller's to close; no request is lost."""

    def held(self, name: str, path: Path, size: int) -> AbstractContextManager[None]:
        """Inside the block no request of the export is under way: those that come wait."""

    def release(self) -> list[str]:
        """Let go whatever a crash inside such a block left waiting; the names of those exports."""

    def listing(self) -> Listing:
        """Every export with its counters, and the server's incarnation."""


class ControlSocket:
    """`ServedTable` over the control socket at `path`; a connection a call, so that none can be stale."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, size: int, descriptor: int, description: str) -> Done:
        with self._asking() as server:
            return server.add(name, descriptor, size, description=description)

    def remove(self, name: str) -> Done | None:
        try:
            with self._asking() as server:
                return server.remove(name)
        except ServerRefused as refused:
            if refused.reason == UNKNOWN:
                return None
            raise

    def retarget(self, name: str, size: int, descriptor: int, *, same_content: bool) -> Done:
        with self._asking() as server:
            return server.retarget(name, descriptor, size, same_content=same_content)

    @contextmanager
    def held(self, name: str, path: Path, size: int) -> Iterator[None]:
        """A pause before the store, then a retarget to the same device, which returns when no request is in hand."""
        filters = next((export.filters for export in self.listing().exports if export.name == name), [])
        kept = [each for each in filters if each != PAUSE]  # a crash may have left one
        self._filter(name, [*kept, PAUSE])
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self.retarget(name, size, descriptor, same_content=True)
            finally:
                os.close(descriptor)
            yield
        finally:
            self._filter(name, kept)

    def release(self) -> list[str]:
        found = [export for export in self.listing().exports if PAUSE in export.filters]
        for export in found:
            self._filter(export.name, [each for each in export.filters if each != PAUSE])
        return [export.name for export in found]

    def _filter(self, name: str, filters: list[str]) -> None:
        with self._asking() as server:
            server.set_filters(name, filters)

    def listing(self) -> Listing:
        with self._asking() as server:
            return server.list()

    @contextmanager
    def _asking(self) -> Iterator[ControlClient]:
        try:
            with ControlClient(self.path) as server:
                yield server
        except ControlRefused as error:
            if error.code == STOPPING:
                raise ServerAway(f"omavol serve at {self.path} is stopping") from error
            raise ServerRefused(error) from error
        except ControlFailed as error:
            raise ServerAway(f"omavol serve does not answer: {error.detail}") from error


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
