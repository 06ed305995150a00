"""`omavol exports`: what a running `omavol serve --control` serves, shown and changed while it serves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from omavol.cli.tables import bytes_for_people, table

if TYPE_CHECKING:
    from omavol.schema.control import Done, Listing, ServedExport
    from omavol.serve.client import ControlClient

__all__ = ["command"]

_COLUMNS = ("NAME", "SIZE", "ACCESS", "CLIENTS", "STALLED", "READ", "WRITTEN", "STATE")


def _control(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that all of them have."""
    return click.option("--control", required=True, metavar="SOCK", help="The control socket of `omavol serve`.")(
        function
    )


def _json(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@click.group("exports")
def command() -> None:
    """Show and change what a running server serves, at its control socket (omavol serve --control SOCK)."""


@command.command("list")
@_control
@_json
def list_exports(control: str, as_json: bool) -> None:
    """Show every export: its clients, what they moved, and whether something is wrong with it."""
    with _client(control) as client:
        listing = client.list()
    if as_json:
        _print(listing)
    else:
        click.echo(_table(listing), nl=False)


@command.command("add")
@click.argument("name")
@click.argument("path")
@_control
@click.option("-r", "--read-only", is_flag=True, help="Clients cannot write.")
@click.option("--size", type=click.IntRange(min=0), metavar="BYTES", help="Serve the first BYTES only (default: all).")
@click.option("--description", default="", metavar="TEXT", help="What clients are told beside the name.")
@_json
def add(name: str, path: str, control: str, read_only: bool, size: int | None, description: str, as_json: bool) -> None:
    """Serve the file or block device at PATH as NAME from now on."""
    with _client(control) as client, _opened(path, read_only) as (descriptor, whole):
        done = client.add(
            name, descriptor, whole if size is None else size, read_only=read_only, description=description
        )
    _report(done, as_json, "is served")


@command.command("retarget")
@click.argument("name")
@click.argument("path")
@_control
@click.option("--same-content", is_flag=True, help="PATH holds the same bytes: the points of change tracking go on.")
@_json
def retarget(name: str, path: str, control: str, same_content: bool, as_json: bool) -> None:
    """Serve PATH under NAME instead, to the clients that are there too; no request is lost or refused.

    Returns when every request on the old file is answered and the old file is synced and closed. Unless it is told
    otherwise, everything has changed since each of the export's points.
    """
    with _client(control) as client:
        export = _named(client.list(), name)
        with _opened(path, export.read_only) as (descriptor, whole):
            done = client.retarget(name, descriptor, min(whole, export.size), same_content=same_content)
    _report(done, as_json, "goes on from the new file")


@command.command("remove")
@click.argument("name")
@_control
@_json
def remove(name: str, control: str, as_json: bool) -> None:
    """End NAME and its clients. Returns when its file is synced and closed.

    Requests in hand are answered; a client that takes no data for 2 s meanwhile is hung up on, and counted.
    """
    with _client(control) as client:
        done = client.remove(name)
    _report(done, as_json, "is not served any more")


@command.command("filter")
@click.argument("name")
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@_control
@_json
def set_filters(name: str, filters: tuple[str, ...], control: str, as_json: bool) -> None:
    """Put FILTERs before NAME, in place of those it has; with none of them the way is free again.

    A FILTER is delay:10ms, error:EIO,write,every=100, rate:20M or pause, with the items of omavol-serve(1). Requests
    pass them in the order given; who waits in an older one passes the new ones at once.
    """
    with _client(control) as client:
        done = client.set_filters(name, filters)
    _report(done, as_json, f"filters: {' '.join(done.export.filters) or 'none'}")


@command.group("point")
def point() -> None:
    """Take and forget points of change tracking: x-oma:changed-since:POINT tells what changed since.

    What was answered before a point is taken is before it, what is answered later is a change since. An export has at
    most 16. They outlast the server where it keeps them in a file (omavol serve --track).
    """


@point.command("add")
@click.argument("name")
@click.argument("point")
@_control
@_json
def add_point(name: str, point: str, control: str, as_json: bool) -> None:
    """Take POINT of the export NAME now.

    Like a retarget it waits for the requests in hand; a client that takes and gives nothing for 2 s is hung up on.
    """
    with _client(control) as client:
        done = client.add_point(name, point)
    _report(done, as_json, f"point {point} is taken")


@point.command("drop")
@click.argument("name")
@click.argument("point")
@_control
@_json
def drop_point(name: str, point: str, control: str, as_json: bool) -> None:
    """Forget POINT of the export NAME; its other points tell what they told before."""
    with _client(control) as client:
        done = client.drop_point(name, point)
    _report(done, as_json, f"point {point} is forgotten")


@point.command("list")
@click.argument("name")
@_control
def list_points(name: str, control: str) -> None:
    """Print the points of the export NAME, the oldest first, a line each."""
    with _client(control) as client:
        export = _named(client.list(), name)
    for one in export.points:
        click.echo(one)


@contextmanager
def _client(control: str) -> Iterator[ControlClient]:
    """A client of the control socket; what goes wrong with it or with a file is one line."""
    from omavol.serve.client import ControlClient
    from omavol.serve.errors import ServeError

    try:
        with ControlClient(control) as client:
            yield client
    except ServeError as error:
        raise click.ClickException(f"{error}. {error.advice}" if error.advice else str(error)) from error


@contextmanager
def _opened(path: str, read_only: bool) -> Iterator[tuple[int, int]]:
    """A descriptor for the server, and the bytes that are there."""
    from omavol.serve.table import disk_size, open_disk

    descriptor = open_disk(path, read_only=read_only)
    try:
        yield descriptor, disk_size(descriptor, path)
    finally:
        os.close(descriptor)


def _named(listing: Listing, name: str) -> ServedExport:
    from omavol.serve.errors import ServeError

    for export in listing.exports:
        if export.name == name:
            return export
    raise ServeError("unknown_export", f"export {name!r}: no export has that name", "See: omavol exports list")


def _report(done: Done, as_json: bool, what: str) -> None:
    """Say what took effect, and with an exit status of 1 that a sync failed."""
    if as_json:
        _print(done)
    else:
        click.echo(f"{done.export.name or '(default)'}: {what}" + _stalled(done.export))
    if done.export.failed:
        why = os.strerror(done.export.failed)
        raise click.ClickException(f"{done.export.name}: the last sync failed, writes may be lost: {why}")


def _stalled(export: ServedExport) -> str:
    if not export.stalled_clients:
        return ""
    return f" ({export.stalled_clients} clients took no data for 2 s and were hung up on)"


def _print(answer: Listing | Done) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))


def _table(listing: Listing) -> str:
    return table(_COLUMNS, [_row(export) for export in listing.exports])


def _row(export: ServedExport) -> tuple[str, ...]:
    state = f"sync failed: {os.strerror(export.failed)}" if export.failed else "ok"
    return (
        export.name or "(default)",
        bytes_for_people(export.size),
        "read" if export.read_only else "write",
        str(export.connections),
        str(export.stalled_clients),
        bytes_for_people(export.bytes_read),
        bytes_for_people(export.bytes_written),
        state,
    )
