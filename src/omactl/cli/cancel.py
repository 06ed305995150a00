"""`omactl cancel ID`: asks a running job to end."""

from __future__ import annotations

from pathlib import Path

import click

from omactl.cli.options import remote
from omactl.cli.remote import Remote, words

__all__ = ["command"]


@click.command()
@remote
@click.argument("job_id")
def command(url: str, state: Path, token_file: Path | None, job_id: str) -> None:
    """Ask a running job to end; its volumes stay."""
    job = Remote(url, state, token_file).post(f"/jobs/{words(job_id)}/cancel")
    click.echo(f"{job['job_id']} of {job['vm_name']} is being cancelled.")
