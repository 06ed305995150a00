"""The machines of the inventory as the source API describes them, and what is wrong with those it cannot."""

from __future__ import annotations

from pathlib import Path

from omavol.agent.errors import as_agent_error
from omavol.schema.common import Problem
from omavol.schema.source import Discover, Discovered, DiskDescription, Machine
from omavol.source.errors import SourceError
from omavol.source.inventory import Inventory
from omavol.source.machine import MachineFacts, Source, SourceMachine

__all__ = ["discover"]

GIB = 1 << 30


def discover(inventory: Inventory, source: Source, wanted: Discover) -> Discovered:
    """Every usable machine whose name matches the filter. Blocks while images and monitors are asked."""
    words = [word.strip().casefold() for word in wanted.filter.split(",") if word.strip()]
    machines: list[Machine] = []
    problems: list[Problem] = []
    try:
        listing = inventory.list()
    except SourceError as error:
        raise as_agent_error(error) from error
    problems.extend(_problem(folder, error) for folder, error in listing.problems)
    for machine in listing.machines:
        if words and not any(word in machine.name.casefold() for word in words):
            continue
        try:
            machines.append(describe(machine, source.facts(machine)))
        except SourceError as error:
            problems.append(_problem(machine.folder, error))
    where = {"host": wanted.vcenter, "datacenter": wanted.datacenter}
    return Discovered(vcenter=where, vms=machines, problems=problems)


def describe(machine: SourceMachine, facts: MachineFacts) -> Machine:
    """The machine in the API's words."""
    disks = []
    for number, disk in enumerate(machine.disks):
        size = facts.disks[disk.id].size
        disks.append(
            DiskDescription(
                id=disk.id,
                label=disk.label,
                path=str(disk.file),
                vmdk_path=str(disk.file) if disk.format == "vmdk" else "",
                capacity_bytes=size,
                size_gb=-(-size // GIB),
                format=disk.format,
                unit_number=number,
                datastore=machine.folder.name,
                tracks_changes=facts.disks[disk.id].tracks_changes,
            )
        )
    return Machine(
        id=machine.id,
        name=machine.name,
        path=machine.path,
        power_state=facts.power_state,
        guest_os=machine.guest_os,
        os_type=machine.os_type,
        memory_mb=machine.memory_mb,
        num_cpu=machine.num_cpu,
        cpus=machine.num_cpu,
        display_name=machine.name,
        annotation=machine.annotation,
        disks=disks,
        networks=list(machine.networks),
    )


def _problem(folder: Path, error: SourceError) -> Problem:
    return as_agent_error(error).problem(f"/{folder.name}")
