"""What this machine lacks for which part of the work, and how to get it.

Everything is looked up, nothing is changed or loaded. What is missing is no fault by itself: a server needs no nbd
module, a source host no vsock.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from omavol.block import dm
from omavol.block.errors import Unavailable
from omavol.block.kernelnbd import KernelNbd

__all__ = ["Finding", "State", "examine"]

MIB = 1 << 20
DESCRIPTORS = 4096 + 160  # what `omavol serve` wants for its connections and itself
RULES = ("57-oma-serials.rules", "58-oma-own-disks.rules", "59-oma-replicas.rules")
PIPES = 40 * MIB // 4096  # pages: of 8 workers and of 32 reads, a MiB each


class State(StrEnum):
    """A word a finding. LESS: it works, and something of it less well."""

    OK = "ok"
    LESS = "less"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """`needed_for` is the command, or the part of one, that is without it; `advice` is empty where the state is OK."""

    name: str
    state: State
    found: str
    needed_for: str
    advice: str = ""


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything; `root` is where /proc, /sys, /dev and /run are found. Never raises for what it finds."""
    return [finding for each in _CHECKS for finding in each(root)]


def _user(root: Path) -> Iterator[Finding]:
    need = "daemon, attach"
    if os.geteuid() == 0:
        yield Finding("user", State.OK, "root", need)
    else:
        yield Finding(
            "user", State.MISSING, f"user {os.geteuid()}", need, "Run these as root; serve and copy need not."
        )


def _kernel_nbd(root: Path) -> Iterator[Finding]:
    need = "attach"
    try:
        with KernelNbd():
            pass
        yield Finding("nbd client of the kernel", State.OK, "loaded", need)
    except Unavailable as error:
        yield Finding("nbd client of the kernel", State.MISSING, str(error), need, error.advice)


def _files(root: Path) -> Iterator[Finding]:
    for name, path, need, advice in (
        ("FUSE", "dev/fuse", "agent: disks of a running machine", "Load it: modprobe fuse."),
        ("vsock", "dev/vsock", "serve --vsock, nbd+vsock:// URIs", "Load it: modprobe vsock."),
        (
            "udev",
            "run/udev/control",
            "links under /dev/disk and /dev/mapper",
            "Start it: systemctl start systemd-udevd.",
        ),
    ):
        if (root / path).exists():
            yield Finding(name, State.OK, f"/{path}", need)
        else:
            yield Finding(name, State.MISSING, f"no /{path}", need, advice)


def _device_mapper(root: Path) -> Iterator[Finding]:
    need = "daemon: a volume's name for life, beneath an open export"
    there = dm.look(root / "proc/misc")
    if there.present:
        yield Finding("device-mapper", State.OK, f"driver {there.driver}", need)
    else:
        advice = "Load it: modprobe dm_mod. Without it volumes are opened as the kernel names them."
        yield Finding("device-mapper", State.LESS, there.reason or "not there", need, advice)


def _hands_off(root: Path) -> Iterator[Finding]:
    need = "daemon: nothing looks into the guests' disks"
    missing = [name for name in RULES if not (root / "etc/udev/rules.d" / name).exists()]
    if missing:
        yield Finding("udev rules", State.LESS, f"no {', '.join(missing)}", need, "Install them: deploy/README.md.")
    else:
        yield Finding("udev rules", State.OK, "installed", need)


def _kernel_tls(root: Path) -> Iterator[Finding]:
    need = "serve --tls on TCP, at less cost"
    known = _text(root / "proc/sys/net/ipv4/tcp_available_ulp").split()
    if "tls" in known:
        yield Finding("TLS of the kernel", State.OK, "available", need)
    else:
        yield Finding("TLS of the kernel", State.LESS, "not loaded", need, "Load it: modprobe tls.")


def _buffers(root: Path) -> Iterator[Finding]:
    for name, path, wanted, need in (
        ("socket buffers", "net/core/wmem_max", MIB, "serve, copy over unix sockets at full speed"),
        ("pipe size", "fs/pipe-max-size", MIB, "serve: writes and direct reads uncopied"),
        ("pipe pages of a user", "fs/pipe-user-pages-soft", PIPES, "serve: writes and direct reads uncopied"),
    ):
        told = _text(root / "proc/sys" / path)
        setting = path.replace("/", ".")
        enough = told.isdigit() and (int(told) >= wanted or (int(told) == 0 and "pages" in path))  # 0: no limit
        if enough:
            yield Finding(name, State.OK, told, need)
        else:
            yield Finding(name, State.LESS, told or "not told", need, f"Raise it: sysctl -w {setting}={wanted}")


def _descriptors(root: Path) -> Iterator[Finding]:
    need = "serve: 4096 connections"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS:
        yield Finding("open files", State.OK, "no limit" if hard == resource.RLIM_INFINITY else str(hard), need)
    else:
        advice = f"Raise it: ulimit -Hn {DESCRIPTORS}, or LimitNOFILE={DESCRIPTORS} in the unit."
        yield Finding("open files", State.LESS, str(hard), need, advice)


def _programs(root: Path) -> Iterator[Finding]:
    for name, need, package in (
        ("qemu-img", "agent: images other than raw", "qemu-utils"),
        ("qemu-storage-daemon", "agent: machines that do not run", "qemu-system-common"),
    ):
        path = shutil.which(name)
        if path:
            yield Finding(name, State.OK, path, need)
        else:
            yield Finding(name, State.MISSING, "not in the PATH", need, f"Install it: apt-get install {package}")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


_CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    *(_user, _kernel_nbd, _files, _device_mapper, _hands_off, _kernel_tls, _buffers, _descriptors, _programs),
)
