"""The control socket: the daemon hands in descriptors and takes exports away, one message a packet (schema.control)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import threading

import msgspec

from omavol import __version__, failpoint
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
    TlsCounts,
)
from omavol.serve.errors import ServeError
from omavol.serve.listeners import bind_unix
from omavol.serve.table import ExportTable
from omavol.serve.tls import Mode

__all__ = ["ControlServer"]

MOST_PEERS = 32
MOST_DESCRIPTORS = 4  # what a packet may carry before the kernel drops the rest: one is ever right
_TAKES_DESCRIPTOR = (Add, Retarget)


class ControlServer:
    """Answers on a seqpacket socket of mode 0600; a thread a peer, because a removal waits for clients to drain.

    `stop` ends the peers and joins every thread. Peers are root, or the user who started the server.
    """

    def __init__(self, path: str, table: ExportTable, incarnation: str) -> None:
        self.path = path
        self._table = table
        self._incarnation = incarnation
        self._users = {0, os.geteuid()}
        self._listener = bind_unix(path, socket.SOCK_SEQPACKET, mode=0o600)
        self._listener.setblocking(True)
        self._guard = threading.Lock()
        self._peers: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self._accept, name="control")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Hang up on every peer; a command under way is finished first, its answer may get lost."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._guard:
            peers = list(self._peers.items())
        for peer, _ in peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for _, thread in peers:
            thread.join()
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 the path is a string all along

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with self._guard:
                if len(self._peers) >= MOST_PEERS or self._user_of(peer) not in self._users:
                    peer.close()
                    continue
                thread = threading.Thread(target=self._converse, args=(peer,), name="control peer")
                self._peers[peer] = thread
                thread.start()

    @staticmethod
    def _user_of(peer: socket.socket) -> int:
        """The user id at the other end (unix(7), SO_PEERCRED)."""
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])

    def _converse(self, peer: socket.socket) -> None:
        """Answer one peer until it hangs up."""
        try:
            while True:
                packet, descriptors, flags, _ = socket.recv_fds(
                    peer, MESSAGE_LIMIT, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
                if not packet and not descriptors:
                    return
                answer = self._answer(packet, descriptors, flags)
                peer.send(msgspec.json.encode(answer))
        except OSError:
            return
        finally:
            with self._guard:
                self._peers.pop(peer, None)
            peer.close()

    def _answer(self, packet: bytes, descriptors: list[int], flags: int) -> Answer:
        """Do one command. Descriptors that no export took are closed, whatever happens."""
        held = list(descriptors)
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                return Refused(code="too_long", detail="the packet is longer than a command may be")
            command: Command = msgspec.json.decode(packet, type=Command)
            wanted = 1 if isinstance(command, _TAKES_DESCRIPTOR) else 0
            if len(descriptors) != wanted:
                return Refused(code="bad_request", detail=f"{len(descriptors)} descriptors came, {wanted} is right")
            answer = self._do(command, *descriptors)
            held.clear()
            return answer
        except msgspec.DecodeError as error:
            return Refused(code="bad_request", detail=str(error))
        except ServeError as error:
            return Refused(code=error.code, detail=error.detail)
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _do(self, command: Command, descriptor: int = -1) -> Answer:
        table = self._table
        match command:
            case Hello():
                return self._listing()
            case ListExports():
                return msgspec.structs.replace(self._listing(), exports=table.list(), tls=self._tls())
            case Add():
                export = table.add(
                    command.name,
                    descriptor,
                    command.size,
                    read_only=command.read_only,
                    description=command.description,
                )
                failpoint.reach("serve.export-added")
            case Retarget():
                export = table.retarget(command.name, descriptor, command.size, same_content=command.same_content)
            case AddPoint():
                export = table.add_point(command.name, command.point)
            case DropPoint():
                export = table.drop_point(command.name, command.point)
            case Remove():
                failpoint.reach("serve.export-removing")
                export = table.remove(command.name)
            case SetFilters():
                export = table.set_filters(command.name, command.filters)
        return Done(incarnation=self._incarnation, export=export)

    def _tls(self) -> TlsCounts | None:
        return None if self._table.tls.mode == Mode.OFF else self._table.tls_counts

    def _listing(self) -> Listing:
        return Listing(
            incarnation=self._incarnation,
            version=__version__,
            listeners=[str(listener.uri) for listener in self._table.listeners],
            connections=self._table.connections,
            turned_away=self._table.turned_away,
            limits=dataclasses.asdict(self._table.limits),
        )
