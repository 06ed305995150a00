"""Machines with real disks, and a reader of frozen ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from omavol.source.machine import FrozenDisk
from omavol.source.points import MemoryLedger
from omavol.source.qemu import QemuSource
from source_machines import KIB, MIB, Disk, MachineFolder, run, short_folder


class View:
    """Reads a frozen disk, all of it or only what its change record marks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def content(self, disk: FrozenDisk) -> bytes:
        target = self.folder / "content"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", disk.uri, target)
        return target.read_bytes()

    def changes(self, disk: FrozenDisk) -> list[tuple[int, int]]:
        """(offset, length) of each dirty extent."""
        assert disk.context is not None
        extents = json.loads(run("nbdinfo", "--json", f"--map={disk.context}", disk.uri))
        return [(extent["offset"], extent["length"]) for extent in extents if extent["type"] & 1]

    def update(self, copy: bytearray, disk: FrozenDisk) -> int:
        """Bring an older copy up to the frozen instant by its changes alone; the bytes moved."""
        content = self.content(disk)
        changes = self.changes(disk)
        for offset, length in changes:
            copy[offset : offset + length] = content[offset : offset + length]
        return sum(length for _, length in changes)


@pytest.fixture
def folder():
    path = short_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def view(tmp_path):
    return View(tmp_path)


@pytest.fixture
def ledger():
    return MemoryLedger()


@pytest.fixture
def source(folder, ledger):
    source = QemuSource(folder / "run", ledger)
    yield source
    for record in list(ledger.points()):
        if not record.released:
            source.abandon(record.id)


@pytest.fixture
def machine(folder):
    """A stopped machine with a qcow2 and a raw disk; `machine.start()` runs it."""
    machine = MachineFolder.create(
        folder / "web01",
        Disk("disk-2000", "qcow2", 16 * MIB, "system.qcow2"),
        Disk("disk-2001", "raw", 8 * MIB + 64 * KIB, "data.raw"),
    )
    yield machine
    machine.remove()


@pytest.fixture
def running(machine):
    machine.start()
    return machine
