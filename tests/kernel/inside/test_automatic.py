"""What Debian's own rules do to a disk that a cloud plugs in: what is inside it is found, assembled and activated.

This machine does it as a real one does, so that a test of rules that forbid it can fail.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from guest_world import MIB, run, until
from hotplug import Cloud, Plugged

SIZE = 32 * MIB


def plugged(cloud: Cloud, image: Path) -> tuple[Plugged, Path]:
    disk = cloud.attach(uuid.uuid4().hex[:20], image)
    until(disk.device, "the kernel has the disk")
    return disk, Path("/dev") / disk.device()


def test_a_file_system_is_linked_by_its_uuid(cloud):
    image, identity = cloud.image(SIZE), str(uuid.uuid4())
    run("mkfs.ext4", "-q", "-U", identity, image)
    link = Path("/dev/disk/by-uuid") / identity
    _, device = plugged(cloud, image)
    until(link.exists, "udev has linked it")
    assert link.resolve() == device


def test_a_volume_group_is_activated(cloud):
    image, volume = cloud.image(SIZE), Path("/dev/inside/data")
    disk, device = plugged(cloud, image)
    run("vgcreate", "-q", "inside", device)
    run("lvcreate", "-q", "-y", "-l", "2", "-n", "data", "inside")
    run("vgchange", "-q", "-an", "inside")
    assert not volume.exists()
    cloud.detach(disk)
    plugged(cloud, image)
    until(volume.exists, "LVM has activated what is inside")
    run("vgchange", "-q", "-an", "inside")


def test_an_array_is_assembled(cloud):
    image = cloud.image(SIZE)
    disk, device = plugged(cloud, image)
    run("mdadm", "--create", "/dev/md7", "--run", "--level=1", "--raid-devices=2", "--metadata=1.2", device, "missing")
    run("mdadm", "--stop", "/dev/md7")
    cloud.detach(disk)
    _, device = plugged(cloud, image)
    holders = Path("/sys/block") / device.name / "holders"
    until(lambda: list(holders.iterdir()), "md has taken the disk")
    (array,) = holders.iterdir()
    run("udevadm", "settle")  # udev's own look at the array is over
    run("mdadm", "--stop", f"/dev/{array.name}")
