"""Exports past the page cache (O_DIRECT), on files and on devices of both sector sizes; a disk that fails to sync."""

import os
import subprocess
from pathlib import Path

import pytest

from omavol.nbd.wire import Command, CommandFlag, Error
from omavol.serve.errors import ExportRefused
from raw_client import Raw

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB


def run(*argv):
    return subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, timeout=30)


@pytest.fixture(params=[512, 4096])
def device(request, image):
    """The image as a block device with direct I/O and sectors of that size: (path, size of a sector)."""
    if os.geteuid() != 0:
        pytest.skip("only root can attach a loop device")
    attached = run("losetup", "--find", "--show", "--direct-io=on", "--sector-size", request.param, image)
    if attached.returncode:
        pytest.skip(f"this kernel has no such loop device to give: {attached.stderr.strip()}")
    yield Path(attached.stdout.strip()), request.param
    run("blockdev", "--setrw", attached.stdout.strip())  # the next one to attach it would inherit that
    run("losetup", "--detach", attached.stdout.strip())


def told_minimum(served):
    """The smallest block that nbdinfo was told, which asks for it."""
    text = subprocess.run(["nbdinfo", served.uri], capture_output=True, text=True, timeout=30, check=True).stdout
    return int(next(line.split(":")[1] for line in text.splitlines() if "block_size_minimum" in line))


def test_a_device_is_read_and_written_past_the_page_cache(serve, device, image):
    path, sector = device
    before = image.read_bytes()
    served = serve(default=path, direct=True)
    assert told_minimum(served) == sector
    client = served.client()
    assert client.read(0, SIZE) == before
    assert client.read(sector, 3 * sector) == before[sector : 4 * sector]
    for offset, length in ((0, sector), (8 * sector, 64 * KIB), (MIB, 2 * MIB)):
        assert client.ask(Command.WRITE, offset, length, b"d" * length) == 0
        assert client.read(offset, length) == b"d" * length
    assert client.ask(Command.WRITE, 4 * sector, sector, b"f" * sector, flags=CommandFlag.FUA) == 0
    assert client.ask(Command.FLUSH) == 0
    assert image.read_bytes()[4 * sector : 5 * sector] == b"f" * sector


def test_x38_a_device_zeroes_and_trims_whole_sectors(serve, device):
    path, sector = device
    client = serve(default=path, direct=True).client()
    assert client.ask(Command.WRITE_ZEROES, 2 * sector, 6 * sector) == 0
    assert client.ask(Command.WRITE_ZEROES, MIB, MIB, flags=CommandFlag.NO_HOLE) == 0
    assert client.ask(Command.TRIM, 3 * MIB, MIB) == 0
    assert client.read(2 * sector, 6 * sector) == bytes(6 * sector)
    assert client.read(MIB, MIB) == bytes(MIB)


@pytest.mark.parametrize("structured", [True, False])
def test_x17_x18_who_never_asked_for_the_blocks_gets_clean_errors_and_corrupts_nothing(serve, device, structured):
    path, sector = device
    client = serve(default=path, direct=True).client(structured=structured)
    before = client.read(0, SIZE)
    for offset, length in ((1, sector), (0, sector - 1), (sector // 2, sector), (SIZE - 1, 1)):
        assert client.ask(Command.READ, offset, length) == Error.EINVAL
        assert client.ask(Command.WRITE, offset, length, b"x" * length) == Error.EINVAL
        assert client.ask(Command.WRITE_ZEROES, offset, length) == Error.EINVAL
    assert client.read(0, SIZE) == before


def test_a_read_only_device_is_served_for_reading_alone(serve, device, image):
    path, _ = device
    assert run("blockdev", "--setro", path).returncode == 0
    with pytest.raises(ExportRefused, match="is read-only"):
        serve(default=path, direct=True)
    client = serve(default=path, direct=True, read_only=True).client()
    assert client.read(0, MIB) == image.read_bytes()[:MIB]
    assert client.ask(Command.WRITE, 0, 4096, bytes(4096)) == Error.EPERM


def test_h47_a_file_that_ends_inside_a_block_is_not_served_directly(serve, place):
    path = place / "odd"
    path.write_bytes(bytes(10_000))
    with pytest.raises(ExportRefused) as caught:
        serve(default=path, direct=True)
    assert caught.value.code == "uneven_size"


def test_a_file_is_copied_both_ways_past_the_page_cache_by_nbdcopy(serve, image, place):
    fresh = place / "fresh"
    fresh.write_bytes(bytes(SIZE))
    served = serve(default=image, copy=fresh, direct=True)
    target = f"nbd+unix:///copy?socket={served.path}"
    subprocess.run(["nbdcopy", "--flush", served.uri, target], check=True, timeout=60)
    assert fresh.read_bytes() == image.read_bytes()


def test_a_retarget_to_larger_blocks_than_clients_were_told_is_refused(served, place):
    fresh = place / "fresh"
    fresh.write_bytes(bytes(SIZE))
    descriptor = os.open(fresh, os.O_RDWR | os.O_DIRECT)
    with pytest.raises(ExportRefused) as caught:
        served.table.retarget("", descriptor, SIZE)
    os.close(descriptor)
    assert caught.value.code == "block_differs"


@pytest.fixture
def failing(tmp_path):
    """A device whose sync fails: its image lies on a file system with no room for it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    if run("mount", "-t", "tmpfs", "-o", "size=1M", "none", tmp_path).returncode:
        pytest.skip("this machine mounts nothing")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
    attached = run("losetup", "--find", "--show", image)
    if attached.returncode:
        run("umount", tmp_path)
        pytest.skip(f"this kernel has no loop device to give: {attached.stderr.strip()}")
    yield Path(attached.stdout.strip())
    run("losetup", "--detach", attached.stdout.strip())
    run("umount", "--lazy", tmp_path)


def test_x23_a_sync_that_failed_fails_every_later_one_until_the_export_is_opened_anew(serve, failing):
    served = serve(default=failing)
    client = served.client()
    assert client.ask(Command.WRITE, 0, 3 * MIB, b"l" * (3 * MIB)) == 0
    assert client.ask(Command.FLUSH) == Error.EIO
    for _ in range(3):  # the kernel would say yes to these: it has told its error once
        assert client.ask(Command.FLUSH) == Error.EIO
    assert client.ask(Command.WRITE, 0, 512, bytes(512), flags=CommandFlag.FUA) == Error.EIO
    with Raw(served.path) as other:
        assert other.ask(Command.FLUSH) == Error.EIO
    assert served.export().failed != 0
    assert served.table.remove("").failed != 0


def test_x23_of_syncs_that_run_at_once_none_says_yes_when_one_has_failed(serve, failing):
    """The kernel tells an error to one caller of fdatasync(2) on a description; the others would hear of success."""
    served = serve(default=failing)
    clients = [served.client() for _ in range(6)]
    assert clients[0].ask(Command.WRITE, 0, 3 * MIB, b"l" * (3 * MIB)) == 0
    for client in clients:
        client.say(*(client.pack(Command.FLUSH, cookie=cookie) for cookie in range(8)))
    answers = [client.reply()[-1].error for client in clients for _ in range(8)]
    assert answers == [Error.EIO] * len(answers)
