"""`omactl link`: a link that opens the page once."""

from __future__ import annotations

from pathlib import Path

import click

from omactl.cli.options import remote
from omactl.cli.remote import Remote

__all__ = ["command"]


@click.command()
@remote
def command(url: str, state: Path, token_file: Path | None) -> None:
    """Make a link that opens the page once, within an hour."""
    server = Remote(url, state, token_file)
    click.echo(server.url + server.post("/access/links")["path"])
