"""A machine is a folder; what is wrong with one is said by file and field, and hides no other."""

from __future__ import annotations

import pytest

from omavol.source.errors import InventoryBroken, MachineUnknown
from omavol.source.inventory import Inventory, read_machine
from source_machines import MIB, Disk, MachineFolder, make_image

GOOD = 'id = "m-1"\nname = "web"\n[[disks]]\nid = "disk-2000"\nfile = "a.raw"\nformat = "raw"\n'

BROKEN = {
    "not TOML": ("id = ", "is not TOML"),
    "no id": (GOOD.replace('id = "m-1"\n', ""), "missing required field 'id'"),
    "an unknown field": ("colour = 1\n" + GOOD, "unknown field 'colour'"),
    "a wrong type": ("num_cpu = 'two'\n" + GOOD, "num_cpu"),
    "a negative size": ("memory_mb = -1\n" + GOOD, "memory_mb"),
    "an unknown format": (GOOD.replace('"raw"', '"floppy"'), "disks[0].format"),
    "an id that is none": (GOOD.replace("disk-2000", "../etc"), "disks[0].id"),
    "no disks": ('id = "m-1"\nname = "web"\ndisks = []\n', "disks"),
    "a file that is not there": (GOOD.replace("a.raw", "b.raw"), "the file of disk-2000 does not exist"),
    "a disk twice": (GOOD + '[[disks]]\nid = "disk-2000"\nfile = "c"\nformat = "raw"\n', "two disks have the id"),
    "a file twice": (GOOD + '[[disks]]\nid = "disk-2001"\nfile = "a.raw"\nformat = "raw"\n', "two disks have the file"),
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    make_image(folder / "a.raw", "raw", MIB)
    (folder / "machine.toml").write_text(GOOD)
    return tmp_path


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_description_names_its_file_and_field(root, case):
    text, words = BROKEN[case]
    (root / "web/machine.toml").write_text(text)
    with pytest.raises(InventoryBroken) as caught:
        read_machine(root / "web")
    assert words in caught.value.detail
    assert str(root / "web/machine.toml") in caught.value.detail
    assert "\n" not in caught.value.detail


def test_a_description_that_is_no_text_is_refused(root):
    (root / "web/machine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InventoryBroken, match="not TOML"):
        read_machine(root / "web")


def test_a_broken_machine_hides_no_other(root):
    (root / "broken").mkdir()
    (root / "empty").mkdir()
    (root / "broken/machine.toml").write_text("id = 1")
    listing = Inventory(root).list()
    assert [machine.name for machine in listing.machines] == ["web"]
    assert [folder.name for folder, _ in listing.problems] == ["broken", "empty"]


def test_two_machines_of_one_id_are_a_problem_of_the_second(root):
    (root / "web2").mkdir()
    make_image(root / "web2/a.raw", "raw", MIB)
    (root / "web2/machine.toml").write_text(GOOD)
    listing = Inventory(root).list()
    assert len(listing.machines) == 1
    assert "already that of" in listing.problems[0][1].detail


def test_without_a_description_the_images_are_the_disks_in_order(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for name, format in (("b.qcow2", "qcow2"), ("a.img", "raw"), ("c.vmdk", "vmdk")):
        make_image(folder / name, format, MIB)
    (folder / "notes.txt").write_text("not a disk")
    disks = read_machine(folder).disks
    assert [(disk.id, disk.file.name, disk.format) for disk in disks] == [
        ("disk-2000", "a.img", "raw"),
        ("disk-2001", "b.qcow2", "qcow2"),
        ("disk-2002", "c.vmdk", "vmdk"),
    ]


def test_a_machine_is_found_by_path_id_or_its_only_name(tmp_path):
    for name in ("one", "two"):
        MachineFolder.create(tmp_path / name, Disk("disk-2000", "raw", MIB, "d.raw"))
    inventory = Inventory(tmp_path)
    assert {inventory.find(wanted).name for wanted in ("/one", "one-id", "one")} == {"one"}
    (tmp_path / "two/machine.toml").write_text(
        (tmp_path / "two/machine.toml").read_text().replace('name = "two"', 'name = "one"')
    )
    with pytest.raises(MachineUnknown, match="2 machines are named 'one'"):
        inventory.find("one")
    with pytest.raises(MachineUnknown, match="no machine '/three'"):
        inventory.find("/three")


def test_an_inventory_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InventoryBroken, match="cannot be read"):
        Inventory(tmp_path / "nowhere").list()
