"""`omavol agent`: serve the machines of a source host."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="agent", short_help="Serve the machines of a source host: freeze, read, push.")
@click.option(
    "--inventory",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a folder for each machine: its disk images and a machine.toml.",
)
@click.option("--port", default=8081, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--state",
    default=Path("/var/lib/oma/agent"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Jobs, points, the token, and what machines overwrite while they are read.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the token is; made at the first start.  [default: STATE/token]",
)
def command(inventory: Path, port: int, host: str, state: Path, token_file: Path | None) -> None:
    """Serve the source API over the machines in a folder.

    A machine's disks are frozen at one instant and pushed to NBD exports; what changed since the last committed point
    is all that a later pass reads. Every request but /api/v1/health wants the token.
    """
    from omavol.agent.access import TokenError
    from omavol.agent.engine import EngineCopy
    from omavol.agent.service import CannotListen, Settings, serve
    from omavol.agent.state import StateInUse
    from omavol.journal import JournalError
    from omavol.source.errors import SourceError

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="omavol agent: %(levelname)s: %(message)s")
    settings = Settings(inventory.resolve(), state.resolve(), host, port, token_file)
    try:
        serve(settings, EngineCopy, lambda words: click.echo(words))
    except (CannotListen, StateInUse, TokenError, JournalError, SourceError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or state}: {error.strerror}") from error
