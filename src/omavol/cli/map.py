"""`omavol map`: the extents of an export or a file, in the form of `nbdinfo --map` (nbdinfo(1))."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omavol.cli.nbdtool import NbdCommand, fail, seconds
from omavol.nbd import extents
from omavol.nbd.client import ALLOCATION, TIMEOUT, connect
from omavol.nbd.errors import NbdError, NotOffered
from omavol.nbd.extents import Extent, Total
from omavol.nbd.uri import is_uri, parse
from omavol.nbd.wire import describe_status

__all__ = ["command"]


@click.command(cls=NbdCommand)
@click.argument("source", metavar="URI|PATH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in nbdinfo's shape.")
@click.option("--totals", is_flag=True, help="Print the bytes of each status instead of the extents.")
@click.option("--context", default=ALLOCATION, show_default=True, help="The meta context to show.")
@click.option(
    "--timeout", default=TIMEOUT, show_default=True, callback=seconds, help="Seconds that any answer may take."
)
def command(source: str, as_json: bool, totals: bool, context: str, timeout: float) -> None:
    """Show which parts of a disk hold data: offset, length, type and its meaning, an extent a line."""
    try:
        found = _extents(source, context, timeout)
    except NbdError as error:
        fail(error)
    if totals:
        click.echo(_totals_json(found, context) if as_json else _totals_text(found, context), nl=False)
    else:
        click.echo(_json(found, context) if as_json else _text(found, context), nl=False)


def _extents(source: str, context: str, timeout: float) -> list[Extent]:
    if not is_uri(source):
        if context != ALLOCATION:
            raise NotOffered(f"{source}: a file has no meta context {context!r}, only {ALLOCATION}")
        return list(extents.of_file(Path(source)))
    with connect(parse(source), timeout=timeout, contexts=(context,)) as connection:
        if context not in connection.export.contexts:
            raise NotOffered(f"{connection.uri.place}: the server does not support meta context {context!r}")
        return [Extent(*extent) for extent in connection.extents(context)]


def _described(context: str, status: int) -> dict[str, str]:
    text = describe_status(context, status)
    return {} if text is None else {"description": text}


def _text(found: list[Extent], context: str) -> str:
    lines = []
    for offset, length, status in found:
        text = describe_status(context, status)
        lines.append(f"{offset:10}  {length:10}  {status:3}" + (f"  {text}" if text else ""))
    return "".join(f"{line}\n" for line in lines)


def _json(found: list[Extent], context: str) -> str:
    rows = [
        json.dumps({"offset": offset, "length": length, "type": status, **_described(context, status)})
        for offset, length, status in found
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _totals_text(found: list[Extent], context: str) -> str:
    return "".join(_total_line(total, context) for total in extents.totals(found))


def _total_line(total: Total, context: str) -> str:
    text = describe_status(context, total.status)
    return f"{total.size:10} {total.percent:5.1f}% {total.status:3}" + (f" {text}" if text else "") + "\n"


def _totals_json(found: list[Extent], context: str) -> str:
    rows = [
        json.dumps(
            {"size": total.size, "percent": total.percent, "type": total.status, **_described(context, total.status)}
        )
        for total in extents.totals(found)
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"
