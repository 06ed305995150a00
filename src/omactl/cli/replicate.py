"""`omactl replicate MACHINE`: starts a replication, and with --follow stays until its end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from omactl.cli.job import show
from omactl.cli.options import remote
from omactl.cli.remote import Remote, mebibytes, words

__all__ = ["command", "follow"]

_FINAL = ("completed", "failed", "cancelled")
_INTERVAL = 1.0  # seconds between two looks


@click.command()
@remote
@click.option("--follow", "stay", is_flag=True, help="Show its progress until it ends; exit 1 unless it completes.")
@click.option("--full", is_flag=True, help="Copy everything, even where only the changes would do.")
@click.option("--rate-limit", type=click.IntRange(min=1), metavar="BYTES", help="At most so many bytes a second.")
@click.argument("machine")
def command(
    url: str,
    state: Path,
    token_file: Path | None,
    stay: bool,
    full: bool,
    rate_limit: int | None,
    machine: str,
) -> None:
    """Start the replication of MACHINE (its name or context id)."""
    server = Remote(url, state, token_file)
    wanted: dict[str, Any] = {"vm_name": machine, "replication_type": "initial" if full else None}
    if rate_limit is not None:
        wanted["rate_limit"] = rate_limit
    started = server.post("/replications", wanted)
    click.echo(started["job_id"])
    if not stay:
        return
    job = follow(server, started["job_id"])
    show(job)
    sys.exit(0 if job["status"] == "completed" else 1)


def follow(server: Remote, job_id: str) -> dict[str, Any]:
    """Look at the job until it has ended: a bar on a terminal, else a line whenever something changed."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    said = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("waiting", total=None)
        while True:
            job: dict[str, Any] = server.get(f"/jobs/{words(job_id)}")
            if job["status"] in _FINAL:
                return job
            step = job.get("current_step", "Waiting")
            progress.update(bar, description=step, completed=job["bytes_transferred"], total=job["total_bytes"] or None)
            line = f"{step}: {mebibytes(job['bytes_transferred'])} of {mebibytes(job['total_bytes'])}"
            if not console.is_terminal and line != said:
                click.echo(line, err=True)
                said = line
            time.sleep(_INTERVAL)
