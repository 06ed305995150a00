"""Who uses a block device: mounts, swap, devices built on it, and processes that have it open.

From /proc and /sys alone (proc(5), sysfs); a device's partitions count as the device. What another user's process has
open is seen by root only.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holder", "holders_of", "users_of"]

SYS = Path("/sys")
PROC = Path("/proc")
UDEV = frozenset({"(udev-worker)", "systemd-udevd"})


@dataclass(frozen=True)
class Holder:
    """`kind` is "mount", "swap", "device" or "process"; `name` the mount point, the device, or the process id.

    `detail` is the name of a device-mapper device, the level of an md one, or the command of a process.
    """

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        """
        >>> print(Holder("device", "dm-3", "web01-disk0"), Holder("mount", "/srv"), Holder("process", "71", "qemu"))
        device dm-3 (web01-disk0) mounted at /srv process 71 (qemu)
        """
        said = f"mounted at {self.name}" if self.kind == "mount" else f"{self.kind} {self.name}"
        return f"{said} ({self.detail})" if self.detail else said


def holders_of(device: Path) -> list[Holder]:
    """Everybody who holds a block device, this process excepted. OSError if there is no such device."""
    number = device.stat().st_rdev
    numbers = {number, *_partitions(number)}
    found = [*_mounts(numbers), *_swaps(numbers)]
    for each in sorted(numbers):
        found += _built_on(each)
    return [*found, *_processes(numbers)]


def users_of(device: Path) -> list[Holder]:
    """Those who mean it: udev looks at a device for a moment whenever somebody who wrote to it closes it."""
    return [each for each in holders_of(device) if each.detail not in UDEV]


def _entry(number: int) -> Path:
    return SYS / "dev/block" / f"{os.major(number)}:{os.minor(number)}"


def _number(text: str) -> int:
    major, _, minor = text.strip().partition(":")
    return os.makedev(int(major), int(minor))


def _partitions(number: int) -> Iterator[int]:
    for each in _entry(number).glob("*/partition"):
        yield _number((each.parent / "dev").read_text())


def _mounts(numbers: set[int]) -> list[Holder]:
    """Of every mount namespace that a process lives in: the third field is the device, the fifth the place."""
    found: dict[str, None] = {}
    for table in _mount_tables():
        for line in table.splitlines():
            fields = line.split(" ")
            if len(fields) > 4 and _number(fields[2]) in numbers:
                found[_unescaped(fields[4])] = None
    return [Holder("mount", place) for place in found]


def _mount_tables() -> Iterator[str]:
    seen: set[str] = set()
    for process in ["self", *_process_ids()]:
        try:
            space = str((PROC / process / "ns/mnt").readlink())
            if space not in seen:
                yield (PROC / process / "mountinfo").read_text(errors="surrogateescape")
                seen.add(space)
        except OSError:  # it has ended, or is another user's
            continue


def _unescaped(text: str) -> str:
    r"""
    >>> _unescaped(r"/mnt/two\040words")
    '/mnt/two words'
    """
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _swaps(numbers: set[int]) -> Iterator[Holder]:
    for line in (PROC / "swaps").read_text().splitlines()[1:]:
        path = _unescaped(line.split()[0])
        if _device_at(Path(path)) in numbers:
            yield Holder("swap", path)


def _built_on(number: int) -> Iterator[Holder]:
    """Device-mapper and md devices, loop devices and bcache: whoever claims a device below it."""
    folder = _entry(number) / "holders"
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        yield Holder("device", each.name, _first_text(each / "dm/name", each / "md/level"))


def _first_text(*paths: Path) -> str:
    for path in paths:
        try:
            return path.read_text().strip()
        except OSError:
            continue
    return ""


def _processes(numbers: set[int]) -> Iterator[Holder]:
    own = str(os.getpid())
    for process in _process_ids():
        if process != own and any(_device_at(each) in numbers for each in _open_files(process)):
            yield Holder("process", process, _first_text(PROC / process / "comm"))


def _process_ids() -> list[str]:
    return sorted((each.name for each in PROC.iterdir() if each.name.isdigit()), key=int)


def _open_files(process: str) -> list[Path]:
    try:
        return list((PROC / process / "fd").iterdir())
    except OSError:
        return []


def _device_at(path: Path) -> int | None:
    """The number of a block device; None for anything else, and for what cannot be looked at."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_rdev if stat.S_ISBLK(facts.st_mode) else None
