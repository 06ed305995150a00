"""The machines of a source host as folders: disk images, and a small machine.toml that says what they are.

Without a machine.toml the folder's images are its disks, by name. A folder that cannot be used is a problem in the
answer, never a reason to hide the other machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from omavol.schema.common import Name
from omavol.schema.source import NetworkDescription
from omavol.source.errors import InventoryBroken, MachineUnknown
from omavol.source.machine import SourceDisk, SourceMachine

__all__ = ["Inventory", "Listing", "read_machine"]

SUFFIXES = {".qcow2": "qcow2", ".vmdk": "vmdk", ".raw": "raw", ".img": "raw"}
FIRST_DISK = 2000  # VMware's device keys begin there, and everything that reads ids expects them
TEXT_LIMIT = 1 << 20

Format = Literal["raw", "qcow2", "vmdk"]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class DiskEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    id: Name
    file: Text
    format: Format
    node: Text | None = None
    label: str = ""


class NetworkEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    label: str
    network_name: str = ""
    adapter_type: str = ""
    mac_address: str = ""
    connected: bool = True
    type: str = ""


class MachineEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """machine.toml. `qmp`: the running machine's monitor socket; paths are relative to the folder."""

    id: Name
    name: Text
    disks: Annotated[list[DiskEntry], msgspec.Meta(min_length=1)]
    qmp: Text | None = None
    os_type: str = ""
    guest_os: str = ""
    annotation: str = ""
    memory_mb: Annotated[int, msgspec.Meta(ge=0)] = 0
    num_cpu: Annotated[int, msgspec.Meta(ge=0)] = 0
    networks: list[NetworkEntry] = []


@dataclass(frozen=True)
class Listing:
    """Every usable machine, and what is wrong with each folder that is none."""

    machines: tuple[SourceMachine, ...]
    problems: tuple[tuple[Path, InventoryBroken], ...]


class Inventory:
    """The folders under `root`, read anew at each call, so that an edit counts at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> Listing:
        """Raises InventoryBroken only if `root` itself cannot be read."""
        try:
            folders = sorted(entry for entry in self.root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        except OSError as error:
            raise InventoryBroken(f"the inventory {self.root} cannot be read: {error.strerror}") from error
        machines: dict[str, SourceMachine] = {}
        problems: list[tuple[Path, InventoryBroken]] = []
        for folder in folders:
            try:
                machine = read_machine(folder)
                if (other := machines.get(machine.id)) is not None:
                    raise InventoryBroken(f"{folder}: id {machine.id!r} is already that of {other.folder}")
                machines[machine.id] = machine
            except InventoryBroken as error:
                problems.append((folder, error))
        return Listing(tuple(machines.values()), tuple(problems))

    def find(self, wanted: str) -> SourceMachine:
        """The machine with this path or id, else the only one with this name. Raises MachineUnknown."""
        machines = self.list().machines
        for machine in machines:
            if wanted in (machine.path, machine.id):
                return machine
        named = [machine for machine in machines if machine.name == wanted]
        if len(named) == 1:
            return named[0]
        detail = f"{len(named)} machines are named {wanted!r}" if named else f"there is no machine {wanted!r}"
        raise MachineUnknown(detail)


def read_machine(folder: Path) -> SourceMachine:
    """The machine in a folder. Raises InventoryBroken naming the file and the field."""
    description = folder / "machine.toml"
    if not description.exists():
        return _from_images(folder)
    try:
        if description.stat().st_size > TEXT_LIMIT:
            raise InventoryBroken(f"{description} is larger than {TEXT_LIMIT >> 20} MiB")
        entry = msgspec.toml.decode(description.read_bytes(), type=MachineEntry)
    except OSError as error:
        raise InventoryBroken(f"{description} cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise InventoryBroken(f"{description}: {_in_toml(str(error))}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InventoryBroken(f"{description} is not TOML: {error}") from error
    for field in ("id", "file", "node"):
        values = [value for disk in entry.disks if (value := getattr(disk, field)) is not None]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InventoryBroken(f"{description}: two disks have the {field} {twice!r}")
    disks = tuple(
        SourceDisk(id=disk.id, file=folder / disk.file, format=disk.format, label=disk.label or disk.id, node=disk.node)
        for disk in entry.disks
    )
    for disk in disks:
        if not disk.file.exists():
            raise InventoryBroken(f"{description}: the file of {disk.id} does not exist: {disk.file}")
    return SourceMachine(
        id=entry.id,
        name=entry.name,
        folder=folder,
        disks=disks,
        monitor=None if entry.qmp is None else folder / entry.qmp,
        os_type=entry.os_type,
        guest_os=entry.guest_os,
        memory_mb=entry.memory_mb,
        num_cpu=entry.num_cpu,
        annotation=entry.annotation,
        networks=tuple(NetworkDescription(**msgspec.structs.asdict(network)) for network in entry.networks),
    )


def _from_images(folder: Path) -> SourceMachine:
    try:
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise InventoryBroken(f"{folder} cannot be read: {error.strerror}") from error
    if not images:
        raise InventoryBroken(f"{folder} has neither a machine.toml nor an image ({', '.join(SUFFIXES)})")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,190}", folder.name) is None:
        raise InventoryBroken(f"{folder}: the folder's name cannot be an id; write a machine.toml with an id")
    disks = tuple(
        SourceDisk(id=f"disk-{FIRST_DISK + number}", file=path, format=SUFFIXES[path.suffix.lower()], label=path.name)
        for number, path in enumerate(images)
    )
    return SourceMachine(id=folder.name, name=folder.name, folder=folder, disks=disks)


def _in_toml(words: str) -> str:
    """msgspec's words with the place as a reader of the file would write it."""
    return re.sub(r"`\$\.?", "`", words).replace("`", "'")
