"""`omactl job ID`: one job with its steps and disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from omactl.cli.options import as_json, remote
from omactl.cli.remote import Remote, mebibytes, print_table, words

__all__ = ["command", "show"]


@click.command()
@remote
@as_json
@click.argument("job_id")
def command(url: str, state: Path, token_file: Path | None, as_json: bool, job_id: str) -> None:
    """Show a job with its steps and disks."""
    job = Remote(url, state, token_file).get(f"/jobs/{words(job_id)}")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(job)).decode())
        return
    show(job)


def show(job: dict[str, Any]) -> None:
    """Print a job for a person: what it is, what failed and what to do, its steps, its disks."""
    click.echo(f"{job['display_name']} of {job['vm_name']}: {job['status']} ({job['job_id']})")
    if message := job.get("error_message"):
        click.echo(f"  {message}")
        for step in job["actionable_steps"]:
            click.echo(f"  - {step}")
    click.echo(
        f"  {mebibytes(job['bytes_transferred'])} of {mebibytes(job['total_bytes'])}, {job['duration_seconds']} s"
    )
    click.echo()
    print_table(("STEP", "STATUS"), [(step["title"], step["status"]) for step in job["steps"]])
    if job["disks"]:
        click.echo()
        print_table(("DISK", "MODE", "DONE", "READ", "SENT", "PROOF"), [_disk(disk) for disk in job["disks"]])


def _disk(disk: dict[str, Any]) -> tuple[str, ...]:
    return (
        disk["label"],
        disk.get("mode", "-"),
        f"{disk['percent']:.0f} %",
        mebibytes(disk["bytes_read"]),
        mebibytes(disk["bytes_sent"]),
        disk.get("proof", "-"),
    )
