"""A volume's node through its life: given, swapped under load, lost, back again, taken away; and after every crash."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from guest_world import LIMIT, MIB, run, until

from omavol import nbd
from omavol.block.errors import BlockError, DeviceBusy, ForeignNode
from omavol.block.mapper import Mapper, NewNode, linear
from omavol.block.names import MappedNames, Named

SIZE = 8 * MIB
CRASHER = """
import sys
from pathlib import Path
from omavol.block.mapper import Mapper
from omavol.block.names import MappedNames, Named
what, volume, name, size, *device = sys.argv[1:]
with Mapper() as mapper:
    getattr(MappedNames(mapper), what)(Named(volume, name, int(size)), *map(Path, device))
"""


@pytest.fixture(scope="module")
def mapper():
    with Mapper() as mapper:
        yield mapper


@pytest.fixture
def names(mapper):
    """Nothing of ours stands at the end."""
    yield (names := MappedNames(mapper))
    for node in mapper.nodes():
        if node.suspended:
            mapper.resume(node.name)
        mapper.remove(node.name)
    assert names.standing() == []


@pytest.fixture
def disk(cloud):
    """Plug in a disk that holds one letter all over; gives its device and the disk."""

    def plug(letter: bytes = b"-", serial: str = ""):
        plugged = cloud.attach(serial or uuid.uuid4().hex[:20], cloud.image(SIZE, letter * SIZE))
        until(plugged.device, "the kernel has the disk")
        return Path("/dev") / plugged.device(), plugged

    return plug


def named(name: str = "web01-disk0") -> Named:
    return Named(str(uuid.uuid4()), name, SIZE)


def test_a_name_is_given_once_and_adopted_ever_after(names, disk):
    device, _ = disk(b"a")
    volume = named()
    path = names.give(volume, device)
    (node,) = names.standing()
    assert (path, node.name, node.uuid) == (Path("/dev/mapper/web01-disk0"), "web01-disk0", volume.uuid)
    assert names.give(volume, device) == path and names.standing() == [node]
    names.take_away(volume)
    names.take_away(volume)
    assert names.standing() == [] and not path.is_symlink()


def test_a_node_shows_just_the_source_disks_size(names, disk):
    device, _ = disk()
    path = names.give(Named("v", "short", 5 * MIB + 512), device)
    assert int(run("blockdev", "--getsize64", path)) == 5 * MIB + 512
    with pytest.raises(BlockError, match="whole sectors of 512"):
        names.give(Named("w", "odd", 5 * MIB + 100), device)


def test_a_grown_volume_grows_its_node(names, disk):
    device, _ = disk()
    names.give(Named("v", "grows", MIB), device)
    path = names.give(Named("v", "grows", 4 * MIB), device)
    assert int(run("blockdev", "--getsize64", path)) == 4 * MIB


def test_the_records_name_counts(names, disk):
    device, _ = disk()
    volume = named("before")
    names.give(volume, device)
    assert names.give(Named(volume.volume_id, "after", SIZE), device) == Path("/dev/mapper/after")
    assert [node.name for node in names.standing()] == ["after"]


def test_a_node_that_is_not_ours_is_left_alone(names, mapper, disk):
    device, _ = disk()
    number = (Path("/sys/class/block") / device.name / "dev").read_text().strip()
    mapper.create([NewNode("web01-disk0", "LVM-theirs", linear(number, MIB))])
    with pytest.raises(ForeignNode, match="web01-disk0 stands already and is not ours"):
        names.give(named(), device)
    names.take_away(named())
    assert mapper.find("web01-disk0").uuid == "LVM-theirs" and names.standing() == []


def test_who_has_it_open_is_said(names, disk):
    device, _ = disk()
    volume = named()
    path = names.give(volume, device)
    with path.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        file.close()
        with pytest.raises(DeviceBusy, match=rf"process {holder.pid} \(sleep\)"):
            names.take_away(volume)
        holder.kill()
    names.take_away(volume)


def test_a_lost_device_fails_its_users_and_comes_back_under_another_letter(cloud, names, disk):
    serial = uuid.uuid4().hex[:20]
    device, plugged = disk(b"a", serial)
    volume = named()
    path = names.give(volume, device)
    with path.open("rb", buffering=0) as file:
        cloud.detach(plugged)
        names.lose(volume)
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 4096, 0)
        filler, _ = disk()
        back, _ = disk(b"b", serial)
        assert back != device or filler != device
        assert names.give(volume, back) == path
        assert os.pread(file.fileno(), 4096, 0) == b"b" * 4096


def test_a_device_that_went_and_came_back_unseen_is_taken_anew(cloud, names, disk):
    """Whatever number it has now: device-mapper has the disk that went."""
    device, plugged = disk(b"a")
    volume = named()
    path = names.give(volume, device)
    cloud.detach(plugged)
    again, _ = disk(b"b")
    names.give(volume, again)
    assert path.read_bytes() == b"b" * SIZE


def test_a_swap_shows_udev_nothing_of_what_is_on_the_device(names, disk):
    one, _ = disk()
    other, _ = disk()
    run("mkfs.ext4", "-q", "-F", other)
    volume = named()
    path = names.give(volume, one)
    names.give(volume, other)
    run("udevadm", "settle")
    assert run("udevadm", "info", "--query=symlink", path).split() == ["mapper/web01-disk0"]
    assert "ID_FS_UUID" not in run("udevadm", "info", "--query=property", path)


@contextmanager
def held(disks, name: str, path: Path):
    """No request of the export is under way inside the block: those that come wait, those that were there are done."""
    disks.control.set_filters(name, ["pause"])
    try:
        with path.open("r+b", buffering=0) as again:
            disks.control.retarget(name, again.fileno(), SIZE, same_content=True)
        yield
    finally:
        disks.control.set_filters(name, [])


def test_a_swap_under_load_gives_no_error_and_no_stale_byte(disks, names, disk):
    """Through an export of the node, onto a device with other content: reads of a page, of parts, and after writes."""
    one, _ = disk(b"a")
    other, _ = disk(b"b")
    volume = named()
    path = names.give(volume, one)
    with path.open("r+b", buffering=0) as file:
        disks.control.add("swapped", file.fileno(), SIZE)
    uri = f"nbd+unix:///swapped?socket={disks.socket}"
    swapped, stop = threading.Event(), threading.Event()
    seen: list[str] = []

    def read(length: int, first: int) -> None:
        with nbd.connect(uri, timeout=LIMIT) as client:
            at = first
            while not stop.is_set():
                before = swapped.is_set()
                content = set(client.read(at, length))
                if before and content != {ord("b")}:
                    seen.append(f"stale at {at}: {content}")
                at = (at + 8192) % (SIZE // 2)

    readers = [threading.Thread(target=read, args=args) for args in ((4096, 0), (512, 1024), (65536, 0))]
    for reader in readers:
        reader.start()
    with nbd.connect(uri, timeout=LIMIT) as client:
        assert client.read(SIZE // 2, 4096) == b"a" * 4096  # in the cache
        client.write(SIZE - 4096, b"w" * 512)
        names.give(volume, other, held(disks, "swapped", path))
        swapped.set()
        assert client.read(SIZE // 2, 4096) == b"b" * 4096
        client.write(SIZE // 2 + 512, b"n" * 512)  # a part of a page that the old device had in the cache
        client.flush()
        until(lambda: disks.export("swapped").requests > 300, "there was load")
    stop.set()
    for reader in readers:
        reader.join(LIMIT)
    assert seen == []
    disks.control.remove("swapped")
    kept, got = direct(one), direct(other)
    assert kept[SIZE - 4096 :] == b"w" * 512 + b"a" * 3584
    assert got[SIZE // 2 :][:4096] == b"b" * 512 + b"n" * 512 + b"b" * 3072
    assert set(got[: SIZE // 2] + got[SIZE // 2 + 4096 :]) == {ord("b")}


def direct(device: Path) -> bytes:
    return subprocess.run(
        ["dd", f"if={device}", "bs=1M", "iflag=direct", "status=none"], capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("point", "what"),
    [
        ("names.created", "give"),
        ("names.renamed", "give"),
        ("names.suspended", "give"),
        ("names.loaded", "give"),
        ("names.resumed", "give"),
        ("names.lost", "lose"),
        ("names.removed", "take_away"),
    ],
)
def test_after_a_crash_the_same_call_ends_where_it_was_to_end(names, disk, tmp_path, point, what):
    one, _ = disk(b"a")
    other, _ = disk(b"b")
    volume = named()
    if point != "names.created":
        names.give(named("old-name") if point == "names.renamed" else volume, one)
    if point == "names.renamed":
        volume = Named(names.standing()[0].uuid.removeprefix("OMA-"), "web01-disk0", SIZE)
    to = [other] if what == "give" and point != "names.renamed" else [one] if what == "give" else []
    crash(point, tmp_path / "log", what, volume, *to)
    getattr(names, what)(volume, *to)
    if what == "take_away":
        assert names.standing() == []
    elif what == "lose":
        with pytest.raises(OSError, match="Input/output error"):
            Path("/dev/mapper/web01-disk0").read_bytes()
    else:
        assert set(Path("/dev/mapper/web01-disk0").read_bytes()) == set(b"a" if to == [one] else b"b")
        assert not names.standing()[0].suspended


def crash(point: str, log: Path, what: str, volume: Named, *device: Path) -> None:
    """Another process does it, and dies at the point."""
    environment = {**os.environ, "OMA_FAILPOINT": point, "OMA_FAILPOINT_LOG": str(log)}
    argv = [sys.executable, "-c", CRASHER, what, volume.volume_id, volume.name, str(SIZE), *map(str, device)]
    assert subprocess.run(argv, env=environment, timeout=LIMIT).returncode == -signal.SIGKILL
    assert log.read_text() == f"{point}\n"


@pytest.mark.parametrize("then", ["give", "take_away"])
def test_what_waited_over_a_crash_goes_to_the_device_it_was_written_for(names, disk, tmp_path, then):
    """The crashed swap had loaded another device, which is not the volume's after all."""
    one, _ = disk(b"a")
    other, _ = disk(b"b")
    volume = named()
    path = names.give(volume, one)
    crash("names.loaded", tmp_path / "log", "give", volume, other)
    argv = ["dd", "if=/dev/zero", f"of={path}", "bs=4096", "count=1", "oflag=direct", "status=none"]
    with subprocess.Popen(argv) as writer:
        status = Path(f"/proc/{writer.pid}/status")
        until(lambda: "State:\tD" in status.read_text(), "the write waits in the node")
        if then == "give":
            names.give(volume, one)
        else:
            names.take_away(volume)
        assert writer.wait(LIMIT) == 0
    assert direct(one)[:8192] == bytes(4096) + b"a" * 4096
    assert set(direct(other)) == {ord("b")}


