"""Device-mapper by the library: nodes made, swapped, suspended, renamed, removed; their links; refusals."""

from __future__ import annotations

import subprocess
import threading
import uuid
from pathlib import Path

import pytest
from guest_world import LIMIT, MIB, run, until

from omavol.block.errors import BlockError, DeviceBusy, NoSuchNode
from omavol.block.mapper import Mapper, NewNode, error, linear

SIZE = 8 * MIB


@pytest.fixture(scope="module")
def mapper():
    with Mapper() as mapper:
        yield mapper


@pytest.fixture
def disk(cloud):
    """Plug a disk of SIZE in; gives its device."""

    def plug(content: bytes = b"") -> Path:
        plugged = cloud.attach(uuid.uuid4().hex[:20], cloud.image(SIZE, content))
        until(plugged.device, "the kernel has the disk")
        return Path("/dev") / plugged.device()

    return plug


@pytest.fixture
def node(mapper):
    """Make a node over a device; those that stand at the end are removed."""

    def make(name: str, device: Path, **options) -> NewNode:
        mapper.create([new := NewNode(name, f"OMA-{uuid.uuid4()}", linear(number(device), SIZE), **options)])
        return new

    yield make
    for each in mapper.nodes():
        if each.suspended:
            mapper.resume(each.name)
        mapper.remove(each.name)


def number(device: Path) -> str:
    return (Path("/sys/class/block") / device.name / "dev").read_text().strip()


def test_a_node_is_there_when_create_returns_and_gone_after_remove(mapper, disk, node):
    device = disk(b"content")
    new = node("web01-disk0", device)
    there = mapper.find("web01-disk0")
    assert there == mapper.find_uuid(new.uuid)
    assert (there.name, there.uuid, there.live, there.inactive) == (new.name, new.uuid, True, False)
    assert (there.openers, there.suspended, there.read_only, there.deferred) == (0, False, False, False)
    assert there.path.resolve() == Path("/dev") / f"dm-{there.number.split(':')[1]}"
    assert there.path.read_bytes()[:7] == b"content"
    assert mapper.table("web01-disk0") == new.table and mapper.beneath("web01-disk0") == [number(device)]
    mapper.remove("web01-disk0")
    assert not there.path.is_symlink() and mapper.find("web01-disk0") is None


def test_nothing_but_the_name_is_made_of_a_node(mapper, disk, node, tmp_path):
    """udev neither probes it nor links what is in it: the file system's UUID names the disk beneath at most."""
    device = disk()
    wanted = str(uuid.uuid4())
    run("mkfs.ext4", "-q", "-F", "-U", wanted, device)
    node("quiet", device)
    run("udevadm", "settle")
    links = run("udevadm", "info", "--query=symlink", "/dev/mapper/quiet").split()
    assert links == ["mapper/quiet"]
    facts = run("udevadm", "info", "--query=property", "/dev/mapper/quiet")
    assert "ID_FS_UUID" not in facts and "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1" in facts
    assert Path(f"/dev/disk/by-uuid/{wanted}").resolve() == device


def test_many_nodes_are_made_under_one_wait(mapper, disk, node):
    device = disk()
    mapper.create([NewNode(f"part{n}", f"OMA-{n}", linear(number(device), MIB, n * MIB)) for n in range(8)])
    assert all(Path(f"/dev/mapper/part{n}").exists() for n in range(8))
    assert {each.name for each in mapper.nodes()} >= {f"part{n}" for n in range(8)}


def test_another_table_while_the_node_is_open(mapper, disk, node):
    one, other = disk(b"one"), disk(b"other")
    node("swapped", one)
    with Path("/dev/mapper/swapped").open("rb", buffering=0) as file:
        assert mapper.find("swapped").openers == 1
        mapper.suspend("swapped", freeze=False)
        assert mapper.find("swapped").suspended
        mapper.suspend("swapped")
        mapper.load("swapped", linear(number(other), SIZE))
        assert mapper.find("swapped").inactive
        read = []
        reader = threading.Thread(target=lambda: read.append(direct(Path("/dev/mapper/swapped"))))
        reader.start()
        mapper.resume("swapped")
        reader.join(LIMIT)
        assert read == [b"other"]
        assert file.read(0) == b""
    assert mapper.beneath("swapped") == [number(other)]


