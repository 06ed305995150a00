"""`omactl contexts`: the machines under management."""

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
def command(url: str, state: Path, token_file: Path | None, as_json: bool) -> None:
    """List the machines under management."""
    listed = Remote(url, state, token_file).get("/vm-contexts")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed)).decode())
        return
    print_table(("MACHINE", "SOURCE", "STATUS", "JOBS", "CONTEXT"), [_row(each) for each in listed["vm_contexts"]])


def _row(context: dict[str, Any]) -> tuple[str, ...]:
    done = f"{context['successful_jobs']}/{context['total_jobs_run']}"
    return context["vm_name"], context["source"] or "-", context["current_status"], done, context["context_id"]
