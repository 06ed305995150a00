"""`omavol daemon`: keep the volumes of this appliance."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

__all__ = ["command"]


@click.command()
@click.option(
    "--state",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The daemon's directory: its record, and the volumes of the local provider.",
)
@click.option(
    "--unix",
    metavar="SOCK",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Serve the volume API here (default: DIR/omavol.sock).",
)
@click.option(
    "--control",
    metavar="SOCK",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The control socket of `omavol serve` (default: DIR/control.sock).",
)
@click.option(
    "--allow-uid",
    "uids",
    metavar="UID",
    type=click.IntRange(min=0),
    multiple=True,
    help="Let this user use the API too; may be given several times.",
)
def command(state: Path, unix: Path | None, control: Path | None, uids: tuple[int, ...]) -> None:
    """Keep the volumes of this appliance: record, attach, export, prove."""
    from omavol.daemon.app import serve
    from omavol.volumes.errors import VolumeError

    logging.basicConfig(level=logging.INFO, format="%(levelname).1s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        in_time = serve(state, unix, control, frozenset(uids))
    except VolumeError as error:
        click.echo(f"omavol daemon: {error.detail}", err=True)
        sys.exit(1)
    if not in_time:  # a thread is inside a long read: its operation resumes at the next start
        logging.shutdown()
        os._exit(0)
