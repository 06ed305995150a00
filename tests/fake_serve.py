"""A small real control server: seqpacket, passed descriptors, counters; a test writes as an NBD client would."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from omavol.schema import control


class FakeServe:
    """Speaks schema/control.py at `path`. `restart` is a crash: exports are gone, the incarnation is another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.exports: dict[str, control.ServedExport] = {}
        self._files: dict[str, int] = {}
        self._guard = threading.Lock()
        self._peers: set[socket.socket] = set()
        self.refuse_adds_with: control.Refused | None = None
        self.before_listing: Callable[[], object] = lambda: None  # called in the server's thread
        self.start()

    def start(self) -> None:
        self.incarnation = secrets.token_hex(8)
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.fspath(self.path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._guard:
            for peer in self._peers:
                peer.shutdown(socket.SHUT_RDWR)
            for name in list(self.exports):
                self._drop(name)

    def restart(self) -> None:
        self.stop()
        self.start()

    def write(self, name: str, offset: int, data: bytes) -> None:
        """What a client's WRITE does: bytes into the file, a counter up."""
        with self._guard:
            os.pwrite(self._files[name], data, offset)
            self.exports[name].requests += 1
            self.exports[name].changes += 1
            self.exports[name].bytes_written += len(data)

    def zero(self, name: str, offset: int, length: int) -> None:
        """What a client's WRITE_ZEROES does: no payload, so no byte is counted as written."""
        with self._guard:
            os.pwrite(self._files[name], bytes(length), offset)
            self.exports[name].requests += 1
            self.exports[name].changes += 1

    def flush(self, name: str) -> None:
        with self._guard:
            self.exports[name].requests += 1
            self.exports[name].flushes += 1

    def add_by_hand(self, name: str, path: Path) -> None:
        with self._guard:
            self._files[name] = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self.exports[name] = served(name, 0)

    def take_away(self, name: str) -> None:
        """Something else than the daemon removed it."""
        with self._guard:
            self._drop(name)

    def _drop(self, name: str) -> control.ServedExport:
        os.close(self._files.pop(name))
        return self.exports.pop(name)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with self._guard:
                self._peers.add(peer)
            threading.Thread(target=self._converse, args=(peer,), daemon=True).start()

    def _converse(self, peer: socket.socket) -> None:
        try:
            while True:
                packet, descriptors, _, _ = socket.recv_fds(peer, control.MESSAGE_LIMIT, 4)
                if not packet:
                    return
                if b'"list"' in packet:
                    self.before_listing()
                with self._guard:
                    answer = self._answer(msgspec.json.decode(packet, type=control.Command), descriptors)
                peer.send(msgspec.json.encode(answer))
        except OSError:
            pass
        finally:
            with self._guard:
                self._peers.discard(peer)
            peer.close()

    def _answer(self, command: control.Command, descriptors: list[int]) -> control.Answer:
        match command:
            case control.Hello():
                return self._listing([])
            case control.ListExports():
                return self._listing(list(self.exports.values()))
            case control.Add(name=name, size=size):
                (descriptor,) = descriptors
                if self.refuse_adds_with or name in self.exports:
                    os.close(descriptor)
                    return self.refuse_adds_with or control.Refused(code="export_exists", detail=name)
                self._files[name] = descriptor
                self.exports[name] = served(name, size)
                return control.Done(incarnation=self.incarnation, export=self.exports[name])
            case control.Remove(name=name):
                if name not in self.exports:
                    return control.Refused(code="unknown_export", detail=name)
                os.fsync(self._files[name])
                return control.Done(incarnation=self.incarnation, export=self._drop(name))
            case _:
                return control.Refused(code="unknown_command", detail=type(command).__name__)

    def _listing(self, exports: list[control.ServedExport]) -> control.Listing:
        return control.Listing(
            incarnation=self.incarnation,
            version="fake",
            listeners=["nbd://127.0.0.1:10809", f"nbd+unix:///?socket={self.path}.nbd"],
            exports=exports,
        )


def served(name: str, size: int) -> control.ServedExport:
    return control.ServedExport(
        name=name,
        size=size,
        read_only=False,
        generation=1,
        connections=0,
        requests=0,
        changes=0,
        bytes_read=0,
        bytes_written=0,
        flushes=0,
        stalled_clients=0,
        failed=0,
    )
