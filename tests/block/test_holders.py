"""Who uses a block device, asked of a real kernel: mounts, partitions' mounts, swap, processes."""

import subprocess
from pathlib import Path

import pytest

from omavol.block.holders import Holder, holders_of

MIB = 1 << 20


def run(*argv):
    return subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, timeout=30)


@pytest.fixture
def device(tmp_path):
    """A loop device of 16 MiB that nobody uses."""
    image = tmp_path / "image"
    image.write_bytes(bytes(16 * MIB))
    made = run("losetup", "--find", "--show", image)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    assert run("losetup", "--detach", made.stdout.strip()).returncode == 0


def test_nobody_holds_a_fresh_device(device):
    assert holders_of(device) == []


def test_this_process_is_no_holder_and_another_is(device):
    with device.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as process:
        assert holders_of(device) == [Holder("process", str(process.pid), "sleep")]
        process.kill()
    assert holders_of(device) == []


def test_a_mount_is_told_by_its_place_and_by_a_link_to_the_device(device, tmp_path):
    assert run("mkfs.ext4", "-q", device).returncode == 0
    place = tmp_path / "two words"
    place.mkdir()
    mounted = run("mount", device, place)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    link = tmp_path / "link"
    link.symlink_to(device)
    try:
        assert holders_of(link) == [Holder("mount", str(place))]
        assert str(holders_of(device)[0]) == f"mounted at {place}"
    finally:
        assert run("umount", place).returncode == 0


def test_a_mount_in_another_namespace_is_seen_too(device, tmp_path):
    """The container's mount is none of ours, and holds the device all the same."""
    assert run("mkfs.ext4", "-q", device).returncode == 0
    script = f"mount {device} {tmp_path} && echo mounted && read wait"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inside:
        if inside.stdout.readline() != "mounted\n":
            pytest.skip("no mount namespace can be had here")
        assert holders_of(device) == [Holder("mount", str(tmp_path))]
        inside.communicate("\n", timeout=30)
    assert holders_of(device) == []


def test_swap_is_told(device):
    assert run("mkswap", device).returncode == 0
    used = run("swapon", device)
    if used.returncode:
        pytest.skip(f"this kernel takes no swap: {used.stderr.strip()}")
    try:
        assert holders_of(device) == [Holder("swap", str(device))]
    finally:
        assert run("swapoff", device).returncode == 0


def test_what_is_no_device_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        holders_of(tmp_path / "none")
