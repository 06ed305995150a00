"""Sockets that whoever started the server hands in: listening ones (sd_listen_fds(3)), or one that is connected."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from omavol.nbd.uri import Uri
from omavol.serve.errors import AddressUnusable
from omavol.serve.listeners import Listener

__all__ = ["activated", "connected"]

FIRST = 3  # SD_LISTEN_FDS_START


def activated(environment: MutableMapping[str, str]) -> list[Listener]:
    """The listeners handed in, and the variables gone, so that no child takes them for its own; none: an empty list.

    AddressUnusable where what was handed in is no listening stream socket.
    """
    count = environment.pop("LISTEN_FDS", "")
    meant = environment.pop("LISTEN_PID", "") == str(os.getpid())
    environment.pop("LISTEN_FDNAMES", None)
    if not (meant and count.isascii() and count.isdigit()):
        return []
    return [_listener(descriptor) for descriptor in range(FIRST, FIRST + int(count))]


def connected(descriptor: int) -> int:
    """A copy of a descriptor whose socket is connected, for the table; AddressUnusable for anything else."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as there:
            if there.type == socket.SOCK_STREAM and not there.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return there.detach()
    except OSError:
        pass
    raise AddressUnusable(
        "standard input is no connected socket", "--single is for inetd and for clients that start their server."
    )


def _listener(descriptor: int) -> Listener:
    """Take over a listening socket, whose file (if it is unix) stays its maker's to remove."""
    try:
        there = socket.socket(fileno=descriptor)
        listening = there.type == socket.SOCK_STREAM and there.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise AddressUnusable(f"descriptor {descriptor}, handed in by LISTEN_FDS: {error.strerror}") from error
    if not listening:
        raise AddressUnusable(f"descriptor {descriptor}, handed in by LISTEN_FDS, is no listening stream socket")
    there.setblocking(False)
    os.set_inheritable(descriptor, False)
    return Listener(there, _uri(there), borrowed=True)


def _uri(there: socket.socket) -> Uri:
    name = there.getsockname()
    if there.family == socket.AF_UNIX:
        return Uri(socket=os.fsdecode(name) if name else "unnamed")
    if there.family == socket.AF_VSOCK:
        return Uri(cid=name[0], port=name[1])
    return Uri(host=str(name[0]), port=int(name[1]))
