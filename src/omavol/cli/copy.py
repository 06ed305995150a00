"""`omavol copy SRC DST`: a disk from a file or NBD export to another; names and behaviour follow nbdcopy(1)."""

from __future__ import annotations

import sys
from typing import Any

import click

from omavol.cli import copying

__all__ = ["command"]


def _options() -> list[click.Parameter]:
    """The options of the table, for click."""
    switches = [
        click.Option([*spellings, name], is_flag=True, help=text)
        for name, (spellings, text) in copying.SWITCHES.items()
    ]
    values = [
        click.Option(
            [*spellings, name], type=click.IntRange(least, most), default=default, show_default=True, help=text
        )
        for name, (spellings, text, default, least, most) in copying.VALUES.items()
    ]
    return [*values, *switches]


def _run(**fields: Any) -> None:
    sys.exit(copying.run(**fields))


command = click.Command(
    "copy",
    params=[
        click.Argument(["source"], metavar="SRC"),
        click.Argument(["destination"], metavar="DST"),
        click.Option(
            ["--changed-since"],
            metavar="POINT",
            help="Copy only what changed since a point of the source (omavol exports point), or since the bitmap of a"
            " context named in full; the rest of DST stays as it is.",
        ),
        *_options(),
    ],
    callback=_run,
    help="""Copy a disk from SRC to DST, at the speed of the slower one, holes as holes.

    Each is a path, an NBD URI (nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH; inside TLS nbds://, nbds+unix://), or
    null: as a destination. Exits with 0 only if every byte was acknowledged and flushed.""",
)
