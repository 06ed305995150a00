"""A real source machine: a qemu-storage-daemon that holds two disks open, its file system reached by FUSE and a loop.

The process is to the agent what a running QEMU is: it has a monitor, named nodes and dirty bitmaps of its own. What
"the guest" does to its disks is done through the FUSE exports of that very process, so the bitmaps see it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SourceMachine"]

MIB = 1 << 20
GIB = 1 << 30
FILES_WANTED = 320 * MIB
DATA_WANTED = 160 * MIB

INVENTORY = """\
id = "web01-5f0a"
name = "web01"
os_type = "linux"
num_cpu = 2
memory_mb = 2048
qmp = "qmp.sock"

[[disks]]
id = "disk-2000"
label = "system"
file = "system.qcow2"
format = "qcow2"
node = "system"

[[disks]]
id = "disk-2001"
label = "data"
file = "data.raw"
format = "raw"
node = "data"
"""


class SourceMachine:
    """web01 in `folder`, which is also its folder in the agent's inventory."""

    def __init__(self, folder: Path, *, system_size: int = 4 * GIB, data_size: int = 1 * GIB) -> None:
        self.folder = folder
        self.system_size = system_size
        self.data_size = data_size
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def system_disk(self) -> Path:
        """The system disk as the machine sees it: a file whose reads and writes go through the process."""
        return self.folder / "system.disk"

    @property
    def data_disk(self) -> Path:
        return self.folder / "data.disk"

    def make_images(self) -> None:
        """Make both images, empty, and the machine's file for the agent's inventory."""
        self.folder.mkdir(parents=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", str(self.folder / "system.qcow2"), str(self.system_size))
        with (self.folder / "data.raw").open("wb") as data:
            data.truncate(self.data_size)
        (self.folder / "machine.toml").write_text(INVENTORY)

    def create(self) -> None:
        """Make the machine, start it, and fill its disks: a file system with real files, and real data."""
        self.make_images()
        self.start()
        run("mkfs.ext4", "-q", "-F", "-L", "web01", str(self.system_disk))
        with self.mounted() as root:
            copy_real_files(root, FILES_WANTED)
        fill_with_real_data(self.data_disk, DATA_WANTED)

    def start(self) -> None:
        """Start the process that holds the disks open, and wait for its monitor."""
        for disk in (self.system_disk, self.data_disk):
            disk.touch()
        blockdevs, exports = [], []
        for node, image, driver in (("system", "system.qcow2", "qcow2"), ("data", "data.raw", "raw")):
            file = {"driver": "file", "filename": str(self.folder / image), "discard": "unmap"}
            blockdev = {"driver": driver, "node-name": node, "discard": "unmap", "file": file}
            mountpoint = str(self.folder / f"{node}.disk")
            export = {
                "type": "fuse",
                "id": f"fuse-{node}",
                "node-name": node,
                "mountpoint": mountpoint,
                "writable": True,
            }
            blockdevs += ["--blockdev", json.dumps(blockdev)]
            exports += ["--export", json.dumps(export)]
        pid = self.folder / "machine.pid"  # written when all is ready: a look at the monitor itself would be a client
        pid.unlink(missing_ok=True)
        chardev = f"socket,id=monitor,path={self.folder / 'qmp.sock'},server=on,wait=off"
        argv = ["qemu-storage-daemon", "--chardev", chardev, "--monitor", "chardev=monitor", *blockdevs, *exports]
        argv += ["--pidfile", str(pid)]
        with (self.folder / "machine.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        wait_until(pid.exists, self._process)

    def stop(self) -> None:
        """End the process; its FUSE exports go with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        """The system disk's file system, mounted; unmounted (so: clean) when the block ends."""
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        run("mount", "-o", "loop", str(self.system_disk), str(root))
        try:
            yield root
        finally:
            run("umount", str(root))

    def change_files(self, round_number: int) -> int:
        """Edit, add and delete files, and write into the data disk; the bytes written, as the guest counts them."""
        written = 0
        with self.mounted() as root:
            folder = root / f"changed-{round_number}"
            folder.mkdir()
            for number in range(12):
                content = os.urandom(MIB // 2)
                (folder / f"report-{number}.bin").write_bytes(content)
                written += len(content)
            victim = max((path for path in root.rglob("*") if path.is_file() and not path.is_symlink()), key=file_size)
            with victim.open("r+b") as file:
                file.seek(victim.stat().st_size // 2)
                written += file.write(os.urandom(64 * 1024))
            smallest = min(
                (path for path in root.rglob("*") if path.is_file() and not path.is_symlink()), key=file_size
            )
            smallest.unlink()
        with self.data_disk.open("r+b") as disk:
            for number in range(8):
                disk.seek(number * 100 * MIB + round_number * 4096)
                written += disk.write(os.urandom(256 * 1024))
            os.fsync(disk.fileno())
        return written

    def write_much(self, size: int) -> None:
        """Write `size` bytes of new data to the data disk: enough that a transfer of it can be interrupted."""
        with self.data_disk.open("r+b") as disk:
            disk.seek(self.data_size // 2)
            for _ in range(size // MIB):
                disk.write(os.urandom(MIB))
            os.fsync(disk.fileno())


def copy_real_files(destination: Path, wanted: int) -> None:
    """Copy this machine's own libraries and documents until `wanted` bytes are there."""
    copied = 0
    for top in (Path("/usr/lib"), Path("/usr/share"), Path("/usr/bin")):
        for folder, _, names in os.walk(top):
            for name in names:
                source = Path(folder, name)
                if not source.is_file() or source.is_symlink():
                    continue
                target = destination / source.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
                copied += target.stat().st_size
                if copied >= wanted:
                    return
    raise SystemExit(f"this machine has only {copied >> 20} MiB of files to copy, {wanted >> 20} are needed")


def fill_with_real_data(disk: Path, wanted: int) -> None:
    """Write the libraries of this machine end to end into `disk` until `wanted` bytes are there."""
    libraries = sorted(
        (path for path in Path("/usr/lib").rglob("*.so*") if path.is_file()), key=file_size, reverse=True
    )
    with disk.open("r+b") as file:
        while file.tell() < wanted:
            for library in libraries:
                with library.open("rb") as source:
                    shutil.copyfileobj(source, file, MIB)
                if file.tell() >= wanted:
                    break
        os.fsync(file.fileno())


def file_size(path: Path) -> int:
    return path.stat().st_size


def is_listening(path: str | Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def wait_until(ready: object, process: subprocess.Popen[bytes], limit: float = 60.0) -> None:
    """Poll `ready` until it is true; an error when the process ends or `limit` seconds pass first."""
    assert callable(ready)
    deadline = time.monotonic() + limit
    while not ready():
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} is not ready after {limit:.0f} s")
        time.sleep(0.01)


def run(*argv: str) -> None:
    """Run a tool; its own words when it fails."""
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(argv)} failed: {(result.stderr or result.stdout).strip()}")
