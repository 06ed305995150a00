"""Listening sockets: unix, TCP and vsock, bound before anything is served, each with its NBD URI."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from omavol.nbd.uri import MAXIMUM_SOCKET_PATH, Uri
from omavol.nbd.wire import DEFAULT_PORT
from omavol.serve.errors import AddressUnusable, BadAddress

__all__ = ["Listener", "TcpAddress", "bind_unix", "listen_tcp", "listen_unix", "listen_vsock"]

BACKLOG = 1024
VSOCK_LOOPBACK = 1  # VMADDR_CID_LOCAL


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port, 0: one of the kernel's choice.

    >>> TcpAddress.parse("[::1]:0"), TcpAddress.parse("localhost")
    (TcpAddress(host='::1', port=0), TcpAddress(host='localhost', port=10809))
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> TcpAddress:
        """Read HOST, HOST:PORT or [V6]:PORT; BadAddress says what is wrong with it."""
        host, colon, port = text.rpartition(":")
        if not colon or (text.endswith("]") and text.startswith("[")):
            host, port = text, str(DEFAULT_PORT)
        bare = host.removeprefix("[").removesuffix("]")
        if not bare or (":" in bare and bare == host):
            raise BadAddress(f"{text!r} is not HOST:PORT", "An IPv6 address stands in brackets: [::1]:10809.")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise BadAddress(f"the port of {text!r} is not a number from 0 to 65535")
        return cls(bare, int(port))


@dataclass(frozen=True)
class Listener:
    """A bound, listening, nonblocking socket and where it is reached."""

    socket: socket.socket
    uri: Uri
    borrowed: bool = False  # somebody else made it: a unix socket's file stays

    def close(self) -> None:
        """Stop listening; the file of a unix socket of ours goes with it."""
        self.socket.close()
        if self.uri.socket is not None and not self.borrowed:
            with contextlib.suppress(OSError):  # after --user the directory may not be ours any more
                Path(self.uri.socket).unlink()


def listen_tcp(address: TcpAddress) -> list[Listener]:
    """Listen on every address that the host has; with port 0 all of them get the same one."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except socket.gaierror as error:
        raise AddressUnusable(f"{address.host} is not an address of this host: {error.strerror}") from error
    listeners: list[Listener] = []
    port = address.port
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            bound = _bind_tcp(family, str(where[0]), port)
            if bound is None:
                continue
            port = bound.getsockname()[1]
            listeners.append(Listener(bound, Uri(host=str(where[0]), port=port)))
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise AddressUnusable(
            f"cannot listen on {address.host} port {port}: {error.strerror}",
            "Choose another port, or 0 for a free one." if error.errno == errno.EADDRINUSE else "",
        ) from error
    if not listeners:
        raise AddressUnusable(f"{address.host} has no address that this host can listen on")
    return listeners


def _bind_tcp(family: int, host: str, port: int) -> socket.socket | None:
    """A listening socket; None if the kernel has no such family (IPv6 may be off) or no such address."""
    try:
        bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return bound


def listen_vsock(text: str) -> Listener:
    """Listen on PORT, or CID:PORT for one of this machine's context ids (vsock(7))."""
    cid, _, port = text.rpartition(":")
    if not all(number.isascii() and number.isdigit() and int(number) < 2**32 for number in (cid or "0", port)):
        raise BadAddress(f"{text!r} is not PORT or CID:PORT")
    try:
        bound = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise AddressUnusable(
            f"this kernel has no vsock: {error.strerror}", "modprobe vsock_loopback, vhost_vsock or a hypervisor's own."
        ) from error
    try:
        bound.bind((int(cid) if cid else socket.VMADDR_CID_ANY, int(port)))
        bound.listen(BACKLOG)
        own = int(cid) if cid else _own_cid()
    except OSError as error:
        bound.close()
        raise AddressUnusable(f"cannot listen on vsock {text}: {error.strerror}") from error
    return Listener(bound, Uri(cid=own, port=bound.getsockname()[1]))


def _own_cid() -> int:
    """This machine's context id; the loopback's where it has none."""
    cid = VSOCK_LOOPBACK
    with contextlib.suppress(OSError), Path("/dev/vsock").open("rb") as device:
        told = fcntl.ioctl(device, socket.IOCTL_VM_SOCKETS_GET_LOCAL_CID, bytes(4))
        cid = int.from_bytes(told, sys.byteorder)
    return VSOCK_LOOPBACK if cid == socket.VMADDR_CID_ANY else cid


def listen_unix(path: str, *, mode: int | None = None) -> Listener:
    """Listen on a unix socket; `mode` are its permissions, by default what the umask leaves."""
    bound = bind_unix(path, socket.SOCK_STREAM, mode=mode)
    return Listener(bound, Uri(socket=os.path.abspath(path)))  # noqa: PTH100 resolve() would follow links


def bind_unix(path: str, kind: int, *, mode: int | None = None) -> socket.socket:
    """A listening unix socket at `path`; a socket file that nobody answers on is replaced."""
    if len(os.fsencode(path)) > MAXIMUM_SOCKET_PATH:
        raise BadAddress(f"the socket path {path} is longer than {MAXIMUM_SOCKET_PATH} bytes")
    bound = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(Path(path), kind)
        bound.bind(path)
        if mode is not None:
            Path(path).chmod(mode)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise AddressUnusable(f"cannot listen on {path}: {error.strerror}") from error
    except AddressUnusable:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path, kind: int) -> None:
    """Unlink a socket file whose server is gone; anything else that is there stays, and is an error."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressUnusable(f"cannot listen on {path}: something that is not a socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except (
            OSError
        ) as error:  # its queue is full (unix(7), EAGAIN), or it serves another kind of socket (EPROTOTYPE)
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
            raise AddressUnusable(f"cannot listen on {path}: another server does") from None
        else:
            raise AddressUnusable(f"cannot listen on {path}: another server does")
