"""Which node is a disk, and whether its change record can be trusted, from what QEMU says of its nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from omavol.source.machine import SourceDisk
from omavol.source.nodes import change_record, find_disk, nodes_from

GOOD = {"recording": True, "busy": False, "persistent": True, "granularity": 65536, "count": 0}


def node(name="disk", driver="qcow2", filename="/d.qcow2", bitmaps=None, compat="1.1", read_only=False):
    specific = {"type": "qcow2", "data": {"compat": compat}} if driver == "qcow2" else {}
    return {
        "node-name": name,
        "drv": driver,
        "ro": read_only,
        "image": {"filename": filename, "virtual-size": 1 << 20, "format-specific": specific},
        "dirty-bitmaps": bitmaps,
    }


# The bitmap of point P as QEMU shows it, whether it is read, and a word of the reason.
RECORDS = [
    ("P", [{"name": "oma-P", **GOOD}], True, "changes since P"),
    (None, [{"name": "oma-P", **GOOD}], False, "no point"),
    ("P", None, False, "no record"),
    ("P", [{"name": "oma-Q", **GOOD}, GOOD], False, "no record"),
    ("P", [{"name": "oma-P", **GOOD, "inconsistent": True, "recording": False}], False, "inconsistent"),
    ("P", [{"name": "oma-P", **GOOD, "recording": False}], False, "switched off"),
    ("P", [{"name": "oma-P", **GOOD, "busy": True}], False, "another program"),
]


@pytest.mark.parametrize(("base", "bitmaps", "is_read", "words"), RECORDS)
def test_a_record_is_read_only_when_it_is_whole(base, bitmaps, is_read, words):
    (found,) = nodes_from([node(bitmaps=bitmaps)]).values()
    bitmap, reason = change_record(found, base)
    assert (bitmap == "oma-P") is is_read
    assert (bitmap is None) is not is_read
    assert words in reason


@pytest.mark.parametrize(
    ("shown", "keeps"),
    [(node(), True), (node(compat="0.10"), False), (node(driver="raw"), False), (node(read_only=True), False)],
)
def test_a_qcow2_of_version_3_keeps_its_bitmaps(shown, keeps):
    (found,) = nodes_from([shown]).values()
    assert found.keeps_bitmaps is keeps


def test_a_disk_is_its_named_node_or_the_only_one_of_its_format_over_its_file():
    nodes = nodes_from([node(), node("file", "file"), node("oma-1-0"), node("other", filename="/e.qcow2")])
    by_file = SourceDisk(id="disk-2000", file=Path("/d.qcow2"), format="qcow2", label="")
    assert find_disk(nodes, by_file).name == "disk"
    assert find_disk(nodes, SourceDisk("disk-2000", Path("/x"), "qcow2", "", node="other")).name == "other"
    assert find_disk(nodes, SourceDisk("disk-2000", Path("/d.qcow2"), "qcow2", "", node="gone")) is None
    assert find_disk(nodes_from([node(), node("twin")]), by_file) is None
