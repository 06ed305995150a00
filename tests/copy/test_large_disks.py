"""Extents of disks past 4 GiB are asked for in parts whose lengths fit the protocol's 32 bits."""

import subprocess

from benchmarks.servers import qemu_nbd

from omavol.copy.extents import dirty_extents

GIB = 1 << 30


def test_dirty_extents_of_a_disk_of_64_gib(tmp_path):
    """A length of 64 GiB, cut to 32 bits, is 0: the server refused it."""
    image = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64G"], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", image, "since"], check=True)
    writes = [f"-cwrite -q -P 1 {offset} 64k" for offset in (0, 5 * GIB, 64 * GIB - 65536)]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, image], check=True, stdout=subprocess.DEVNULL)
    with qemu_nbd(image, tmp_path, fmt="qcow2", bitmap="since") as server:
        dirty = dirty_extents(server.uri, "qemu:dirty-bitmap:since")
    assert dirty == [(0, 65536), (5 * GIB, 65536), (64 * GIB - 65536, 65536)]
