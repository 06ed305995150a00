"""What `omavol serve` does: opens what is asked for, listens, gives up rights, serves until a signal, ends in order."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import click

from omavol.serve.control import ControlServer
from omavol.serve.errors import ExportRefused, ServeError
from omavol.serve.incarnation import incarnation
from omavol.serve.limits import own_limits
from omavol.serve.listeners import Listener, TcpAddress, listen_tcp, listen_unix
from omavol.serve.table import ExportTable

__all__ = ["Asked", "Wanted", "run"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments and options of `serve.py`, field by field."""

    exports: tuple[str, ...]
    read_only: bool
    control: str | None
    unix: tuple[str, ...]
    tcp: tuple[str, ...]
    user: str | None
    connections: int


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
    """Serve until a signal; ClickException, in one line, for everything that is in the way."""
    if bool(asked.exports) == bool(asked.control):
        both = ", not both" if asked.exports else ""
        raise click.ClickException("give the files to serve, or --control SOCK" + both)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    controller: ControlServer | None = None
    table: ExportTable | None = None
    try:
        table = ExportTable(own_limits(asked.connections), hidden=asked.control is not None)
        for wanted in map(Wanted.parse, asked.exports):
            _add(table, wanted, asked.read_only)
        for listener in _listen(asked):
            table.listen(listener)
        if asked.control:
            controller = ControlServer(asked.control, table, incarnation())
        if asked.user:
            _become(asked.user)
        table.start()
        if controller:
            controller.start()
    except (ServeError, OSError) as error:
        if table:
            table.stop()
        raise click.ClickException(_line(error)) from error
    _announce(table)
    signal.sigwait(_SIGNALS)
    if controller:
        controller.stop()
    failed = table.stop()
    if failed:
        raise click.ClickException(f"the last sync failed, writes may be lost: {os.strerror(failed)}")


def _add(table: ExportTable, wanted: Wanted, read_only: bool) -> None:
    try:
        table.add_path(wanted.name, wanted.path, read_only=read_only)
    except ExportRefused as error:
        if error.code != "export_exists":
            raise
        named = f"the name {wanted.name!r} is given" if wanted.name else "a default export is given"
        raise ExportRefused(error.code, f"{named} twice", "Name each export: NAME=PATH.") from error


def _listen(asked: Asked) -> list[Listener]:
    """Every listener asked for, or none: what was bound before one fails is given back."""
    mode = 0o666 if asked.control else None
    listeners: list[Listener] = []
    try:
        for path in asked.unix:
            listeners.append(listen_unix(path, mode=mode))
        for text in asked.tcp or (() if asked.unix else ("localhost",)):
            listeners.extend(listen_tcp(TcpAddress.parse(text)))
    except ServeError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


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
