"""`omavol names`: the device-mapper nodes of volumes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from omavol.cli.blocktool import problems
from omavol.cli.tables import bytes_for_people, table

if TYPE_CHECKING:
    from omavol.block.mapper import Node, Target

__all__ = ["command"]

SECTOR = 512
COLUMNS = ("NAME", "STATE", "SIZE", "OVER", "OPEN", "VOLUME")


@click.command("names")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show the device-mapper nodes that give volumes their names: which volume, over what, open how often. Root."""
    from omavol.block.mapper import Mapper
    from omavol.block.names import MappedNames

    with problems(), Mapper() as mapper:
        found = [(node, mapper.table(node.name)) for node in MappedNames(mapper).standing()]
    if as_json:
        click.echo(json.dumps([_facts(*each) for each in found], indent=2))
    elif found:
        click.echo(table(COLUMNS, [_row(*each) for each in found]), nl=False)
    else:
        click.echo("no volume has a node")


def _state(node: Node, targets: tuple[Target, ...]) -> str:
    if node.suspended:
        return "suspended"
    return "failing" if any(target.kind == "error" for target in targets) else "live"


def _facts(node: Node, targets: tuple[Target, ...]) -> dict[str, Any]:
    return {
        "name": node.name,
        "path": str(node.path),
        "volume_id": node.uuid.partition("-")[2],
        "state": _state(node, targets),
        "size": sum(target.length for target in targets) * SECTOR,
        "table": [f"{each.start} {each.length} {each.kind} {each.parameters}".rstrip() for each in targets],
        "openers": node.openers,
    }


def _row(node: Node, targets: tuple[Target, ...]) -> tuple[str, ...]:
    facts = _facts(node, targets)
    over = ", ".join(each.parameters.partition(" ")[0] or each.kind for each in targets)
    return node.name, facts["state"], bytes_for_people(facts["size"]), over, str(node.openers), facts["volume_id"]
