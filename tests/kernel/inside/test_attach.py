"""`omavol attach`, `attached` and `detach`: devices that users make, lose, keep and give back (drivers/block/nbd.c)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import threading

import pytest
from benchmarks.servers import OMAVOL
from guest_world import LIMIT, MIB, SIZE, Device, run, until

from omavol.block import attach
from omavol.block.errors import DeviceBusy, NotAttached, Unattachable
from omavol.block.holders import Holder, holders_of
from omavol.block.kernelnbd import KernelNbd


@pytest.fixture
def uri(disks):
    return lambda name: f"nbd+unix:///{name}?socket={disks.socket}"


@pytest.fixture
def attached(disks, uri):
    """Attach an export; whatever is left of it at the end is let go."""
    made: list[attach.Attached] = []

    def start(name, **options):
        made.append(attach.attach(uri(name), **options))
        return made[-1]

    yield start
    with KernelNbd() as kernel:
        for each in made:
            if any(device.index == each.index for device in kernel.connected()):
                kernel.disconnect(each.index)
    for name in disks.added:
        disks.control.remove(name)
        (disks.place / name).unlink()
    disks.added.clear()


def test_the_commands_attach_show_and_detach(disks, uri, attached):
    image = disks.add("commands")
    told = json.loads(run(OMAVOL, "attach", "--json", uri("commands")))
    assert told == {"device": "/dev/nbd0", "uri": uri("commands"), "size": SIZE, "connections": 4}
    device = Device(attach.node(0), "commands")
    assert device.path.read_bytes() == image.read_bytes()
    assert disks.export("commands").connections == 4
    (shown,) = json.loads(run(OMAVOL, "attached", "--json"))
    assert shown == {"device": "/dev/nbd0", "uri": uri("commands"), "size": SIZE, "read_only": False, "holders": []}
    with device.path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"w" * MIB, MIB)
    assert run(OMAVOL, "detach", device.path) == "/dev/nbd0 is detached\n"
    assert image.read_bytes()[MIB : 2 * MIB] == b"w" * MIB
    until(lambda: disks.export("commands").connections == 0, "the server is left")


def test_a_device_is_given_by_name_and_only_once(disks, uri, attached):
    disks.add("named")
    assert attached("named", device="/dev/nbd5", connections=1).path.name == "nbd5"
    with pytest.raises(Unattachable, match="/dev/nbd5 is in use already"):
        attach.attach(uri("named"), device="/dev/nbd5")
    until(lambda: disks.export("named").connections == 1, "who was refused has left")
    with pytest.raises(NotAttached):
        attach.detach("/dev/nbd6")


def test_x7_a_device_is_read_only_on_request(disks, attached):
    disks.add("shut")
    path = attached("shut", read_only=True).path
    assert Device(path, "shut").fact("ro") == "1"
    with KernelNbd() as kernel:
        assert [device.read_only for device in kernel.connected()] == [True]


def test_who_uses_it_is_said_and_force_lets_it_fail(disks, attached, tmp_path):
    disks.add("used")
    path = attached("used").path
    run("mkfs.ext4", "-q", "-F", path)
    place = tmp_path / "a place"
    place.mkdir()
    run("mount", path, place)
    try:
        assert holders_of(path) == [Holder("mount", str(place))]
        with pytest.raises(DeviceBusy, match=r"is in use: mounted at .*/a place"):
            attach.detach(str(path))
        assert Device(path, "used").fact("size") == str(SIZE // 512)
    finally:
        run("umount", place)
    with path.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as process:
        assert Holder("process", str(process.pid), "sleep") in holders_of(path)
        attach.detach(str(path), force=True)
        process.kill()
    with KernelNbd() as kernel:
        until(lambda: kernel.connected() == [], "the last user, udev it may be, has let it go")


def test_a_server_that_is_replaced_is_met_again_and_no_write_is_lost(disks, tmp_path):
    """The server is killed under load and comes back; requests wait for it, the command says what happened."""
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    socket = tmp_path / "s"
    serve = [OMAVOL, "serve", "--unix", str(socket), f"disk={image}"]
    argv = [OMAVOL, "attach", "--keep", "--json", "--connections", "2", f"nbd+unix:///disk?socket={socket}"]

    def server():
        process = subprocess.Popen(serve, stdout=subprocess.PIPE)
        assert process.stdout.readline()
        return process

    first = server()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as keeper:
        path = json.loads(keeper.stdout.readline())["device"]
        written: list[int] = []
        over = threading.Event()

        def write():
            fd = os.open(path, os.O_WRONLY | os.O_DSYNC)
            try:
                while not over.is_set():
                    number = len(written)
                    os.pwrite(fd, bytes([number % 251 + 1]) * 65536, number % 256 * 65536)
                    written.append(number)
            finally:
                os.close(fd)

        thread = threading.Thread(target=write)
        thread.start()
        until(lambda: len(written) > 5, "some are written")
        first.kill()
        first.wait()
        first.stdout.close()
        second = server()
        before = len(written)
        until(lambda: len(written) > before + 5, "writes go on")
        over.set()
        thread.join()
        keeper.send_signal(signal.SIGTERM)
        _, said = keeper.communicate(timeout=LIMIT)
    assert keeper.returncode == 0
    assert "connections lost" in said and said.rstrip().endswith("connected again")
    with KernelNbd() as kernel:
        assert kernel.connected() == []
    second.terminate()
    second.communicate(timeout=LIMIT)
    content = image.read_bytes()
    for number in written[-200:]:
        place = number % 256 * 65536
        assert content[place : place + 65536] == bytes([number % 251 + 1]) * 65536


def test_a_device_without_a_keeper_fails_when_its_server_is_gone(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    with subprocess.Popen(
        [OMAVOL, "serve", "--unix", str(tmp_path / "s"), f"disk={image}"], stdout=subprocess.PIPE
    ) as server:
        server.stdout.readline()
        device = attach.attach(f"nbd+unix:///disk?socket={tmp_path / 's'}")
        server.kill()
    fd = os.open(device.path, os.O_WRONLY | os.O_DSYNC)
    try:
        with pytest.raises(OSError) as failed:
            os.pwrite(fd, bytes(4096), 0)
        assert failed.value.errno == errno.EIO
    finally:
        os.close(fd)
    attach.detach(str(device.path), force=True)


def test_udev_that_looks_at_a_device_does_not_keep_it(disks, attached, tmp_path):
    """It opens whatever somebody closed after writing; for a moment, and nobody is to be told of it."""
    disks.add("looked-at")
    device = attached("looked-at")
    looker = tmp_path / "(udev-worker)"
    shutil.copy("/bin/sleep", looker)
    with device.path.open("rb") as file, subprocess.Popen([looker, "60"], stdin=file) as process:
        file.close()
        until(lambda: any(each.detail == looker.name for each in holders_of(device.path)), "it looks")
        attach.detach(str(device.path))
        process.kill()
