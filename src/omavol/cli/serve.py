"""`omavol serve`: an NBD server over files and block devices, or over what the daemon hands in."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # what a `--help` does not need is imported when serving begins
    from omavol.serve.listeners import Listener
    from omavol.serve.table import ExportTable

__all__ = ["command"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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


@click.command("serve")
@click.argument("exports", nargs=-1, metavar="[NAME=]PATH...")
@click.option("--unix", "sockets", multiple=True, metavar="SOCK", help="Listen on a unix socket; may be repeated.")
@click.option(
    "--tcp", "addresses", multiple=True, metavar="HOST:PORT", help="Listen on TCP; port 0 takes a free one; repeatable."
)
@click.option("-r", "--read-only", is_flag=True, help="Clients cannot write.")
@click.option("--control", metavar="SOCK", help="Serve what is handed in here; the name of an export is its key.")
@click.option("--user", metavar="USER", help="Become this user once files are open and sockets are bound.")
@click.option(
    "--connections", type=click.IntRange(min=1), default=4096, show_default=True, help="The most clients at once."
)
def command(
    exports: tuple[str, ...],
    sockets: tuple[str, ...],
    addresses: tuple[str, ...],
    read_only: bool,
    control: str | None,
    user: str | None,
    connections: int,
) -> None:
    """Serve files and block devices by NBD, and print the URI of each.

    A PATH without a name is the default export; null:SIZE is a disk of zeroes that keeps nothing. Without --unix and
    --tcp it listens on localhost:10809. SIGTERM and SIGINT end it: requests in hand are answered, files are synced.
    """
    from omavol.serve.control import ControlServer
    from omavol.serve.errors import ServeError
    from omavol.serve.incarnation import incarnation
    from omavol.serve.limits import own_limits
    from omavol.serve.table import ExportTable

    if bool(exports) == bool(control):
        raise click.ClickException("give the files to serve, or --control SOCK" + (", not both" if exports else ""))
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    controller: ControlServer | None = None
    table: ExportTable | None = None
    try:
        table = ExportTable(own_limits(connections), hidden=control is not None)
        for wanted in map(Wanted.parse, exports):
            _add(table, wanted, read_only)
        for listener in _listen(sockets, addresses, mode=0o666 if control else None):
            table.listen(listener)
        if control:
            controller = ControlServer(control, table, incarnation())
        if user:
            _become(user)
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
    from omavol.serve.errors import ExportRefused

    try:
        table.add_path(wanted.name, wanted.path, read_only=read_only)
    except ExportRefused as error:
        if error.code != "export_exists":
            raise
        named = f"the name {wanted.name!r} is given" if wanted.name else "a default export is given"
        raise ExportRefused(error.code, f"{named} twice", "Name each export: NAME=PATH.") from error


def _listen(sockets: tuple[str, ...], addresses: tuple[str, ...], mode: int | None) -> list[Listener]:
    """Every listener asked for, or none: what was bound before one fails is given back."""
    from omavol.serve.errors import ServeError
    from omavol.serve.listeners import TcpAddress, listen_tcp, listen_unix

    listeners: list[Listener] = []
    try:
        for path in sockets:
            listeners.append(listen_unix(path, mode=mode))
        for text in addresses or (() if sockets else ("localhost",)):
            listeners.extend(listen_tcp(TcpAddress.parse(text)))
    except ServeError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _become(user: str) -> None:
    """Give up root for good: groups first, then group, then user (setuid(2))."""
    import pwd

    from omavol.serve.errors import ServeError

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
