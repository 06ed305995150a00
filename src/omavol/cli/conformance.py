"""`omavol conformance`: its options, in groups, and its help; what it does with them is in `judging`."""

from __future__ import annotations

from typing import Any

import click

from omavol.cli.grouped import Group, GroupedCommand
from omavol.cli.nbdtool import seconds

__all__ = ["command"]


def _limit(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """A limit that a socket takes, if one was given."""
    return None if value is None else seconds(context, parameter, value)


TARGETS = Group(
    "What is judged, instead of a URI",
    click.Option(["--server"], metavar="CMD", help="Start CMD, with {socket} and {image} in it; judge that server."),
    click.Option(["--client"], metavar="CMD", help="Judge a client: run CMD, with {uri} in it, against many servers."),
    click.Option(["--export"], default="", metavar="NAME", help="With --server: the export to judge."),
)

TLS = Group(
    "TLS, of servers",
    click.Option(["--tls"], is_flag=True, help="Put every check inside TLS; an nbds:// URI says the same."),
    click.Option(["--tls-certificates"], metavar="DIR", help="Show the server DIR's client-cert.pem, client-key.pem."),
)

CHOICE = Group(
    "Which rules",
    click.Option(["--rule"], multiple=True, metavar="H16,X9", help="Only these rules; may be repeated."),
    click.Option(["--section"], metavar="TEXT", help="Only sections and groups whose name contains TEXT."),
    click.Option(["--list"], is_flag=True, help="Print the table and try nothing."),
)

HOW = Group(
    "How",
    click.Option(["--write"], is_flag=True, help="Allow checks that write, on 1 MiB that is put back afterwards."),
    click.Option(["--scratch"], default=0, type=click.IntRange(min=0), metavar="OFFSET", help="Where that MiB is."),
    click.Option(["--tcp"], is_flag=True, help="With --client: listen on 127.0.0.1, not on a unix socket."),
    click.Option(
        ["--timeout"],
        type=float,
        callback=_limit,
        help="Seconds that any answer of a server may take (5), or a run of a client (30).",
    ),
)

OUTPUT = Group(
    "Output",
    click.Option(["--json"], is_flag=True, help="Print JSON; its fields are stable."),
    click.Option(["--strict"], is_flag=True, help="Exit 1 also where a SHOULD or a plain statement failed."),
)


def _run(**fields: Any) -> None:
    from omavol.cli import judging  # what a `--help` does not need is imported when it runs

    judging.run(judging.Asked(**fields))


command = GroupedCommand(
    "conformance",
    params=[click.Argument(["uri"], required=False)],
    groups=(TARGETS, TLS, CHOICE, HOW, OUTPUT),
    callback=_run,
    help="""Judge an NBD server, or a client, by the words of the protocol document, a line a rule.

    Each line says pass, fail, not offered (the server lacks the feature) or skipped (it would write), the rule, how
    strict the document is (MUST, SHOULD, MAY; "states" for its plain statements; "house" for rules of this project
    where the document is silent), and the document's section. Exit status: 0 no MUST failed, 1 a MUST failed, 2 it
    could not run.""",
)
