"""`omactl discover`: the machines of a source, put under management on the way unless only a look is wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from omactl.cli.options import as_json, remote
from omactl.cli.remote import Remote, mebibytes, print_table

__all__ = ["command"]


@click.command()
@remote
@as_json
@click.option("--source", help="The source to ask, where there are several.")
@click.option("--filter", "wanted", help="Only machines with one of these in their name (a comma list).")
@click.option("--look", is_flag=True, help="Only look: put nothing under management.")
def command(
    url: str,
    state: Path,
    token_file: Path | None,
    as_json: bool,
    source: str | None,
    wanted: str | None,
    look: bool,
) -> None:
    """Ask a source for its machines, and put them under management."""
    body = {"source": source, "filter": wanted, "create_context": not look}
    found = Remote(url, state, token_file).post("/discovery/discover-vms", body)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print_table(("MACHINE", "DISKS", "SIZE", "POWER", "CONTEXT"), [_row(each) for each in found["discovered_vms"]])
    added = found["addition_result"]
    for each in added["processed_vms"] if added else ():
        if each["status"] == "failed":
            click.echo(f"{each['vm_name']}: {each['error_message']}", err=True)
    sys.exit(1 if added and added["vms_failed"] else 0)


def _row(machine: dict[str, Any]) -> tuple[str, ...]:
    size = sum(disk["capacity_bytes"] for disk in machine["disks"])
    context = machine["context_id"] or "-"
    return machine["name"], str(len(machine["disks"])), mebibytes(size), machine["power_state"], context
