"""The control plane with the real NBD server, volume daemon and agent: a stopped machine of two qcow2 disks."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from demo.control import Control, Volumes
from demo.processes import Appliance
from tests.ports import free_ports

MIB = 1 << 20
DISKS = ("disk-2000", "disk-2001")
SIZE = 24 * MIB
INVENTORY = """\
id = "db01-77"
name = "db01"
[[disks]]
id = "disk-2000"
label = "system"
file = "disk-2000.qcow2"
format = "qcow2"
[[disks]]
id = "disk-2001"
label = "data"
file = "disk-2001.qcow2"
format = "qcow2"
"""


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


class World:
    def __init__(self, folder):
        self.images = folder / "inventory/db01"
        self.images.mkdir(parents=True)
        (self.images / "machine.toml").write_text(INVENTORY)
        for disk in DISKS:
            run("qemu-img", "create", "-q", "-f", "qcow2", str(self.image(disk)), str(SIZE))
            self.write(disk, 0, 8 * MIB)
        agent_port, port = free_ports(2)
        self.appliance = Appliance(folder, folder / "inventory", agent_port=agent_port, port=port)

    def image(self, disk):
        return self.images / f"{disk}.qcow2"

    def write(self, disk, offset, length, pattern=0x5A):
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {offset} {length}", str(self.image(disk)))

    def start(self):
        self.appliance.start()
        self.control = Control(self.appliance.url, self.appliance.token)
        self.volumes = Volumes(self.appliance.state / "daemon/volumes.sock")
        self.control.post("/api/v1/discovery/discover-vms", {"create_context": True})

    def ended(self, job_id):
        final = ("completed", "failed", "cancelled")
        return self.control.wait(job_id, until=lambda job: job["status"] in final, seen=lambda job: None, limit=60)

    def replicate(self, **options):
        return self.ended(self.control.replicate("db01", **options))

    def machine(self):
        return self.control.get("/api/v1/vm-contexts/db01")

    def assert_equal(self, job):
        for disk in job["disks"]:
            device = self.volumes.volume(disk["volume_id"])["device_path"]
            run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", str(self.image(disk["disk_id"])), device)


@pytest.fixture
def world():
    folder = Path(tempfile.mkdtemp(prefix="oma-e-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = World(folder)
    try:
        made.start()
        yield made
    finally:
        if hasattr(made, "control"):
            made.control.close()
            made.volumes.close()
        made.appliance.stop()
        shutil.rmtree(folder)


def test_full_then_incremental_then_cancelled_then_right_again(world):
    first = world.replicate()
    assert first["status"] == "completed", first
    assert {disk["mode"] for disk in first["disks"]} == {"full"}
    world.assert_equal(first)
    assert world.machine()["context"]["current_status"] == "ready_for_failover"

    world.write("disk-2000", 5 * MIB, 128 << 10, 0xA5)
    second = world.replicate()
    assert (second["status"], second["sync_type"]) == ("completed", "incremental"), second
    assert sum(disk["bytes_sent"] for disk in second["disks"]) <= MIB
    world.assert_equal(second)

    world.write("disk-2001", 0, 16 * MIB, 0x77)
    job_id = world.control.replicate("db01", rate_limit=MIB)
    moving = world.control.wait(job_id, until=lambda job: job["bytes_transferred"] > 0, seen=lambda job: None, limit=60)
    assert moving["status"] == "replicating"
    world.control.post(f"/api/v1/jobs/{job_id}/cancel", {})
    cancelled = world.ended(job_id)
    assert cancelled["status"] == "cancelled"
    page = world.machine()
    assert page["context"]["current_status"] == "failed", "a torn machine is not ready"
    assert {disk["holds"] for disk in page["disks"]} <= {"torn", "point"}

    again = world.replicate()
    assert (again["status"], again["sync_type"]) == ("completed", "incremental"), again
    world.assert_equal(again)
    assert world.machine()["context"]["current_status"] == "ready_for_failover"
