"""`omavol devices` and `omavol names`: what is said of each state, and what a machine without the parts answers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from omavol.block.present import Kind, Present
from omavol.cli.devices import lines
from omavol.schema.volumes import AtPoint, Export, ProofLevel, Torn, UnknownContent, Volume, VolumeStatus

GIB = 1 << 30
AT = datetime(2026, 1, 1, tzinfo=UTC)


def volume(status=VolumeStatus.ATTACHED, path="/dev/mapper/web01-disk0", content=None) -> Volume:
    return Volume(
        volume_id="v1",
        name="web01",
        persistent_name="web01-disk0",
        size=GIB,
        capacity=GIB,
        status=status,
        content=content or UnknownContent(),
        generation=3,
        device_path=path,
        created_at=AT,
        updated_at=AT,
    )


NODE = Present("dm-0", "253:0", Kind.DM, GIB, label="web01-disk0", uuid="OMA-v1")
DISK = Present("vdb", "252:16", Kind.VIRTIO, GIB, serials=frozenset({"b3bb93101b594f6297e8"}), built_on=("dm-0",))
OWN = Present("vda", "252:0", Kind.VIRTIO, GIB)


@pytest.mark.parametrize(
    ("shown", "present", "state", "trouble"),
    [
        (volume(), [NODE, DISK], "ok", False),
        (volume(), [NODE], "its device is gone, and its node fails", True),
        (volume(), [DISK], "it has no node", True),
        (volume(path="/dev/vdb"), [], "its device is gone", True),
        (volume(path="/dev/vdb"), [DISK], "ok", False),
        (volume(path="/srv/v.raw"), [], "ok", False),
        (volume(path=None), [], "ok", False),
        (volume(VolumeStatus.DETACHED, None), [], "detached", False),
        (volume(VolumeStatus.DETACHED, None), [NODE], "a node stands, and it is not attached here", True),
        (volume(VolumeStatus.ERROR, None), [], "in error: its device or its place is not known", True),
        (volume(path="/dev/vdb"), [Present("vdb", "1:1", Kind.VIRTIO, 512)], "its device has 512 bytes, too few", True),
        (volume(), [replace(NODE, uuid="LVM-v1"), DISK], "it has no node", True),
        (volume(), [NODE, DISK, replace(DISK, name="sdc", built_on=())], "/dev/sdc has the same serial", True),
    ],
)
def test_each_state_in_words(shown, present, state, trouble):
    line = lines([shown], {}, present, {})[0]
    assert (line.state, line.trouble) == (state, trouble)


def test_trouble_comes_first_and_what_is_no_volumes_last():
    found = lines([volume()], {}, [OWN, NODE, DISK], {"vda": ["mounted at /"]})
    assert [line.device for line in found] == ["/dev/vdb", "/dev/vda"]
    assert found[0].serial == "b3bb93101b594f6297e8"
    assert (found[1].state, found[1].holders) == ("no volume's", ("mounted at /",))
    found = lines([volume()], {}, [OWN, DISK], {})
    assert found[0].trouble


def export(status: str, served: bool) -> Export:
    return Export(
        id="e",
        volume_id="v1",
        export_name="n",
        device_path=None,
        status=status,
        served=served,
        created_at=AT,
        updated_at=AT,
    )


@pytest.mark.parametrize(
    ("status", "served", "state"),
    [("active", True, "ok"), ("pending", False, "ok"), ("active", False, "its export is not served")],
)
def test_an_export_that_nobody_serves_is_trouble(status, served, state):
    assert lines([volume()], {"v1": export(status, served)}, [NODE, DISK], {})[0].state == state


def test_a_node_that_the_record_does_not_have_is_trouble():
    (line,) = lines([], {}, [NODE, DISK], {})
    assert (line.state, line.trouble, line.name) == ("a node of no volume in the record", True, "web01-disk0")
    assert (line.volume_id, line.device) == ("v1", "/dev/vdb")


def test_without_the_record_no_disk_is_called_nobodys():
    found = lines(None, {}, [OWN, NODE, DISK], {})
    assert {line.state for line in found} == {"not known without the record"}
    assert [(line.name, line.device) for line in found] == [("web01-disk0", "/dev/vdb"), (None, "/dev/vda")]
    assert not any(line.trouble for line in found)


def test_the_serial_shown_is_the_same_each_time():
    scsi = Present("sda", "8:0", Kind.SCSI, GIB, serials=frozenset({"bbbb", "aaaa", "cc c c"}))
    assert lines([], {}, [scsi], {})[0].serial == "aaaa"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (UnknownContent(), "unknown"),
        (AtPoint(point="p7", proof=ProofLevel.DIGEST), "point p7"),
        (Torn(since_session="s", job="j", base="p6"), "torn p6"),
        (Torn(since_session="s", job="j"), "torn"),
    ],
)
def test_what_a_volume_holds(content, said):
    assert lines([volume(content=content)], {}, [NODE, DISK], {})[0].content == said


def test_without_a_daemon_the_disks_are_shown_all_the_same(tmp_path):
    argv = [OMAVOL, "devices", "--json", "--daemon", tmp_path / "nobody"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1 and "Volumes are not shown." in done.stderr and "Traceback" not in done.stderr
    assert all(line["volume_id"] is None for line in json.loads(done.stdout))


def test_names_without_device_mapper_says_why():
    if "device-mapper" in Path("/proc/misc").read_text():
        return
    done = subprocess.run([OMAVOL, "names"], capture_output=True, text=True)
    assert done.returncode == 1 and "device-mapper cannot be used" in done.stderr and "omavol doctor" in done.stderr
