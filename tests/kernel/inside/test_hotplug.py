"""The machine that the other tests stand on: disks plugged in by QEMU, serials, udev's links, device-mapper."""

from __future__ import annotations

import errno
import mmap
import os
import random
import uuid
from pathlib import Path

import pytest
from guest_world import MIB, run, until
from hotplug import CLOUD_PORT, serial_of

from omavol.block.uevent import Uevents
from omavol.cloud.fake.qmp import Monitor, Refused


def serial() -> str:
    """As CloudStack's agent gives it (LibvirtComputingResource.diskUuidToSerial)."""
    return uuid.uuid4().hex[:20]


def direct(path: str, flags: int) -> int:
    """An opener of open() past the page cache."""
    return os.open(path, flags | os.O_DIRECT)


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


@pytest.mark.parametrize("scsi", [False, True])
def test_the_serial_is_readable_when_the_kernel_tells_of_the_disk(cloud, scsi):
    with Uevents() as events:
        disk = cloud.attach(serial(), cloud.image(MIB), scsi=scsi)
        told = ""

        def heard() -> bool:
            nonlocal told
            told = next((each.name for each in events.take() or () if each.action == "add"), "")
            return told != ""

        until(heard, "the kernel tells of it")
        assert serial_of(Path("/sys/block") / told) == disk.serial


def test_virtio_blk_cuts_a_serial_to_twenty_characters_and_scsi_does_not(cloud):
    whole = str(uuid.uuid4())
    short, long = (cloud.attach(whole, cloud.image(MIB), scsi=scsi) for scsi in (False, True))
    until(lambda: short.device() and long.device(), "the kernel has both")
    assert serial_of(Path("/sys/block") / short.device()) == whole[:20]
    assert serial_of(Path("/sys/block") / long.device()) == whole


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
    assert slots == {again.slot}


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


@pytest.mark.parametrize("scsi", [False, True])
def test_a_disk_taken_out_in_use_has_no_bytes_for_who_has_it_open(cloud, scsi):
    """Nothing hangs; a read's answer is the end of the disk, not an error."""
    disk = cloud.attach(serial(), cloud.image(MIB, b"begins"), scsi=scsi)
    until(disk.device, "the kernel has the disk")
    with (Path("/dev") / disk.device()).open("r+b", buffering=0) as device:
        assert device.read(6) == b"begins"
        cloud.detach(disk)
        assert os.pread(device.fileno(), 6, 0) == b"" and device.seek(0, os.SEEK_END) == 0
        with pytest.raises(OSError) as raised:
            os.pwrite(device.fileno(), b"ends", 0)
        assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize("scsi", [False, True])
def test_a_disk_whose_storage_is_lost_fails_what_is_asked_and_can_be_taken_out(cloud, scsi):
    disk = cloud.attach(serial(), cloud.image(2 * MIB), scsi=scsi)
    until(disk.device, "the kernel has the disk")
    with mmap.mmap(-1, 4096) as page, open(Path("/dev") / disk.device(), opener=direct) as device:
        assert os.preadv(device.fileno(), [page], 0) == 4096
        cloud.lose(disk)
        with pytest.raises(OSError) as raised:
            os.preadv(device.fileno(), [page], 0)
        assert raised.value.errno == errno.EIO
    assert disk.device() is not None
    cloud.detach(disk)
    again = cloud.attach(disk.serial, disk.image, scsi=scsi)
    until(again.device, "the kernel has the disk again")
    assert (Path("/dev") / again.device()).read_bytes() == bytes(2 * MIB)


def test_a_monitor_is_taken_over_from_a_program_that_died_with_an_answer_unread():
    first = Monitor(CLOUD_PORT)
    os.write(first._port, b'{"execute": "query-version"}\n{"execute": "query-version"}\n')
    os.read(first._port, 10)
    first.close()
    second = Monitor(CLOUD_PORT)
    assert second.ask("query-status")["status"] == "running"
    with pytest.raises(Refused, match="no-such-command"):
        second.ask("no-such-command")
    second.close()
