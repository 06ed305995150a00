"""In the guest: a server with disks, the kernel's own NBD client on them, and disks that are plugged in and out."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL
from guest_world import LIMIT, SIZE, Device, Disks, run, until
from hotplug import PORT, Cloud

from omavol.cloud.fake.qmp import Monitor
from omavol.serve.client import ControlClient


@pytest.fixture(scope="session")
def disks() -> Iterator[Disks]:
    place = Path("/tmp/disks")
    place.mkdir()
    argv = [OMAVOL, "serve", "--unix", str(place / "s"), "--control", str(place / "c")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        with ControlClient(place / "c", timeout=LIMIT) as control:
            yield Disks(place / "s", control, place)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


@pytest.fixture
def attach(disks) -> Iterator[Callable[..., Device]]:
    """Attach an export to a free /dev/nbdN by nbd-client (netlink); everything is detached at the end."""
    devices: list[Device] = []

    def start(name: str, *options: object) -> Device:
        device = Device(Path(f"/dev/nbd{len(devices)}"), name)
        run("nbd-client", "-unix", disks.socket, device.path, "-N", name, "-t", 30, *options)
        devices.append(device)
        until(lambda: int(device.fact("size")) == SIZE // 512, "the device has its size")
        return device

    yield start
    for device in devices:
        with suppress(AssertionError):
            run("nbd-client", "-d", device.path)
        until(lambda: int(device.fact("size")) == 0, "the device is free again")  # noqa: B023 (called at once)
    for name in disks.added:
        disks.control.remove(name)
        (disks.place / name).unlink()
    disks.added.clear()


@pytest.fixture(scope="module")
def monitor() -> Iterator[Monitor]:
    """QEMU's monitor; its port takes one user at a time."""
    monitor = Monitor(PORT)
    yield monitor
    monitor.close()


@pytest.fixture
def cloud(monitor) -> Iterator[Cloud]:
    """What is plugged in is plugged out at the end."""
    cloud = Cloud(monitor)
    yield cloud
    cloud.clear()
