"""The kernel's own NBD client works on `omavol serve` (linux, drivers/block/nbd.c): what a user mounts is served."""

from __future__ import annotations

import errno
import mmap
import os
import threading

import pytest
from guest_world import MIB, SIZE, run, until

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F  # linux/fs.h


def test_it_reads_every_byte(disks, attach):
    image = disks.add("reads")
    device = attach("reads")
    assert device.path.read_bytes() == image.read_bytes()
    assert disks.export("reads").bytes_read >= SIZE


def test_it_writes_and_a_flush_reaches_the_server(disks, attach):
    image = disks.add("writes")
    device = attach("writes")
    flushes = disks.export("writes").flushes
    data = os.urandom(3 * MIB)
    with device.path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, MIB)
        os.fsync(file.fileno())
    assert image.read_bytes()[MIB : 4 * MIB] == data
    assert disks.export("writes").flushes > flushes


def test_it_discards_and_zeroes(disks, attach):
    image = disks.add("trims")
    device = attach("trims")
    assert int(device.fact("queue/discard_max_bytes"))
    held = image.stat().st_blocks
    device.ioctl(BLKDISCARD, 4 * MIB, 8 * MIB)
    assert image.stat().st_blocks == held - 8 * MIB // 512
    device.ioctl(BLKZEROOUT, 14 * MIB, MIB)
    with device.path.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
    assert image.read_bytes()[14 * MIB : 15 * MIB] == bytes(MIB)


def test_x7_a_read_only_export_is_a_read_only_device(disks, attach):
    image = disks.add("fixed", read_only=True)
    before = image.read_bytes()
    device = attach("fixed")
    assert device.fact("ro") == "1"
    with pytest.raises(OSError) as refused, device.path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(4096), 0)
    assert refused.value.errno in (errno.EACCES, errno.EROFS, errno.EPERM)
    assert image.read_bytes() == before


def test_x22_two_connections_are_one_disk(disks, attach):
    image = disks.add("two")
    device = attach("two", "-C", 2)
    assert disks.export("two").connections == 2
    parts = [os.urandom(2 * MIB) for _ in range(4)]

    def write(number):
        with device.path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), parts[number], 2 * number * MIB)
            os.fsync(file.fileno())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert image.read_bytes()[: 8 * MIB] == b"".join(parts)


def test_a_retarget_under_it_loses_no_write(disks, attach):
    """The file behind the device changes while it is written to; what was written is in one of the two."""
    old = disks.add("moves")
    new = disks.fresh("moves.new")
    device = attach("moves")
    written: list[int] = []
    over = threading.Event()

    def write():
        with device.path.open("r+b", buffering=0) as file:
            number = 0
            while not over.is_set() or number < 8:
                os.pwrite(file.fileno(), bytes([number % 256]) * MIB, (number % 16) * MIB)
                os.fsync(file.fileno())
                written.append(number)
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    until(lambda: len(written) >= 2, "some are written")
    with new.open("r+b") as file:
        disks.control.retarget("moves", file.fileno(), SIZE)
    before = len(written)
    until(lambda: len(written) >= before + 3, "more are written")
    over.set()
    thread.join()
    first, second = old.read_bytes(), new.read_bytes()
    for number in range(max(0, len(written) - 16), len(written)):
        for at in range(number % 16 * MIB, number % 16 * MIB + MIB, 4096):  # one write is several requests
            assert bytes([number % 256]) * 4096 in (first[at : at + 4096], second[at : at + 4096])
    assert bytes([written[-1] % 256]) * MIB == second[written[-1] % 16 * MIB :][:MIB]
    new.unlink()


def test_a_file_system_on_it_is_sound(disks, attach, tmp_path):
    image = disks.add("ext4")
    device = attach("ext4", "-C", 2)
    run("mkfs.ext4", "-q", "-F", device.path)
    place = tmp_path / "mounted"
    place.mkdir()
    data = os.urandom(5 * MIB)
    run("mount", device.path, place)
    try:
        (place / "file").write_bytes(data)
        (place / "folder").mkdir()
        run("sync", "-f", place)
    finally:
        run("umount", place)
    run("e2fsck", "-fn", device.path)
    run("e2fsck", "-fn", image)
    run("mount", device.path, place)
    try:
        assert (place / "file").read_bytes() == data
    finally:
        run("umount", place)


def test_x52_detaching_ends_its_connections_in_order(disks, attach):
    disks.add("leaves")
    device = attach("leaves", "-C", 2)
    run("nbd-client", "-d", device.path)
    until(lambda: disks.export("leaves").connections == 0, "the connections are gone")
    assert device.fact("size") == "0"
    assert disks.export("leaves").stalled_clients == 0


def test_a_removed_export_fails_reads_and_does_not_hang(disks, attach):
    disks.add("goes")
    device = attach("goes")
    disks.control.remove("goes")
    disks.added.remove("goes")
    fd = os.open(device.path, os.O_RDONLY | os.O_DIRECT)
    try:
        with pytest.raises(OSError) as failed, mmap.mmap(-1, 4096) as page:
            os.preadv(fd, [page], 8 * MIB)
        assert failed.value.errno == errno.EIO
    finally:
        os.close(fd)
