"""NBD URIs, read and written (the NBD project's doc/uri.md): nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH.

nbd+vsock://CID[:PORT]/EXPORT is libnbd's, and so are the parameters of nbds://, nbds+unix:// and nbds+vsock://:
tls-certificates, tls-psk-file, tls-username, tls-verify-peer, tls-hostname (nbd_connect_uri(3)).
"""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import SplitResult, quote, quote_from_bytes, unquote_to_bytes, urlsplit

from omavol.nbd.errors import BadUri
from omavol.nbd.wire import DEFAULT_PORT, MAXIMUM_STRING

__all__ = ["Security", "Uri", "is_uri", "parse"]

SCHEMES = ("nbd", "nbd+unix", "nbd+vsock", "nbds", "nbds+unix", "nbds+vsock")
VSOCK_HOST = 2  # the context id of the host, as its guests see it (vsock(7))
_SAFE = "/:@!$()*,~-._"  # in a query
MAXIMUM_SOCKET_PATH = 107  # bytes; unix(7): sun_path is 108 with its NUL


class Security(NamedTuple):
    """How a session is secured; empty: the usual files, the host's own name, this user's name.

    `certificates` is a directory, `psk_file` a path. `verify_peer` False: whoever answers is believed.
    """

    certificates: str = ""
    psk_file: str = ""
    username: str = ""
    hostname: str = ""
    verify_peer: bool = True

    def parameters(self) -> list[str]:
        """As they stand in a URI's query."""
        given = {
            "tls-certificates": self.certificates,
            "tls-psk-file": self.psk_file,
            "tls-username": self.username,
            "tls-hostname": self.hostname,
            "tls-verify-peer": "" if self.verify_peer else "false",
        }
        return [f"{key}={quote_from_bytes(os.fsencode(value), safe=_SAFE)}" for key, value in given.items() if value]


class Uri(NamedTuple):
    """Where an export is: a TCP host and port, the path of a unix socket, or a vsock context id and port; and its name.

    >>> str(parse("nbd://localhost"))
    'nbd://localhost:10809/'
    >>> parse("nbd+unix:///web01%20disk?socket=/run/nbd.sock").export
    'web01 disk'
    """

    host: str | None = None
    port: int = DEFAULT_PORT
    socket: str | None = None
    export: str = ""
    cid: int | None = None
    tls: Security | None = None

    def __str__(self) -> str:
        export = quote(self.export, safe="/:@!$&'()*+,;=~-._")
        scheme = "nbd" if self.tls is None else "nbds"
        query = [] if self.tls is None else self.tls.parameters()
        if self.socket is not None:
            query.insert(0, f"socket={quote_from_bytes(os.fsencode(self.socket), safe=_SAFE)}")
            where = "+unix:///"
        elif self.cid is not None:
            where = f"+vsock://{self.cid}:{self.port}/"
        else:
            host = f"[{self.host}]" if self.host and ":" in self.host else self.host
            where = f"://{host}:{self.port}/"
        return f"{scheme}{where}{export}" + ("?" + "&".join(query) if query else "")

    @property
    def place(self) -> str:
        """The server's address for people."""
        if self.cid is not None:
            return f"vsock {self.cid} port {self.port}"
        return self.socket if self.socket is not None else f"{self.host} port {self.port}"

    def with_export(self, name: str) -> Uri:
        """The same server, another export."""
        return self._replace(export=name)


def is_uri(text: str) -> bool:
    """Whether a command's argument is meant as an NBD URI, rather than as a path.

    >>> is_uri("nbd://localhost"), is_uri("/dev/vdb"), is_uri("disk:1.img")
    (True, False, False)
    """
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse(text: str) -> Uri:
    """Read an NBD URI; BadUri says in one line what is wrong with it."""
    try:
        text.encode()
        parts = urlsplit(text)
    except ValueError as error:
        raise BadUri(f"{text!r} is not a URI: {error}") from error
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        raise BadUri(
            f"{text!r} is not an NBD URI",
            "Write nbd://HOST[:PORT]/EXPORT, or nbd+unix:///EXPORT?socket=PATH.",
        )
    if parts.fragment:
        raise BadUri(f"{text!r} has a fragment; write # in a name as %23")
    export = _export(parts, text)
    found = _READERS[scheme.replace("nbds", "nbd", 1)](parts, text, export)
    return found._replace(tls=_security(parts, text)) if scheme.startswith("nbds") else found


