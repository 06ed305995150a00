"""What appears in a machine when a volume is attached: nothing, files, or real disks of a QEMU."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Protocol

from omavol.cloud.fake.qmp import Monitor, Refused

__all__ = ["Files", "Hardware", "Nothing", "Qemu"]


class Hardware(Protocol):
    """Calls come one at a time, and may block. Sizes are bytes."""

    def plug(self, volume_id: str, serial: str, size: int) -> None: ...
    def unplug(self, volume_id: str) -> None: ...
    def resize(self, volume_id: str, size: int) -> None: ...
    def destroy(self, volume_id: str) -> None: ...
    def snapshot(self, volume_id: str, snapshot_id: str) -> None: ...
    def revert(self, volume_id: str, snapshot_id: str) -> None: ...
    def forget(self, snapshot_id: str) -> None: ...


class Nothing:
    """State alone."""

    def plug(self, volume_id: str, serial: str, size: int) -> None:
        pass

    def unplug(self, volume_id: str) -> None:
        pass

    def resize(self, volume_id: str, size: int) -> None:
        pass

    def destroy(self, volume_id: str) -> None:
        pass

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        pass

    def revert(self, volume_id: str, snapshot_id: str) -> None:
        pass

    def forget(self, snapshot_id: str) -> None:
        pass


class Files:
    """A sparse file a volume under `folder`, named by its id; it is there from the first attach on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def image(self, volume_id: str) -> Path:
        return self.folder / f"{volume_id}.raw"

    def plug(self, volume_id: str, serial: str, size: int) -> None:
        with self.image(volume_id).open("ab") as file:
            file.truncate(size)

    def unplug(self, volume_id: str) -> None:
        pass

    def resize(self, volume_id: str, size: int) -> None:
        if self.image(volume_id).exists():
            with self.image(volume_id).open("ab") as file:
                file.truncate(size)

    def destroy(self, volume_id: str) -> None:
        self.image(volume_id).unlink(missing_ok=True)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        _copy(self.image(volume_id), self._copy_of(snapshot_id))

    def revert(self, volume_id: str, snapshot_id: str) -> None:
        _copy(self._copy_of(snapshot_id), self.image(volume_id))

    def forget(self, snapshot_id: str) -> None:
        self._copy_of(snapshot_id).unlink(missing_ok=True)

    def _copy_of(self, snapshot_id: str) -> Path:
        return self.folder / f"{snapshot_id}.snapshot"


class Qemu(Files):
    """Disks of the QEMU behind a monitor: virtio-blk in a free port of `ports`, or `bus` of SCSI.

    `seen_as` is where the host, on which that QEMU runs, has `folder`.
    """

    def __init__(
        self, monitor: Monitor, folder: Path, seen_as: Path, ports: list[str], scsi_bus: str | None = None
    ) -> None:
        super().__init__(folder)
        self._monitor = monitor
        self._seen_as = seen_as
        self._free = list(ports)
        self._scsi_bus = scsi_bus
        self._plugged: dict[str, tuple[str, str | None]] = {}
        self._numbers = itertools.count()

    def plug(self, volume_id: str, serial: str, size: int) -> None:
        super().plug(volume_id, serial, size)
        name = f"cloud-{next(self._numbers)}"
        if not self._scsi_bus and not self._free:
            raise Refused("no port is free for the disk")
        port = None if self._scsi_bus else self._free.pop(0)
        file = {"driver": "file", "filename": str(self._seen_as / self.image(volume_id).name)}
        self._monitor.ask("blockdev-add", **{"driver": "raw", "node-name": name, "file": file})
        how = {"driver": "virtio-blk-pci", "bus": port} if port else {"driver": "scsi-hd", "bus": self._scsi_bus}
        self._monitor.ask("device_add", id=f"{name}-device", drive=name, serial=serial, **how)
        self._plugged[volume_id] = (name, port)

    def unplug(self, volume_id: str) -> None:
        """As libvirt does: ask the guest, and wait until it let go."""
        if volume_id not in self._plugged:
            return
        name, port = self._plugged.pop(volume_id)
        self._monitor.ask("device_del", id=f"{name}-device")
        self._monitor.wait_for("DEVICE_DELETED", f"{name}-device")
        self._monitor.ask("blockdev-del", **{"node-name": name})
        if port is not None:
            self._free.append(port)

    def resize(self, volume_id: str, size: int) -> None:
        super().resize(volume_id, size)
        if volume_id in self._plugged:
            self._monitor.ask("block_resize", **{"node-name": self._plugged[volume_id][0], "size": size})


def _copy(source: Path, target: Path) -> None:
    """Holes stay holes: a volume of which little was written costs little."""
    done = subprocess.run(
        ["cp", "--reflink=auto", "--sparse=always", "--", source, target], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(done.stderr.strip())
