"""`omavol map`: the extents of an export or a file, in the form of `nbdinfo --map` (nbdinfo(1))."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omavol.cli.nbdtool import NbdCommand, fail, seconds
from omavol.nbd import extents
from omavol.nbd.client import ALLOCATION, TIMEOUT, connect, negotiate
from omavol.nbd.errors import NbdError, NotOffered
from omavol.nbd.extents import Extent, Total
from omavol.nbd.uri import Uri, is_uri, parse
from omavol.nbd.wire import describe_status

__all__ = ["command"]

Found = dict[str, list[Extent]]


@click.command(cls=NbdCommand)
@click.argument("source", metavar="URI|PATH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in nbdinfo's shape.")
@click.option("--totals", is_flag=True, help="Print the bytes of each status instead of the extents.")
@click.option(
    "--context",
    "contexts",
    multiple=True,
    default=(ALLOCATION,),
    show_default=True,
    help="The meta context to show; several are asked for together.",
)
@click.option("--all", "every", is_flag=True, help="Show every meta context that the export has.")
@click.option(
    "--timeout", default=TIMEOUT, show_default=True, callback=seconds, help="Seconds that any answer may take."
)
def command(source: str, as_json: bool, totals: bool, contexts: tuple[str, ...], every: bool, timeout: float) -> None:
    """Show which parts of a disk hold data: offset, length, type and its meaning, an extent a line."""
    try:
        found = _of_export(parse(source), contexts, every, timeout) if is_uri(source) else _of_file(source, contexts)
    except NbdError as error:
        fail(error)
    alone = len(found) == 1 and not every
    if as_json:
        rows = _totals_rows if totals else _rows
        said = {context: rows(extents, context) for context, extents in found.items()}
        click.echo(_table(next(iter(said.values()))) if alone else _tables(said), nl=False)
        return
    text = _totals_text if totals else _text
    for context, shown in found.items():
        click.echo(("" if alone else f"{context}:\n") + text(shown, context), nl=False)


def _of_file(source: str, contexts: tuple[str, ...]) -> Found:
    for context in contexts:
        if context != ALLOCATION:
            raise NotOffered(f"{source}: a file has no meta context {context!r}, only {ALLOCATION}")
    return {ALLOCATION: list(extents.of_file(Path(source)))}


def _of_export(uri: Uri, contexts: tuple[str, ...], every: bool, timeout: float) -> Found:
    if every:
        with negotiate(uri, timeout=timeout) as session:
            contexts = session.contexts(uri.export) or ()
        if not contexts:
            raise NotOffered(f"{uri.place}: the server has no meta context for export {uri.export!r}")
    with connect(uri, timeout=timeout, contexts=contexts) as connection:
        for context in contexts:
            if context not in connection.export.contexts:
                raise NotOffered(f"{connection.uri.place}: the server does not support meta context {context!r}")
        found = connection.maps()
        return {context: found[context] for context in contexts}


def _described(context: str, status: int) -> dict[str, str]:
    text = describe_status(context, status)
    return {} if text is None else {"description": text}


def _text(found: list[Extent], context: str) -> str:
    lines = []
    for offset, length, status in found:
        text = describe_status(context, status)
        lines.append(f"{offset:10}  {length:10}  {status:3}" + (f"  {text}" if text else ""))
    return "".join(f"{line}\n" for line in lines)


def _rows(found: list[Extent], context: str) -> list[str]:
    return [
        json.dumps({"offset": offset, "length": length, "type": status, **_described(context, status)})
        for offset, length, status in found
    ]


def _totals_text(found: list[Extent], context: str) -> str:
    return "".join(_total_line(total, context) for total in extents.totals(found))


def _total_line(total: Total, context: str) -> str:
    text = describe_status(context, total.status)
    return f"{total.size:10} {total.percent:5.1f}% {total.status:3}" + (f" {text}" if text else "") + "\n"


def _totals_rows(found: list[Extent], context: str) -> list[str]:
    return [
        json.dumps(
            {"size": total.size, "percent": total.percent, "type": total.status, **_described(context, total.status)}
        )
        for total in extents.totals(found)
    ]


def _table(rows: list[str]) -> str:
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _tables(said: dict[str, list[str]]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(context)}: {_table(rows)[:-1]}" for context, rows in said.items()) + "\n}\n"