def test_a_node_whose_maker_died_before_it_had_a_table_is_made_anew(names, disk):
    device, _ = disk(b"a")
    volume = named()
    run("dmsetup", "create", "--notable", "--uuid", volume.uuid, volume.name)
    assert names.give(volume, device).read_bytes() == b"a" * SIZE


def test_a_swap_takes_a_tenth_of_three_dmsetup_calls(mapper, names, disk):
    """The same three steps on the same node, in turn; `dmsetup` without waiting for udev."""
    one, _ = disk()
    other, _ = disk()
    volume = named()
    names.give(volume, one)
    tables = [linear((Path("/sys/class/block") / each.name / "dev").read_text().strip(), SIZE) for each in (other, one)]
    ours, theirs = [], []
    for turn in range(10):
        (target,) = tables[turn % 2]
        start = time.monotonic()
        mapper.suspend(volume.name, freeze=False)
        mapper.load(volume.name, (target,))
        mapper.resume(volume.name)
        ours.append(time.monotonic() - start)
        (target,) = tables[1 - turn % 2]
        start = time.monotonic()
        run("dmsetup", "suspend", "--nolockfs", "--noudevsync", volume.name)
        line = f"{target.start} {target.length} {target.kind} {target.parameters}"
        run("dmsetup", "load", "--noudevsync", volume.name, "--table", line)
        run("dmsetup", "resume", "--noudevsync", volume.name)
        theirs.append(time.monotonic() - start)
    ratio = statistics.median(theirs) / statistics.median(ours)
    told = (
        f"ours {statistics.median(ours) * 1e3:.1f} ms, dmsetup {statistics.median(theirs) * 1e3:.1f} ms: {ratio:.1f}x"
    )
    print(told)
    assert ratio >= 5, told
