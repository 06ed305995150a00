"""The kernel's block devices, read from a tree like /sys/block."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omavol.block.present import Kind, present_devices, vpd_texts


def entry(root: Path, name: str, **facts: str | bytes) -> Path:
    folder = root / "block" / name
    for path, content in {"dev": "1:1", "size": "2048", "ro": "0", **facts}.items():
        file = folder / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
    return folder


def test_what_each_device_says_of_itself(tmp_path):
    page80 = b"\0\x80\0\x08  abc123"
    page83 = b"\0\x83\0\x14" + b"\2\0\0\x04text" + b"\1\3\0\x08" + bytes(8)
    entry(tmp_path, "sda", device__vpd_pg80=page80, device__vpd_pg83=page83, ro="1")
    entry(tmp_path, "vdb", serial="b3bb93101b594f6297e8", dev="252:16", size="4096")
    entry(tmp_path, "dm-0", dm__name="web01-disk0", dm__uuid="OMA-x")
    entry(tmp_path, "loop0", size="0")
    (tmp_path / "block/vdb/holders/dm-0").mkdir(parents=True)
    (tmp_path / "block/vdb/vdb1/holders/md0").mkdir(parents=True)
    node, scsi, virtio = present_devices(tmp_path)
    assert (scsi.kind, scsi.serials, scsi.read_only) == (Kind.SCSI, {"abc123", "text"}, True)
    assert (virtio.kind, virtio.serials, virtio.size) == (Kind.VIRTIO, {"b3bb93101b594f6297e8"}, 4096 * 512)
    assert (virtio.number, virtio.built_on, str(virtio.path)) == ("252:16", ("dm-0", "md0"), "/dev/vdb")
    assert (node.kind, node.label, node.uuid) == (Kind.DM, "web01-disk0", "OMA-x")


def test_a_device_that_goes_meanwhile_is_not_there(tmp_path):
    entry(tmp_path, "vda", serial="a")
    (tmp_path / "block/vdb").mkdir()
    assert [device.name for device in present_devices(tmp_path)] == ["vda"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vda", "virtio"), ("sdab", "scsi"), ("nbd3", "nbd"), ("md127", "md"), ("sr0", "other"), ("nvme0n1", "other")],
)
def test_kinds_by_name(tmp_path, name, kind):
    entry(tmp_path, name)
    assert present_devices(tmp_path)[0].kind is Kind(kind)


@pytest.mark.parametrize(
    ("page", "texts"),
    [
        (b"", []),
        (b"\0\x80\0", []),
        (b"\0\x80\0\x08short", ["short"]),  # says eight bytes, has five
        (b"\0\x80\0\4    ", []),
        (b"\0\x80\0\4\xff\xfe\xfd\xfc", []),
        (b"\0\x83\0\x20\2\0\0\x04text\2\0\0\x20cut", ["text"]),
        (b"\0\x83\0\x17\2\0\0\4disk\2\x10\0\4port\3\x28\0\3iqn", ["disk"]),
        (b"\0\x00\0\4abcd", []),
    ],
)
def test_a_page_is_read_as_far_as_it_is_whole(page, texts):
    assert vpd_texts(page) == texts


@given(st.binary(max_size=300))
def test_any_page_is_read(page):
    assert all(text.isprintable() and text for text in vpd_texts(b"\0\x83" + page))


def test_this_machine_has_devices():
    assert all(device.size for device in present_devices())
