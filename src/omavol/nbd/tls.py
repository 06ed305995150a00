"""TLS of a client: which credentials a URI stands for, and a secured connection with the methods of a socket.

Credentials are found as libnbd finds them (nbd_set_tls_certificates(3), nbd_set_tls_psk_file(3)): a directory with
ca-cert.pem, and client-cert.pem and client-key.pem where the server wants to know who comes; without one the usual
directories, then the authorities that the system trusts. The chain and the name are checked unless the URI says not to.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from omavol._channel import SecureChannel, TlsCredentials, TlsFailed
from omavol.nbd.errors import TlsUnavailable
from omavol.nbd.uri import Security, Uri

__all__ = ["SecureSocket", "credentials_of", "secure"]

_USUAL = ("~/.pki/omavol", "~/.config/pki/omavol", "~/.pki/libnbd", "~/.config/pki/libnbd")
_USUAL_OF_ROOT = ("/etc/pki/omavol", "/etc/pki/libnbd")
_ADVICE = {
    "hostname mismatch": "To expect another name: tls-hostname=NAME in the URI.",
    "IP address mismatch": "To expect a name: tls-hostname=NAME in the URI.",
    "unable to get local issuer certificate": "Name its authority: tls-certificates=DIR with ca-cert.pem in it.",
    "self-signed certificate": "Name its authority: tls-certificates=DIR with ca-cert.pem in it.",
    "certificate required": "Put client-cert.pem and client-key.pem into tls-certificates=DIR.",
}


class SecureSocket:
    """A SecureChannel with what Transport asks of a socket: the time-out, send and receive, the descriptor."""

    def __init__(self, channel: SecureChannel) -> None:
        self.channel = channel
        self._timeout = 0.0

    def settimeout(self, timeout: float) -> None:
        self._timeout = timeout

    def setblocking(self, flag: bool) -> None:
        """Transport asks for non-blocking mode alone: nothing waits, BlockingIOError instead."""
        assert not flag, "a time-out is set before each wait"
        self._timeout = 0.0

    def send(self, data: memoryview) -> int:
        return self._told(self.channel.send(data, self._timeout))

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        """The first view that has something in it."""
        return self.send(next(view for view in views if view))

    def recv(self, limit: int) -> bytes:
        room = bytearray(limit)
        count = self.recv_into(memoryview(room))
        return bytes(room[:count])

    def recv_into(self, view: memoryview) -> int:
        return self._told(self.channel.receive_into(view, self._timeout))

    def _told(self, count: int) -> int:
        if count < 0:
            raise BlockingIOError
        return count

    def fileno(self) -> int:
        return self.channel.fileno()

    def close(self) -> None:
        self.channel.close()


def credentials_of(security: Security, place: str) -> TlsCredentials:
    """The credentials for a session; TlsUnavailable says which file is missing."""
    if security.psk_file:
        user = security.username or getpass.getuser()
        _check_key(Path(security.psk_file), user, place)
        return TlsCredentials(serving=False, psk=security.psk_file, user=user, verify=True)
    directory = Path(security.certificates) if security.certificates else _usual()
    if directory is None:
        return TlsCredentials(serving=False, verify=security.verify_peer, usual_trust=True)
    ca = directory / "ca-cert.pem"
    certificate, key = directory / "client-cert.pem", directory / "client-key.pem"
    if security.verify_peer and not ca.exists():
        raise TlsUnavailable(f"{place}: there is no {ca}", "It is the authority that signed the server.")
    own = certificate.exists()
    found = TlsCredentials(
        serving=False,
        ca=ca if ca.exists() else None,
        certificate=certificate if own else None,
        key=key if own else None,
        verify=security.verify_peer,
    )
    if text := found.load():
        raise TlsUnavailable(f"{place}: {text}")
    return found


def _usual() -> Path | None:
    places = _USUAL_OF_ROOT if os.geteuid() == 0 else _USUAL
    return next((path for path in map(Path, map(os.path.expanduser, places)) if (path / "ca-cert.pem").exists()), None)


def _check_key(path: Path, user: str, place: str) -> None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise TlsUnavailable(f"{place}: cannot read {path}: {error.strerror}") from error
    if not any(line.startswith(f"{user}:") for line in lines):
        raise TlsUnavailable(f"{place}: {path} has no key of {user}", "Name the user: tls-username=NAME in the URI.")


def secure(connected: socket.socket | SecureSocket, uri: Uri, timeout: float) -> SecureSocket:
    """Shake hands within `timeout` seconds over a socket, which is taken over; TlsUnavailable in one line (T21)."""
    assert isinstance(connected, socket.socket) and uri.tls is not None
    credentials = credentials_of(uri.tls, uri.place)
    host = uri.tls.hostname or uri.host or "localhost"
    descriptor = connected.detach()
    try:
        channel = SecureChannel(descriptor, credentials, host)
    except (TlsFailed, UnicodeError) as error:
        os.close(descriptor)
        raise TlsUnavailable(f"{uri.place}: TLS cannot begin: {error}") from error
    try:
        channel.handshake(timeout)
    except TlsFailed as error:
        channel.close()
        raise _failed(str(error), uri.place) from error
    except TimeoutError as error:
        channel.close()
        raise TlsUnavailable(f"{uri.place}: TLS was not shaken hands on within {timeout:g} s") from error
    except OSError as error:
        channel.close()
        raise TlsUnavailable(f"{uri.place}: the connection failed during TLS: {error.strerror}") from error
    return SecureSocket(channel)


def _failed(reason: str, place: str) -> TlsUnavailable:
    advice = next((text for part, text in _ADVICE.items() if part in reason), None)
    return TlsUnavailable(f"{place}: TLS failed: {reason}", advice)
