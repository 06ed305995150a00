"""In the guest: a server's disks, and the devices that the kernel's own NBD client makes of them."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from omavol.schema.control import ServedExport
from omavol.serve.client import ControlClient

MIB = 1 << 20
SIZE = 16 * MIB
LIMIT = 60.0  # seconds for what takes a tenth of one on a machine


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT:g} s"
        time.sleep(0.01)


def run(*argv: object) -> str:
    done = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Disks:
    """`omavol serve --control` with exports that are files of /tmp."""

    socket: Path
    control: ControlClient
    place: Path
    added: list[str] = field(default_factory=list)

    def add(self, name: str, *, read_only: bool = False) -> Path:
        """Serve 16 MiB of random bytes under the name; gives the file."""
        path = self.fresh(name)
        with path.open("r+b") as file:
            self.control.add(name, file.fileno(), SIZE, read_only=read_only)
        self.added.append(name)
        return path

    def fresh(self, name: str) -> Path:
        path = self.place / name
        path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
        return path

    def export(self, name: str) -> ServedExport:
        return next(export for export in self.control.list().exports if export.name == name)


@dataclass
class Device:
    """/dev/nbdN as the kernel has it."""

    path: Path
    name: str

    def fact(self, name: str) -> str:
        return (Path("/sys/block") / self.path.name / name).read_text().strip()

    def ioctl(self, request: int, offset: int, length: int) -> None:
        with self.path.open("r+b", buffering=0) as file:
            fcntl.ioctl(file, request, struct.pack("QQ", offset, length))
