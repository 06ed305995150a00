"""What `omavol serve` does: opens what is asked for, listens, gives up rights, serves, ends in order."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from omavol.serve.activation import activated, connected
from omavol.serve.errors import ExportRefused, ServeError
from omavol.serve.lifetime import Lifetime, notify
from omavol.serve.limits import own_limits
from omavol.serve.listeners import Listener, TcpAddress, listen_tcp, listen_unix, listen_vsock
from omavol.serve.table import ExportTable
from omavol.serve.tls import Mode, Tls

if TYPE_CHECKING:
    from omavol.serve.control import ControlServer

__all__ = ["Asked", "Wanted", "run"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments and options of `serve.py`, field by field."""

    exports: tuple[str, ...]
    read_only: bool
    direct: bool
    filters: tuple[str, ...]
    track: tuple[str, ...]
    control: str | None
    unix: tuple[str, ...]
    tcp: tuple[str, ...]
    vsock: tuple[str, ...]
    single: bool
    tls: str
    tls_certificates: str | None
    tls_psk: str | None
    tls_verify_client: bool
    user: str | None
    once: bool
    run: str | None
    exit_with_parent: bool
    pidfile: str | None
    connections: int
    connections_per_client: int
    handshake_timeout: float

    def wanted_tls(self) -> Tls:
        """The options of TLS."""
        return Tls(Mode(self.tls), self.tls_certificates, self.tls_psk, self.tls_verify_client)


@dataclass(frozen=True)
class Wanted:
    """One export of the command line."""

    name: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """NAME=PATH, or a PATH for the default export; what has a slash before its first = is a path.

        >>> Wanted.parse("web01=disk.img"), Wanted.parse("./a=b")
        (Wanted(name='web01', path='disk.img'), Wanted(name='', path='./a=b'))
        """
        name, equals, path = text.partition("=")
        return cls(name, path) if equals and "/" not in name else cls("", text)


def run(asked: Asked) -> None:
    """Serve until something ends it; ClickException, in one line, for everything that is in the way."""
    if not (asked.exports or asked.control):
        raise click.ClickException("give the files to serve, or --control SOCK")
    if asked.single and (asked.unix or asked.tcp or asked.vsock or asked.run is not None):
        raise click.ClickException("--single serves standard input alone: no listeners and no --run beside it")
    with Lifetime() as lifetime, _private(asked) as folder:
        controller: ControlServer | None = None
        table: ExportTable | None = None
        try:
            limits = own_limits(asked.connections, asked.connections_per_client, asked.handshake_timeout)
            secret = bool(asked.control) and not asked.exports
            table = ExportTable(limits, hidden=secret, filters=asked.filters, tls=asked.wanted_tls())
            tracked = {file.name: file.path for file in map(Wanted.parse, asked.track)}
            for wanted in map(Wanted.parse, asked.exports):
                _add(table, wanted, asked, tracked.pop(wanted.name, None))
            if tracked:
                raise ServeError("unknown_export", f"--track is for {next(iter(tracked))!r}, which is not served here")
            for listener in _listen(asked, folder):
                table.listen(listener)
            if asked.control:
                controller = _controller(asked.control, table)
            if asked.user:
                _become(asked.user)
            if asked.exit_with_parent:
                lifetime.end_with_parent()
            table.start()
            if controller:
                controller.start()
            _begin(asked, table, lifetime)
        except (ServeError, OSError) as error:
            if table:
                table.stop()
            raise click.ClickException(_line(error)) from error
        status = lifetime.wait()
        notify("STOPPING=1")
        if controller:
            controller.stop()
        failed = table.stop()
        if asked.pidfile:
            Path(asked.pidfile).unlink(missing_ok=True)
    if failed:
        raise click.ClickException(f"the last sync failed, writes may be lost: {os.strerror(failed)}")
    raise SystemExit(status)


def _private(asked: Asked) -> AbstractContextManager[str]:
    """A directory for the socket of --run; after --user it may not be ours any more, and stays, empty."""
    if asked.run is None:
        return nullcontext("")
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="omavol-", ignore_cleanup_errors=True)


def _controller(path: str, table: ExportTable) -> ControlServer:
    from omavol.serve.control import ControlServer  # which a server of files named at its start does not need
    from omavol.serve.incarnation import incarnation

    return ControlServer(path, table, incarnation())


def _begin(asked: Asked, table: ExportTable, lifetime: Lifetime) -> None:
    """Clients are served: tell whoever waits for that, and arrange for the end."""
    if asked.once or asked.single:
        table.tell_vacant(lifetime.vacancy(), after_any=asked.single)
    if asked.single:
        table.adopt(connected(sys.stdin.fileno()))
    if asked.pidfile:
        Path(asked.pidfile).write_text(f"{os.getpid()}\n")
    notify("READY=1")
    if asked.run is not None:
        lifetime.run(["/bin/sh", "-c", asked.run], _told(table))
    elif not any(listener.borrowed for listener in table.listeners):
        _announce(table)


def _told(table: ExportTable) -> dict[str, str]:
    """What a command of --run finds in its environment, under nbdkit's names (nbdkit-captive(1))."""
    uri = table.listeners[0].uri.with_export(next((export.name for export in table.list()), ""))
    where = {"unixsocket": uri.socket or "", "port": "" if uri.socket else str(uri.port)}
    return {**os.environ, "uri": str(uri), "exportname": uri.export, **where}


def _add(table: ExportTable, wanted: Wanted, asked: Asked, track: str | None) -> None:
    try:
        table.add_path(wanted.name, wanted.path, read_only=asked.read_only, track=track, direct=asked.direct)
    except ExportRefused as error:
        if error.code != "export_exists":
            raise
        named = f"the name {wanted.name!r} is given" if wanted.name else "a default export is given"
        raise ExportRefused(error.code, f"{named} twice", "Name each export: NAME=PATH.") from error


def _listen(asked: Asked, private: str) -> list[Listener]:
    """Every listener asked for, or none: what was bound before one fails is given back."""
    mode = 0o666 if asked.control and not asked.exports else None  # who knows a secret name may come from any user
    listeners: list[Listener] = []
    try:
        listeners += activated(os.environ)
        for path in asked.unix:
            listeners.append(listen_unix(path, mode=mode))
        for text in asked.tcp:
            listeners.extend(listen_tcp(TcpAddress.parse(text)))
        for text in asked.vsock:
            listeners.append(listen_vsock(text))
        if listeners or asked.single:
            return listeners
        if asked.run is not None:
            return [listen_unix(f"{private}/nbd", mode=0o600)]
        return listen_tcp(TcpAddress.parse("localhost"))
    except ServeError:
        for listener in listeners:
            listener.close()
        raise


def _become(user: str) -> None:
    """Give up root for good: groups first, then group, then user (setuid(2))."""
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ServeError("no_such_user", f"there is no user {user}") from None
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        raise ServeError("not_root", f"only root can become {user}")
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _announce(table: ExportTable) -> None:
    """One URI a line: every export at every listener; the listeners alone where names are secrets."""
    names = [export.name for export in table.list()] or [""]
    for listener in table.listeners:
        for name in names:
            click.echo(str(listener.uri.with_export(name)))


def _line(error: Exception) -> str:
    advice = getattr(error, "advice", "")
    return f"{error}. {advice}" if advice else str(error)
