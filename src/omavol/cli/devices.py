"""`omavol devices`: volumes and the kernel's devices side by side, trouble first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from omavol.block.correlate import NODE_PREFIX
from omavol.cli.blocktool import problems
from omavol.cli.tables import bytes_for_people, table

if TYPE_CHECKING:
    from omavol.block.present import Present
    from omavol.schema.volumes import Export, Volume

__all__ = ["Line", "command", "lines"]

SOCKET = Path("/run/oma/volumes.sock")
UNTOLD = "not known without the record"
PATIENCE = 5.0  # seconds for the daemon's answer
COLUMNS = ("STATE", "VOLUME", "DEVICE", "SERIAL", "SIZE", "CONTENT", "EXPORT", "USED BY")


@dataclass(frozen=True)
class Line:
    """One volume, or one device that is no volume's. `state` is ok, detached, no volume's, or says what is wrong.

    `clients`: connections to its export, None if there is none. `size` is bytes, `generation` None of no volume.
    """

    state: str
    trouble: bool
    name: str | None
    volume_id: str | None
    device: str | None
    serial: str | None
    size: int
    content: str | None = None
    generation: int | None = None
    export: str | None = None
    clients: int | None = None
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """What the kernel shows: disks by name, nodes of volumes by UUID. `holders`: who uses a device, by its name."""

    disks: Mapping[str, Present]
    nodes: Mapping[str, Present]
    holders: Mapping[str, Sequence[str]]

    def beneath(self, node: Present) -> Present | None:
        return next((disk for disk in self.disks.values() if node.name in disk.built_on), None)

    def twins(self, disk: Present) -> list[str]:
        """Other disks that have a serial of this one."""
        return sorted(str(each.path) for each in self.disks.values() if each != disk and each.serials & disk.serials)

    def users(self, *devices: Present | None) -> tuple[str, ...]:
        return tuple(who for each in devices if each is not None for who in self.holders.get(each.name, ()))


def lines(
    volumes: Sequence[Volume] | None,
    exports: Mapping[str, Export],
    present: Sequence[Present],
    holders: Mapping[str, Sequence[str]],
) -> list[Line]:
    """Every volume, then every node and disk that is none's; trouble first. `exports` by volume, `holders` by device.

    `volumes` is None where the record is not to be had: then of no disk it is said that it is nobody's.
    """
    kernel = Kernel(
        {each.name: each for each in present if each.kind not in ("dm", "md")},
        {each.uuid: each for each in present if each.uuid.startswith(NODE_PREFIX)},
        holders,
    )
    found, seen = [], set()
    for volume in volumes or ():
        node = kernel.nodes.get(NODE_PREFIX + volume.volume_id)
        disk = _beneath(volume, node, kernel)
        seen |= {each.name for each in (node, disk) if each is not None}
        found.append(_of_volume(volume, node, disk, exports.get(volume.volume_id), kernel))
    for node in kernel.nodes.values():
        if node.name not in seen:
            disk = kernel.beneath(node)
            seen |= {disk.name} if disk is not None else set()
            found.append(_of_node(node, disk, kernel, known=volumes is not None))
    for disk in kernel.disks.values():
        if disk.name not in seen and disk.kind in ("virtio", "scsi", "other"):
            found.append(_of_disk(disk, kernel, known=volumes is not None))
    return sorted(found, key=lambda line: (not line.trouble, line.volume_id is None, line.name or line.device or ""))


def _beneath(volume: Volume, node: Present | None, kernel: Kernel) -> Present | None:
    """The disk under the volume's node; without nodes, the one that the record names."""
    if node is not None:
        return kernel.beneath(node)
    return kernel.disks.get(Path(volume.device_path).name) if volume.device_path else None


def _of_volume(
    volume: Volume, node: Present | None, disk: Present | None, export: Export | None, kernel: Kernel
) -> Line:
    trouble = _trouble(volume, node, disk) or _doubt(disk, kernel) or _unserved(export)
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
        holders=kernel.users(node, disk),
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


def _doubt(disk: Present | None, kernel: Kernel) -> str:
    twins = kernel.twins(disk) if disk is not None else []
    return f"{', '.join(twins)} has the same serial" if twins else ""


def _unserved(export: Export | None) -> str:
    """A session is open, and whoever writes it finds nothing: pending is the moment before."""
    return "its export is not served" if export is not None and export.status == "active" and not export.served else ""


def _content(volume: Volume) -> str:
    content = volume.content
    point = getattr(content, "point", None) or getattr(content, "base", None)
    kind = type(content).__struct_config__.tag
    return f"{kind} {point}" if point else str(kind)


def _of_node(node: Present, disk: Present | None, kernel: Kernel, *, known: bool) -> Line:
    """Of a volume that the record does not have, or that cannot be asked for."""
    return Line(
        state="a node of no volume in the record" if known else _doubt(disk, kernel) or UNTOLD,
        trouble=known or bool(_doubt(disk, kernel)),
        name=node.label,
        volume_id=node.uuid.removeprefix(NODE_PREFIX),
        device=str(disk.path) if disk is not None else None,
        serial=_serial(disk),
        size=node.size,
        holders=kernel.users(node, disk),
    )


def _of_disk(disk: Present, kernel: Kernel, *, known: bool) -> Line:
    doubt = _doubt(disk, kernel)
    return Line(
        state=doubt or ("no volume's" if known else UNTOLD),
        trouble=bool(doubt),
        name=None,
        volume_id=None,
        device=str(disk.path),
        serial=_serial(disk),
        size=disk.size,
        holders=(*disk.built_on, *kernel.users(disk)),
    )


def _serial(disk: Present | None) -> str | None:
    """The shortest text that it is known by, as virtio-blk would have it."""
    return min(disk.serials, key=lambda text: (len(text), text)) if disk is not None and disk.serials else None


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


def _record(socket: Path) -> tuple[list[Volume] | None, dict[str, Export], str]:
    """Volumes, exports by volume; None and why where they are not to be had."""
    from omavol.client import ProblemError, VolumeClient

    async def ask() -> tuple[list[Volume], dict[str, Export], str]:
        async with VolumeClient(socket, timeout=PATIENCE) as client:
            exports = (await client.exports()).exports
            return await client.volumes(), {each.volume_id: each for each in exports}, ""

    try:
        return asyncio.run(ask())
    except ProblemError as error:
        return None, {}, str(error)


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
