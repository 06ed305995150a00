"""`omavol serve`: its options, in groups, and its help; what it does with them is in `serving`."""

from __future__ import annotations

from typing import Any

import click

from omavol.cli.grouped import Group, GroupedCommand

__all__ = ["command"]

EXPORTS = Group(
    "Exports",
    click.Option(["-r", "--read-only"], is_flag=True, help="Clients cannot write."),
    click.Option(["--direct"], is_flag=True, help="Go past the page cache (O_DIRECT); clients ask in whole blocks."),
    click.Option(
        ["--track"],
        multiple=True,
        metavar="[NAME=]FILE",
        help="Keep in FILE what changes since the points of an export (omavol exports point); repeatable.",
    ),
    click.Option(["--control"], metavar="SOCK", help="Serve what is handed in here; the name of an export is its key."),
)

FILTERS = Group(
    "Filters, before every export, in this order",
    click.Option(
        ["--filter", "filters"],
        multiple=True,
        metavar="SPEC",
        help="delay:read=10ms,write=5ms; error:EIO,read,every=3; rate:100M; pause. May be repeated.",
    ),
)

LISTENING = Group(
    "Listening",
    click.Option(["--unix"], multiple=True, metavar="SOCK", help="Listen on a unix socket; may be repeated."),
    click.Option(
        ["--tcp"], multiple=True, metavar="HOST:PORT", help="Listen on TCP; port 0 takes a free one; repeatable."
    ),
    click.Option(["--vsock"], multiple=True, metavar="[CID:]PORT", help="Listen on a vsock; may be repeated."),
    click.Option(
        ["-s", "--single"],
        is_flag=True,
        help="Serve the client at standard input, a connected socket, and end with it.",
    ),
)

TLS = Group(
    "TLS",
    click.Option(
        ["--tls"],
        type=click.Choice(["off", "on", "require"]),
        default="off",
        show_default=True,
        help="Whether clients may, or have to, use TLS.",
    ),
    click.Option(
        ["--tls-certificates"],
        metavar="DIR",
        help="server-cert.pem and server-key.pem, as qemu and nbdkit have them; new ones are taken while it runs.",
    ),
    click.Option(["--tls-psk"], metavar="FILE", help="Lines username:hexkey: the key instead of a certificate."),
    click.Option(
        ["--tls-verify-client"],
        is_flag=True,
        help="Clients without a key have to show a certificate signed by DIR/ca-cert.pem.",
    ),
)

PROCESS = Group(
    "Process",
    click.Option(["--user"], metavar="USER", help="Become this user once files are open and sockets are bound."),
    click.Option(["--once"], is_flag=True, help="End when the last client has left."),
    click.Option(
        ["--run"],
        metavar="CMD",
        help="Run a shell command beside it, with $uri, $unixsocket, $port and $exportname set, and end with it.",
    ),
    click.Option(["--exit-with-parent"], is_flag=True, help="End when the process that started it has ended."),
    click.Option(["-P", "--pidfile"], metavar="FILE", help="Write the process id there once clients are served."),
)

LIMITS = Group(
    "Limits",
    click.Option(
        ["--connections"],
        type=click.IntRange(min=1),
        default=4096,
        show_default=True,
        help="The most connections at once.",
    ),
    click.Option(
        ["--connections-per-client"],
        type=click.IntRange(min=0),
        default=0,
        show_default="no limit",
        help="The most connections of one client: a user (unix), an address (IPv4, vsock), a /64 (IPv6).",
    ),
    click.Option(
        ["--handshake-timeout"],
        type=click.FloatRange(min=0, max=3600, min_open=True),
        metavar="SECONDS",
        default=10.0,
        show_default=True,
        help="For the whole negotiation of a client.",
    ),
)


def _run(**fields: Any) -> None:
    from omavol.cli import serving  # what a `--help` does not need is imported when serving begins

    serving.run(serving.Asked(**fields))


command = GroupedCommand(
    "serve",
    params=[click.Argument(["exports"], nargs=-1, metavar="[NAME=]PATH...")],
    groups=(EXPORTS, FILTERS, LISTENING, TLS, PROCESS, LIMITS),
    callback=_run,
    help="""Serve files and block devices by NBD, and print the URI of each.

    A PATH without a name is the default export; null:SIZE is a disk of zeroes that keeps nothing. Without --unix, --tcp
    and --vsock it listens on localhost:10809, or on the sockets that a service manager or a client hands in
    (sd_listen_fds(3)). SIGTERM and SIGINT end it: requests in hand are answered, files are synced.

    What no option changes: a request of at most 32 MiB, 1 MiB of replies that wait for a client, 4096 options in a
    negotiation, and 2 s for a client that takes and gives nothing while its export ends or is retargeted.""",
)
