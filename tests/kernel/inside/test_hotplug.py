"""The machine that the other tests stand on: disks plugged in by QEMU, serials, udev's links, device-mapper."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import pytest
from guest_world import MIB, run, until
from hotplug import serial_of


def serial() -> str:
    """As CloudStack's agent gives it (LibvirtComputingResource.diskUuidToSerial)."""
    return uuid.uuid4().hex[:20]


@pytest.mark.parametrize("scsi", [False, True])
def test_a_disk_is_known_by_its_serial_and_named_by_udev(cloud, scsi):
    disk = cloud.attach(serial(), cloud.image(8 * MIB, b"begins"), scsi=scsi)
    until(disk.device, "the kernel has the disk")
    device = Path("/dev") / disk.device()
    link = Path("/dev/disk/by-id") / f"virtio-{disk.serial}"
    if not scsi:
        until(link.exists, "udev has made the link")
        assert link.resolve() == device
    assert device.read_bytes()[:6] == b"begins"
    cloud.detach(disk)
    if not scsi:
        until(lambda: not link.is_symlink(), "udev has taken the link away")


def test_a_slot_is_used_again(cloud):
    image = cloud.image(MIB)
    slots = set()
    for _ in range(3):
        disk = cloud.attach(serial(), image)
        until(disk.device, "the kernel has the disk")
        slots.add(disk.slot)
        cloud.detach(disk)
    again = cloud.attach(serial(), image)
    until(again.device, "the kernel has the disk")
    assert len(slots) == 3


def test_sixteen_disks_in_any_order_have_their_serials(cloud):
    wanted = [serial() for _ in range(16)]
    disks = [cloud.attach(each, cloud.image(4 * MIB), scsi=number % 4 == 3) for number, each in enumerate(wanted)]
    random.Random(7).shuffle(disks)
    for disk in disks:
        until(disk.device, "the kernel has the disk")
    found = {serial_of(entry) for entry in Path("/sys/block").iterdir()}
    assert set(wanted) <= found
    assert len({disk.device() for disk in disks}) == 16


def test_device_mapper_names_a_disk(cloud):
    disk = cloud.attach(serial(), cloud.image(4 * MIB, b"named"))
    until(disk.device, "the kernel has the disk")
    run("dmsetup", "create", "named", "--table", f"0 8192 linear /dev/{disk.device()} 0")
    try:
        assert Path("/dev/mapper/named").read_bytes()[:5] == b"named"
        until(Path("/dev/disk/by-id/dm-name-named").exists, "udev has named it too")
    finally:
        run("dmsetup", "remove", "named")


def test_a_disk_grows(cloud):
    disk = cloud.attach(serial(), cloud.image(4 * MIB))
    until(disk.device, "the kernel has the disk")
    cloud.resize(disk, 8 * MIB)
    size = Path("/sys/block") / disk.device() / "size"
    until(lambda: int(size.read_text()) == 8 * MIB // 512, "the kernel has the new size")
