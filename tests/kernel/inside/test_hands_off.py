"""Disks that carry LVM, md and file systems: what Debian does with them, and that our rules keep it from doing so."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest_world import MIB, run, until
from hotplug import Cloud, Plugged

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = Path("/etc/udev/rules.d")
SIZE = 16 * MIB
OWN = str(uuid.uuid4())  # of the appliance's own file system


@pytest.fixture
def rules() -> Iterator[Callable[[], None]]:
    """Install what deploy/ has; gone at the end."""
    made = [RULES / "58-oma-own-disks.rules", RULES / "57-oma-serials.rules", RULES / "59-oma-replicas.rules"]
    made += [Path("/etc/lvm/lvmlocal.conf"), Path("/etc/mdadm/mdadm.conf.d/oma.conf")]

    def install() -> None:
        for path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
        made[0].write_text(run(DEPLOY / "udev/own-disks"))
        for path in made[1:3]:
            shutil.copy(DEPLOY / "udev" / path.name, path)
        shutil.copy(DEPLOY / "lvm/lvmlocal.conf", made[3])
        shutil.copy(DEPLOY / "mdadm/oma.conf", made[4])
        Path("/etc/lvm/devices").mkdir(parents=True, exist_ok=True)
        Path("/etc/lvm/devices/system.devices").touch()
        run("udevadm", "control", "--reload")

    yield install
    for path in made:
        path.unlink(missing_ok=True)
    run("udevadm", "control", "--reload")


def plug(cloud: Cloud, image: Path, *, scsi: bool = False) -> Plugged:
    disk = cloud.attach(uuid.uuid4().hex[:20], image, scsi=scsi)
    until(disk.device, "the kernel has the disk")
    run("udevadm", "settle")
    return disk


@pytest.fixture
def carrying(cloud, rules) -> Callable[[str], Path]:
    """An image that carries something, made on a disk that nothing looks into."""

    def make(what: str) -> Path:
        image = cloud.image(SIZE)
        disk = plug(cloud, image)
        device = f"/dev/{disk.device()}"
        if what == "ext4":
            run("mkfs.ext4", "-q", "-F", "-U", OWN, device)
        elif what == "md":
            run("mdadm", "--create", "/dev/md/theirs", "--run", "--level=1", "--raid-devices=2", device, "missing")
            run("mdadm", "--stop", "/dev/md/theirs")
        else:
            run("vgcreate", "-y", "theirs", device)
            run("lvcreate", "-y", "-an", "-Zn", "-l1", "-n", "root", "theirs")
            subprocess.run(["vgchange", "-an", "theirs"], check=False, capture_output=True)
        run("udevadm", "settle")
        cloud.detach(disk)
        run("udevadm", "settle")
        return image

    return make


def active() -> set[str]:
    """Names of what stands on other disks."""
    nodes = run("dmsetup", "ls").replace("No devices found", "").split("\n")
    return {line.split()[0] for line in nodes if line} | {each.name for each in Path("/sys/block").glob("md*")}


def settle_down(cloud: Cloud) -> None:
    subprocess.run(["vgchange", "-an"], check=False, capture_output=True)
    for array in Path("/sys/block").glob("md*"):
        subprocess.run(["mdadm", "--stop", f"/dev/{array.name}"], check=False, capture_output=True)


@pytest.mark.parametrize("scsi", [False, True])
@pytest.mark.parametrize("what", ["ext4", "md", "lvm"])
def test_what_a_disk_carries_is_found_without_the_rules_and_left_alone_with_them(cloud, carrying, rules, what, scsi):
    image = carrying(what)
    by_uuid = Path("/dev/disk/by-uuid") / OWN
    disk = plug(cloud, image, scsi=scsi)
    if what == "ext4":
        assert by_uuid.resolve() == Path("/dev") / disk.device(), "without the rules its file system is linked"
    else:
        until(active, "without the rules what it carries is started")
    settle_down(cloud)
    cloud.detach(disk)
    rules()
    disk = plug(cloud, image, scsi=scsi)
    assert not by_uuid.is_symlink() and active() == set()
    facts = run("udevadm", "info", "--query=property", f"/dev/{disk.device()}")
    assert "OMA_REPLICA=1" in facts and "ID_FS_TYPE" not in facts and "SYSTEMD_READY=0" in facts
    with (Path("/dev") / disk.device()).open("r+b") as file:  # whoever closes it after writing wakes nobody
        file.write(file.read(1))
    run("udevadm", "settle")
    assert not by_uuid.is_symlink() and active() == set()


@pytest.mark.parametrize("scsi", [False, True])
def test_a_guests_file_system_does_not_take_over_the_appliances_own_link(cloud, carrying, rules, tmp_path, scsi):
    image = carrying("ext4")
    own = plug(cloud, image, scsi=scsi)
    run("mount", "-t", "ext4", f"/dev/{own.device()}", tmp_path)
    try:
        rules()  # while it is mounted: it is one of the appliance's own
        link = Path("/dev/disk/by-uuid") / OWN
        assert link.resolve() == Path("/dev") / own.device()
        theirs = cloud.image(SIZE)
        shutil.copyfile(image, theirs)
        other = plug(cloud, theirs, scsi=scsi)
        run("udevadm", "trigger", "--action=change", f"/dev/{own.device()}")
        run("udevadm", "settle")
        assert link.resolve() == Path("/dev") / own.device()
        named = f"scsi-0QEMU_QEMU_HARDDISK_{other.serial}" if scsi else f"virtio-{other.serial}"
        assert (Path("/dev/disk/by-id") / named).resolve() == Path("/dev") / other.device()
    finally:
        run("umount", tmp_path)
