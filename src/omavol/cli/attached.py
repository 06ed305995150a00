"""`omavol attached`: the devices of the kernel's NBD client."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from omavol.cli.blocktool import problems
from omavol.cli.tables import bytes_for_people, table

if TYPE_CHECKING:
    from omavol.block.holders import Holder
    from omavol.block.kernelnbd import NbdDevice

__all__ = ["command"]


@click.command("attached")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show the devices of the kernel's NBD client: what each is connected to, and who uses it."""
    from omavol.block.holders import holders_of
    from omavol.block.kernelnbd import KernelNbd

    with problems(), KernelNbd() as kernel:
        found = [(each, holders_of(each.path)) for each in kernel.connected()]
    if as_json:
        click.echo(json.dumps([_facts(*each) for each in found], indent=2))
    elif found:
        click.echo(table(("DEVICE", "SIZE", "ACCESS", "EXPORT", "USED BY"), [_row(*each) for each in found]), nl=False)
    else:
        click.echo("no device is attached")


def _facts(device: NbdDevice, holders: list[Holder]) -> dict[str, Any]:
    return {
        "device": str(device.path),
        "uri": device.backend or None,
        "size": device.size,
        "read_only": device.read_only,
        "holders": [asdict(each) for each in holders],
    }


def _row(device: NbdDevice, holders: list[Holder]) -> tuple[str, ...]:
    access = "read-only" if device.read_only else "read-write"
    used = ", ".join(str(each) for each in holders)
    return str(device.path), bytes_for_people(device.size), access, device.backend or "another client's", used or "-"