def _security(parts: SplitResult, text: str) -> Security:
    """The parameters of TLS; unknown ones are ignored, as libnbd does. A user before the host is the key's name."""
    given = {key: unquote_to_bytes(value) for key, _, value in (item.partition("=") for item in parts.query.split("&"))}
    named = unquote_to_bytes(parts.netloc.rpartition("@")[0])
    found = {
        field: os.fsdecode(given.get(key, b""))
        for key, field in (
            ("tls-certificates", "certificates"),
            ("tls-psk-file", "psk_file"),
            ("tls-username", "username"),
            ("tls-hostname", "hostname"),
        )
    }
    if any("\0" in value for value in found.values()):
        raise BadUri(f"{text!r} has a NUL in a parameter of TLS")
    verify = given.get("tls-verify-peer", b"true").lower()
    if verify not in (b"true", b"false", b"1", b"0"):
        raise BadUri(f"{text!r}: tls-verify-peer is true or false")
    found["username"] = found["username"] or os.fsdecode(named)
    return Security(**found, verify_peer=verify in (b"true", b"1"))


def _export(parts: SplitResult, text: str) -> str:
    """The path without its first slash is the export's name, UTF-8 of at most 4096 bytes without NUL."""
    raw = unquote_to_bytes(parts.path.removeprefix("/"))
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise BadUri(f"the export name of {text!r} is not UTF-8") from error
    if len(raw) > MAXIMUM_STRING or b"\0" in raw:
        raise BadUri("the export name is longer than 4096 bytes or contains NUL")
    return name


def _unix(parts: SplitResult, text: str, export: str) -> Uri:
    if parts.netloc.rpartition("@")[2]:
        raise BadUri(
            f"{text!r} names a host, but nbd+unix has none", "Write three slashes: nbd+unix:///EXPORT?socket=PATH"
        )
    for item in parts.query.split("&"):
        key, _, value = item.partition("=")
        if key != "socket":
            continue
        path = unquote_to_bytes(value)
        if b"\0" in path or len(path) > MAXIMUM_SOCKET_PATH:
            raise BadUri(f"the socket path of {text!r} is longer than {MAXIMUM_SOCKET_PATH} bytes or contains NUL")
        if path:
            return Uri(socket=os.fsdecode(path), export=export)
    raise BadUri(f"{text!r} does not say which socket", "Write nbd+unix:///EXPORT?socket=PATH")


def _tcp(parts: SplitResult, text: str, export: str) -> Uri:
    try:
        port = parts.port
    except ValueError as error:
        raise BadUri(f"the port of {text!r} is not a number from 1 to 65535") from error
    if port == 0:
        raise BadUri(f"the port of {text!r} is not a number from 1 to 65535")
    return Uri(host=parts.hostname or "localhost", port=DEFAULT_PORT if port is None else port, export=export)


def _vsock(parts: SplitResult, text: str, export: str) -> Uri:
    """Both numbers have 32 bits (vsock(7)); without a context id it is the host's, as libnbd has it."""
    cid, _, port = parts.netloc.rpartition("@")[2].partition(":")
    numbers = (cid or str(VSOCK_HOST), port or str(DEFAULT_PORT))
    if not all(number.isascii() and number.isdigit() and int(number) < 2**32 for number in numbers):
        raise BadUri(f"{text!r} does not name a vsock by numbers", "Write nbd+vsock://CID[:PORT]/EXPORT")
    return Uri(cid=int(numbers[0]), port=int(numbers[1]), export=export)


_READERS = {"nbd": _tcp, "nbd+unix": _unix, "nbd+vsock": _vsock}
