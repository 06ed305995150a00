"""A small machine and a whole appliance for each crash test, taken down again whatever happened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.machine import MIB, SourceMachine
from demo.processes import Appliance
from tests.faults.crash import Stack
from tests.ports import free_ports


@pytest.fixture
def stack() -> Iterator[Stack]:
    """The four processes and a machine with a 48 MiB qcow2 and a 24 MiB raw disk, half full; nothing replicated yet."""
    folder = Path(tempfile.mkdtemp(prefix="oma-f-", dir="/var/tmp"))
    folder.chmod(0o755)
    machine = SourceMachine(folder / "inventory/web01", system_size=48 * MIB, data_size=24 * MIB)
    agent_port, port = free_ports(2)
    appliance = Appliance(folder, folder / "inventory", agent_port=agent_port, port=port)
    try:
        machine.make_images()
        machine.start()
        for disk, size in ((machine.system_disk, 20 * MIB), (machine.data_disk, 10 * MIB)):
            with disk.open("r+b") as file:
                file.write(os.urandom(size))
                os.fsync(file.fileno())
        whole = Stack(machine, appliance)
        yield whole
        whole.close()
    finally:
        appliance.stop()
        machine.stop()
        shutil.rmtree(folder)
