"""The server under test as the checks see it: fresh connections in every state, and what is known of it."""

from __future__ import annotations

import os
import socket
import ssl
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from omavol.conformance.facts import Facts
from omavol.conformance.link import Link
from omavol.conformance.numbers import FIXED_NEWSTYLE, NO_ZEROES, Info
from omavol.conformance.session import Session
from omavol.conformance.shake import Shake, Told
from omavol.nbd.uri import Uri
from omavol.nbd.wire import Option

__all__ = ["SCRATCH", "Server", "connector"]

SCRATCH = 1 << 20  # bytes that the writing checks use, and put back


def connector(uri: Uri) -> Callable[[float], socket.socket]:
    """How to reach the server of a URI."""

    def connect(timeout: float) -> socket.socket:
        if uri.host is not None:
            connected = socket.create_connection((uri.host, uri.port), timeout)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        family = socket.AF_UNIX if uri.socket is not None else socket.AF_VSOCK
        connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connected.settimeout(timeout)
            connected.connect((uri.cid, uri.port) if uri.socket is None else os.fsencode(uri.socket))
        except BaseException:
            connected.close()
            raise
        return connected

    return connect


class Server:
    """One export of one server; one thread. `certificates` is a folder with ca-cert.pem, client-cert.pem and
    client-key.pem for servers that want to see some; `demand_tls` puts every check inside TLS.

    A new connection closes the one before, as a server may take a single client; `beside` keeps it, for the checks of
    CAN_MULTI_CONN. `release` closes them all.
    """

    def __init__(
        self, uri: Uri, *, timeout: float, scratch: int = 0, certificates: Path | None = None, demand_tls: bool = False
    ) -> None:
        self.uri = uri
        self.name = uri.export.encode()
        self.timeout = timeout
        self.scratch = scratch
        self.certificates = certificates
        self.demand_tls = demand_tls
        self.links: list[Link] = []
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        assert self._facts is not None, "the survey comes first"
        return self._facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self._facts = facts

    @property
    def evidence(self) -> bytes:
        """What came last on the connection that was used last."""
        return self.links[-1].came if self.links else b""

    @property
    def unknown_name(self) -> bytes:
        """An export name that nobody has."""
        return b"no-such-export-\xc3\xa9-" + self.name[:64]

    @property
    def scratch_size(self) -> int:
        """Bytes from `scratch` on that the writing checks may use."""
        room = max(self.facts.size - self.scratch, 0)
        return min(SCRATCH, room - room % max(self.facts.minimum, 4096))

    def link(self, beside: bool = False) -> Link:
        """A fresh connection, nothing said yet."""
        if not beside:
            self.release()
        link = Link(connector(self.uri), self.timeout)
        self.links.append(link)
        return link

    def greeted(self, beside: bool = False) -> Shake:
        """A connection past the server's greeting, no client flags said."""
        return Shake(self.link(beside))

    def plain(self, flags: int | None = None) -> Shake:
        """A connection in the handshake, without TLS."""
        return self.greeted().flags(flags)

    def shake(self, flags: int | None = None, *, beside: bool = False) -> Shake:
        """A connection in the handshake, inside TLS where that is demanded."""
        shake = self.greeted(beside).flags(flags)
        said = shake.offered if flags is None else flags
        if self.demand_tls and said & FIXED_NEWSTYLE:
            self.upgrade(shake)
        return shake

    def upgrade(self, shake: Shake, context: ssl.SSLContext | None = None) -> None:
        """STARTTLS, and the TLS handshake."""
        shake.ask(Option.STARTTLS).must(1)
        shake.link.start_tls(context or self.context(), self.uri.host)

    def context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """How to speak TLS, of any version or of one: whom it speaks to is not verified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if version is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL has no old version to offer
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
                context.minimum_version = context.maximum_version = version
        if self.certificates:
            context.load_cert_chain(self.certificates / "client-cert.pem", self.certificates / "client-key.pem")
        return context

    def enter(
        self,
        *,
        structured: bool = True,
        extended: bool = False,
        contexts: Sequence[str] = (),
        sizes: bool = True,
        name: bytes | None = None,
        beside: bool = False,
    ) -> Session:
        """A fresh connection in the transmission phase; what the server does not offer is not asked for."""
        shake = self.shake(beside=beside)
        return self.go(shake, structured=structured, extended=extended, contexts=contexts, sizes=sizes, name=name)

    def go(
        self,
        shake: Shake,
        *,
        structured: bool = True,
        extended: bool = False,
        contexts: Sequence[str] = (),
        sizes: bool = True,
        name: bytes | None = None,
    ) -> Session:
        """From a handshake into the transmission phase."""
        export = self.name if name is None else name
        agreed = extended and shake.ask(Option.EXTENDED_HEADERS).ok
        chunks = structured and not agreed and self._facts is not None and self.facts.structured and shake.structured()
        selected = shake.select(export, *contexts).must(1).contexts() if contexts else {}
        if self._facts is None or self.facts.info:
            told = shake.go(export, *((Info.BLOCK_SIZE,) if sizes else ())).must(1).told()
        else:
            told = shake.export_name(export, zeroes=not shake.offered & NO_ZEROES)
        return Session(shake.link, told, structured=chunks or agreed, extended=agreed, contexts=selected)

    def control(self) -> None:
        """Prove that the server serves: a fresh connection reads its first bytes, and leaves."""
        session = self.enter(structured=False)
        if self.facts.size:
            session.still_answers()
        session.leave()

    def release(self) -> None:
        for link in self.links:
            link.close()
        self.links.clear()

    def told(self) -> Told:
        """The export as INFO tells it now."""
        return self.shake().info(self.name, Info.BLOCK_SIZE).must(1).told()
