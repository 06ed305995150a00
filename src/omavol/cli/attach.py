"""`omavol attach`: an export as a block device of this machine, by the kernel's own NBD client."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import click

from omavol.block import MOST_CONNECTIONS
from omavol.cli.blocktool import problems

if TYPE_CHECKING:
    from omavol.block.attach import Attached

__all__ = ["command"]

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEAD = 60  # seconds that requests wait while --keep dials anew


@click.command("attach")
@click.argument("uri")
@click.option("--device", metavar="/dev/nbdN", help="Which device it becomes (default: the first that is free).")
@click.option(
    "-c",
    "--connections",
    type=click.IntRange(1, MOST_CONNECTIONS),
    help="How many at once (default: 4 where the server allows several, else 1).",
)
@click.option("-r", "--read-only", is_flag=True, help="Nobody can write to the device.")
@click.option(
    "--timeout",
    type=click.IntRange(1, 86400),
    default=30,
    show_default=True,
    help="Seconds that a request may take before its connection is given up.",
)
@click.option("--keep", is_flag=True, help="Stay: dial lost connections anew, and detach at the end of this process.")
@click.option(
    "--dead-timeout",
    type=click.IntRange(0, 86400),
    help=f"Seconds that requests wait when all connections are lost (default: {DEAD} with --keep, else 0).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    uri: str,
    device: str | None,
    connections: int | None,
    read_only: bool,
    timeout: int,
    keep: bool,
    dead_timeout: int | None,
    as_json: bool,
) -> None:
    """Make a block device of the NBD export at URI, and print its path. Root; the kernel needs its module nbd.

    The device stays when the command ends, until `omavol detach`, but does not outlast its connections: for that there
    is --keep. The kernel speaks no TLS.
    """
    from omavol.block import attach

    if dead_timeout is None:
        dead_timeout = DEAD if keep else 0
    with problems():
        attached = attach.attach(
            uri,
            device=device,
            connections=connections,
            read_only=read_only,
            timeout=timeout,
            dead_timeout=dead_timeout,
        )
        click.echo(json.dumps(_facts(attached)) if as_json else attached.path)
        if attached.tail:
            click.echo(f"{attached.path} leaves out the last {attached.tail} bytes: less than a block", err=True)
        if keep:
            _stay(attached)


def _facts(attached: Attached) -> dict[str, Any]:
    return {
        "device": str(attached.path),
        "uri": str(attached.uri),
        "size": attached.export.size - attached.tail,
        "connections": attached.connections,
    }


def _stay(attached: Attached) -> None:
    """Keep it connected until a signal, then detach it."""
    from omavol.block import attach

    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    for number in ENDING:
        signal.signal(number, lambda *_: None)  # the pipe hears of it
    if attach.keep(attached, reader, lambda line: click.echo(line, err=True)):
        attach.detach(str(attached.path))
