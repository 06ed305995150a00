"""In the guest: disks that come and go as a cloud plugs them, by the monitor of the QEMU that runs this machine.

A disk's bytes are a file of the job's directory, which QEMU opens at the host's path of it (OMA_JOB).
"""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from guest_world import until

from omavol.cloud.fake.qmp import Monitor

__all__ = ["CLOUD_PORT", "PORT", "PORTS", "Cloud", "Plugged", "serial_of"]

PORT = Path("/dev/virtio-ports/qmp")
CLOUD_PORT = Path("/dev/virtio-ports/qmp.cloud")  # for a fake cloud beside it, a program of its own
IMAGES = Path("/run/job/disks")
HOST_IMAGES = Path(os.environ.get("OMA_JOB", "/")) / "disks"
PORTS = int(os.environ.get("OMA_PORTS", "0"))
SERIAL_OF_VIRTIO = 20  # bytes (virtio 1.2, section 5.2.6: VIRTIO_BLK_ID_BYTES)
NUMBERS = itertools.count()  # of names that no two disks of this boot share


@dataclass(frozen=True)
class Plugged:
    """A disk in the machine. `image` is its file; `slot` the port it is in, None on the SCSI bus."""

    name: str
    serial: str
    image: Path
    slot: str | None

    @property
    def shown(self) -> str:
        """The serial as the kernel has it."""
        return self.serial if self.slot is None else self.serial[:SERIAL_OF_VIRTIO]

    def device(self) -> str | None:
        """Its name in /sys/block, None while the kernel has not found it."""
        for each in sorted(Path("/sys/block").iterdir()):
            if serial_of(each) == self.shown:
                return each.name
        return None


class Cloud:
    """Plugs disks with CloudStack's serials into this machine, and out; letters are given in the order of attach().

    It takes slots from port23 down; a fake cloud beside it has them from port0 up.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.disks: list[Plugged] = []
        self._numbers = NUMBERS
        self._free = [f"port{number}" for number in range(PORTS)]
        IMAGES.mkdir(exist_ok=True)

    def image(self, size: int, content: bytes = b"") -> Path:
        """A file for a disk, `size` bytes, beginning with `content`."""
        path = IMAGES / f"disk{next(self._numbers)}"
        with path.open("wb") as file:
            file.write(content)
            file.truncate(size)
        return path

    def attach(self, serial: str, image: Path, *, scsi: bool = False) -> Plugged:
        """Plug it in and return at once, as a cloud does; the kernel finds it some 30 ms later."""
        name = f"disk-{next(self._numbers)}"
        slot = None if scsi else self._free.pop()
        file = {"driver": "file", "filename": str(HOST_IMAGES / image.name)}
        self.monitor.ask("blockdev-add", **{"driver": "raw", "node-name": name, "file": file})
        if slot is None:
            how: dict[str, object] = {"driver": "scsi-hd", "bus": "scsi.0", "serial": serial}
        else:
            how = {"driver": "virtio-blk-pci", "bus": slot, "serial": serial}
        self.monitor.ask("device_add", id=f"{name}-device", drive=name, **how)
        self.disks.append(plugged := Plugged(name, serial, image, slot))
        return plugged

    def detach(self, disk: Plugged) -> None:
        """Take it out without asking who uses it, and wait until it is gone.

        The kernel's driver is told (ACPI's eject, SCSI's event) and lets go, its users are not: what has it open reads
        the end of a disk of no bytes and gets EIO or ENOSPC for writes. QEMU cannot pull a device unseen by the driver.
        """
        self.disks.remove(disk)
        self.monitor.ask("device_del", id=f"{disk.name}-device")
        self.monitor.wait_for("DEVICE_DELETED", f"{disk.name}-device")
        if disk.slot is not None:
            self._free.append(disk.slot)
        until(lambda: disk.device() is None, f"{disk.serial} is gone")
        self.monitor.ask("blockdev-del", **{"node-name": disk.name})

    def lose(self, disk: Plugged) -> None:
        """The storage behind it is gone: EIO for all that is asked from now on, in flight too. The device stays."""
        gone = f"{disk.name}-gone"
        size = disk.image.stat().st_size
        nothing = {"driver": "null-co", "size": size}
        always = {"event": "none", "errno": errno.EIO, "immediately": True}
        self.monitor.ask(
            "blockdev-add", **{"driver": "blkdebug", "node-name": gone, "image": nothing, "inject-error": [always]}
        )
        self.monitor.ask("blockdev-reopen", options=[{"driver": "raw", "node-name": disk.name, "file": gone}])

    def resize(self, disk: Plugged, size: int) -> None:
        self.monitor.ask("block_resize", **{"node-name": disk.name, "size": size})

    def clear(self) -> None:
        for disk in list(self.disks):
            self.detach(disk)


def serial_of(entry: Path) -> str | None:
    """The serial of a device in /sys/block: virtio-blk's own, or SCSI's page 0x80 (SPC, Unit Serial Number)."""
    try:
        if (entry / "device/vpd_pg80").exists():
            return (entry / "device/vpd_pg80").read_bytes()[4:].strip(b"\0 ").decode()
        return (entry / "serial").read_text().strip() or None
    except OSError:
        return None