def direct(path: Path) -> bytes:
    return subprocess.run(
        ["dd", f"if={path}", "bs=4096", "count=1", "iflag=direct"], capture_output=True, check=True
    ).stdout[:5]


def test_a_loaded_table_can_be_taken_back(mapper, disk, node):
    one, other = disk(), disk()
    node("kept", one)
    mapper.load("kept", linear(number(other), SIZE))
    mapper.clear("kept")
    mapper.resume("kept")
    assert mapper.beneath("kept") == [number(one)]


def test_the_error_target_fails_readers_instead_of_hanging_them(mapper, disk, node):
    node("lost", disk())
    mapper.load("lost", error(SIZE))
    mapper.suspend("lost", flush=False, freeze=False)
    mapper.resume("lost")
    with pytest.raises(OSError, match="Input/output error"):
        Path("/dev/mapper/lost").read_bytes()
    assert mapper.beneath("lost") == []


def test_a_node_in_use_is_refused_or_goes_with_its_last_user(mapper, disk, node):
    node("used", disk())
    with Path("/dev/mapper/used").open("rb"):
        with pytest.raises(DeviceBusy, match="node used cannot be removed: it is in use"):
            mapper.remove("used")
        mapper.remove("used", deferred=True)
        assert mapper.find("used").deferred
    until(lambda: mapper.find("used") is None, "the node is gone")


def test_a_new_name_has_a_link_of_its_own(mapper, disk, node):
    new = node("before", disk())
    mapper.rename("before", "after")
    assert Path("/dev/mapper/after").exists() and not Path("/dev/mapper/before").is_symlink()
    assert mapper.find_uuid(new.uuid).name == "after"


def test_a_read_only_node_cannot_be_written(mapper, disk, node):
    node("readable", disk(), read_only=True)
    assert mapper.find("readable").read_only
    with pytest.raises(OSError, match=r"Operation not permitted|Read-only"):
        Path("/dev/mapper/readable").write_bytes(b"x")


def test_a_node_grows_with_its_table(mapper, disk, node):
    device = disk()
    mapper.create([NewNode("small", "OMA-small", linear(number(device), MIB))])
    mapper.load("small", linear(number(device), 4 * MIB))
    mapper.resume("small")
    assert int(run("blockdev", "--getsize64", "/dev/mapper/small")) == 4 * MIB


def test_what_is_refused_says_why_and_nothing_goes_to_stderr(mapper, disk, node, capfd):
    with pytest.raises(NoSuchNode, match="node nobody cannot be suspended: there is no such node"):
        mapper.suspend("nobody")
    with pytest.raises(BlockError, match="node bad cannot be made"):
        mapper.create([NewNode("bad", "OMA-bad", linear("250:99", SIZE))])
    assert mapper.find("bad") is None
    one = node("taken", disk())
    with pytest.raises(BlockError, match="node taken cannot be made"):
        mapper.create([NewNode("taken", "OMA-again", one.table)])
    with pytest.raises(BlockError, match="node again cannot be made"):
        mapper.create([NewNode("again", one.uuid, one.table)])
    assert capfd.readouterr() == ("", "")


def test_any_thread_may_call(mapper, disk, node):
    device = disk()
    new = [NewNode(f"t{n}", f"OMA-t{n}", linear(number(device), MIB, n * MIB)) for n in range(6)]
    threads = [threading.Thread(target=mapper.create, args=[[each]]) for each in new]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert all(mapper.find(f"t{n}").live for n in range(6))
