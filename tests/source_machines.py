"""Real machines for the tests: images, and a qemu-storage-daemon with a monitor and FUSE exports as a running one.

What "the guest" writes goes through the FUSE exports of the process that the source freezes, as in production.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omavol.source.inventory import read_machine
from omavol.source.machine import SourceMachine

MIB = 1 << 20
KIB = 1 << 10


def short_folder() -> Path:
    """A directory with a path short enough for unix sockets."""
    return Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))


def run(*argv: str | Path) -> str:
    result = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{argv}: {result.stderr}{result.stdout}"
    return result.stdout


def make_image(path: Path, format: str, size: int) -> Path:
    run("qemu-img", "create", "-q", "-f", format, path, str(size))
    return path


def write_into(path: Path, format: str, offset: int, length: int, pattern: int) -> None:
    """Write to a closed image with qemu-io, which keeps the bitmaps of a qcow2 up to date as QEMU does."""
    run("qemu-io", "-f", format, "-c", f"write -P {pattern} {offset} {length}", path)


@dataclass
class Disk:
    """One disk of a test machine."""

    id: str
    format: str
    size: int
    file: str


@dataclass
class MachineFolder:
    """A machine's folder in an inventory, stopped until `start`; `fuse(disk)` is what the guest sees when running."""

    folder: Path
    disks: list[Disk]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @classmethod
    def create(cls, folder: Path, *disks: Disk) -> MachineFolder:
        folder.mkdir(parents=True)
        machine = cls(folder, list(disks))
        for disk in disks:
            make_image(folder / disk.file, disk.format, disk.size)
        machine.describe()
        return machine

    def describe(self, extra: str = "") -> None:
        lines = [f'id = "{self.folder.name}-id"', f'name = "{self.folder.name}"', 'qmp = "qmp.sock"', extra]
        for disk in self.disks:
            lines += ["[[disks]]", f'id = "{disk.id}"', f'file = "{disk.file}"', f'format = "{disk.format}"']
            lines += [f'node = "node-{disk.id}"', f'label = "label of {disk.id}"']
        (self.folder / "machine.toml").write_text("\n".join(lines) + "\n")

    @property
    def machine(self) -> SourceMachine:
        return read_machine(self.folder)

    def start(self, *options: str) -> None:
        """Run it: a storage daemon with the disks open under their nodes, FUSE exports, and a monitor."""
        arguments: list[str] = []
        for disk in self.disks:
            self.fuse(disk.id).touch()
            file = {"driver": "file", "filename": str(self.folder / disk.file), "discard": "unmap"}
            node: dict[str, Any] = {"driver": disk.format, "node-name": f"node-{disk.id}", "file": file}
            export = {"type": "fuse", "id": f"fuse-{disk.id}", "node-name": f"node-{disk.id}", "writable": True}
            export["mountpoint"] = str(self.fuse(disk.id))
            arguments += ["--blockdev", json.dumps(node), "--export", json.dumps(export)]
        ready = self.folder / "ready.pid"
        ready.unlink(missing_ok=True)
        chardev = f"socket,id=m,path={self.folder}/qmp.sock,server=on,wait=off"
        self.process = subprocess.Popen(
            [
                "qemu-storage-daemon",
                "--chardev",
                chardev,
                "--monitor",
                "chardev=m",
                *options,
                *arguments,
                "--pidfile",
                str(ready),
            ]
        )
        deadline = time.monotonic() + 20
        while not ready.exists():  # written when everything above stands
            assert self.process.poll() is None and time.monotonic() < deadline, "the machine did not start"
            time.sleep(0.005)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
            self.process.wait(30)
            self.process = None
            for disk in self.disks if kill else ():
                subprocess.run(["fusermount3", "-u", "-z", str(self.fuse(disk.id))], check=False, capture_output=True)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def fuse(self, disk_id: str) -> Path:
        return self.folder / f"{disk_id}.fuse"

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        """What the running guest writes and flushes."""
        descriptor = os.open(self.fuse(disk_id), os.O_RDWR)
        try:
            assert os.pwrite(descriptor, data, offset) == len(data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, disk_id: str, offset: int = 0, length: int | None = None) -> bytes:
        with self.fuse(disk_id).open("rb") as disk:
            disk.seek(offset)
            return disk.read(length)

    def bitmaps(self, disk_id: str) -> set[str]:
        """The names of the dirty bitmaps in a closed qcow2."""
        disk = next(disk for disk in self.disks if disk.id == disk_id)
        facts = json.loads(run("qemu-img", "info", "--output=json", "-U", self.folder / disk.file))
        return {bitmap["name"] for bitmap in facts["format-specific"]["data"].get("bitmaps", [])}
