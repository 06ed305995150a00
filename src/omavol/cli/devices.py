"""`omavol devices`: volumes and the kernel's devices side by side, trouble first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from omavol.cli.blocktool import problems
from omavol.cli.tables import bytes_for_people, table

if TYPE_CHECKING:
    from omavol.block.present import Present
    from omavol.schema.volumes import Export, Volume

__all__ = ["Line", "command", "lines"]

SOCKET = Path("/run/oma/volumes.sock")
PATIENCE = 5.0  # seconds for the daemon's answer
COLUMNS = ("STATE", "VOLUME", "DEVICE", "SERIAL", "SIZE", "CONTENT", "EXPORT", "USED BY")


@dataclass(frozen=True)
class Line:
    """One volume, or one device that is no volume's. `state` is ok, detached, not ours, or says what is wrong.

    `clients`: connections to its export, None if there is none. `size` is bytes, `generation` None of no volume.
    """

    state: str
    trouble: bool
    name: str | None
    volume_id: str | None
    device: str | None
    serial: str | None
    size: int
    content: str | None
    generation: int | None
    export: str | None
    clients: int | None
    holders: tuple[str, ...] = ()


def lines(
    volumes: Sequence[Volume],
    exports: Mapping[str, Export],
    present: Sequence[Present],
    holders: Mapping[str, Sequence[str]],
) -> list[Line]:
    """Every volume, then every disk that is none's; trouble first. `exports` by volume, `holders` by device."""
    nodes = {each.label: each for each in present if each.label}
    disks = {each.name: each for each in present}
    found, taken = [], set()
    for volume in volumes:
        node = nodes.get(volume.persistent_name)
        disk = _beneath(volume, node, disks)
        if disk is not None:
            taken.add(disk.name)
        found.append(_of_volume(volume, node, disk, exports.get(volume.volume_id), holders))
    found += [_of_nobody(each, holders) for each in present if each.name not in taken and _is_disk(each)]
    return sorted(found, key=lambda line: (not line.trouble, line.volume_id is None, line.name or line.device or ""))


def _beneath(volume: Volume, node: Present | None, disks: Mapping[str, Present]) -> Present | None:
    """The disk under the volume's node; without nodes, the one that the record names."""
    if node is not None:
        return next((each for each in disks.values() if node.name in each.built_on), None)
    return disks.get(Path(volume.device_path).name) if volume.device_path else None


def _of_volume(
    volume: Volume,
    node: Present | None,
    disk: Present | None,
    export: Export | None,
    holders: Mapping[str, Sequence[str]],
) -> Line:
    trouble = _trouble(volume, node, disk)
    return Line(
        state=trouble or ("ok" if volume.status == "attached" else str(volume.status)),
        trouble=bool(trouble),
        name=volume.persistent_name,
        volume_id=volume.volume_id,
        device=str(disk.path) if disk is not None else volume.device_path,
        serial=_serial(disk),
        size=volume.size,
        content=_content(volume),
        generation=volume.generation,
        export=export.export_name if export is not None else None,
        clients=export.connections if export is not None else None,
        holders=tuple(holders.get(node.name if node else disk.name if disk else "", ())),
    )


def _trouble(volume: Volume, node: Present | None, disk: Present | None) -> str:
    if volume.status == "error":
        return "in error: its device or its place is not known"
    if volume.status != "attached":
        return "a node stands, and it is not attached here" if node is not None else ""
    if volume.device_path is None:
        return ""  # another machine has it
    if node is not None and disk is None:
        return "its device is gone, and its node fails"
    if volume.device_path.startswith("/dev/mapper/") and node is None:
        return "it has no node"
    if volume.device_path.startswith("/dev/") and disk is None:
        return "its device is gone"
    if disk is not None and disk.size < volume.size:
        return f"its device has {disk.size} bytes, too few"
    return ""


def _content(volume: Volume) -> str:
    content = volume.content
    point = getattr(content, "point", None) or getattr(content, "base", None)
    kind = type(content).__struct_config__.tag
    return f"{kind} {point}" if point else str(kind)


def _of_nobody(disk: Present, holders: Mapping[str, Sequence[str]]) -> Line:
    users = (*disk.built_on, *holders.get(disk.name, ()))
    return Line(
        *("no volume's", False, None, None, str(disk.path), _serial(disk), disk.size, None, None, None, None, users)
    )


def _serial(disk: Present | None) -> str | None:
    return min(disk.serials, key=len) if disk is not None and disk.serials else None


def _is_disk(device: Present) -> bool:
    return device.kind in ("virtio", "scsi", "other")


@click.command("devices")
@click.option(
    "--daemon",
    "daemon",
    type=click.Path(path_type=Path),
    default=SOCKET,
    show_default=True,
    help="Socket of omavol daemon, which has the record.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(daemon: Path, as_json: bool) -> None:
    """Show volumes and this machine's disks side by side: what is what, who uses it, and what is wrong, which is first.

    Without an answer of the daemon the disks are shown all the same, and the command ends with 1.
    """
    from omavol.block.present import present_devices

    with problems():
        present = present_devices()
    volumes, exports, away = _record(daemon)
    found = lines(volumes, exports, present, _holders(present))
    if as_json:
        click.echo(json.dumps([asdict(line) for line in found], indent=2))
    elif found:
        click.echo(table(COLUMNS, [_row(line) for line in found]), nl=False)
    else:
        click.echo("there are no volumes and no disks")
    if away:
        raise click.ClickException(f"{away.rstrip('.')}. Volumes are not shown.")


def _record(socket: Path) -> tuple[list[Volume], dict[str, Export], str]:
    """Volumes, exports by volume, and why there are none."""
    from omavol.client import ProblemError, VolumeClient

    async def ask() -> tuple[list[Volume], dict[str, Export], str]:
        async with VolumeClient(socket, timeout=PATIENCE) as client:
            exports = (await client.exports()).exports
            return await client.volumes(), {each.volume_id: each for each in exports}, ""

    try:
        return asyncio.run(ask())
    except ProblemError as error:
        return [], {}, str(error)


def _holders(present: Sequence[Present]) -> dict[str, list[str]]:
    """Mounts, swap and processes of each device that has any."""
    from omavol.block.holders import holders_of

    found: dict[str, list[str]] = {}
    for device in present:
        try:
            who = [str(each) for each in holders_of(device.path) if each.kind != "device"]
        except OSError:  # it has no node in /dev, or went
            continue
        if who:
            found[device.name] = who
    return found


def _row(line: Line) -> tuple[str, ...]:
    export = "-" if line.export is None else f"{line.clients} connected" if line.clients else "nobody connected"
    content = "-" if line.content is None else f"{line.content}, generation {line.generation}"
    return (
        *(line.state, line.name or "-", line.device or "-", line.serial or "-", bytes_for_people(line.size)),
        *(content, export, ", ".join(line.holders) or "-"),
    )
