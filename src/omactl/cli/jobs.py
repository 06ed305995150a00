"""`omactl jobs`: the unified list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from omactl.cli.options import as_json, remote
from omactl.cli.remote import Remote, print_table

__all__ = ["command"]


@click.command()
@remote
@as_json
@click.option("--kind", help="Only jobs of this kind.")
@click.option("--status", help="Only jobs of this status.")
@click.option("--machine", help="Only jobs of this machine (name or context id).")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
def command(
    url: str,
    state: Path,
    token_file: Path | None,
    as_json: bool,
    kind: str | None,
    status: str | None,
    machine: str | None,
    limit: int,
) -> None:
    """List jobs of every kind, newest first."""
    listed = Remote(url, state, token_file).get("/jobs", kind=kind, status=status, machine=machine, limit=limit)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed)).decode())
        return
    print_table(("JOB", "MACHINE", "WHAT", "STATUS", "DONE", "NOW"), [_row(job) for job in listed["jobs"]])
    if listed["next_cursor"]:
        click.echo(f"(the newest {limit}; more with --limit)")


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    now = job.get("error_message") or job.get("current_step") or ""
    return job["job_id"], job["vm_name"], job["display_name"], job["status"], f"{job['progress']:.0f} %", now
