"""What each peer offers, and why a cell of the matrix is empty where it does not."""

from __future__ import annotations

from collections.abc import Mapping

FEATURES = ("read", "write", "trim", "zero", "status", "large", "plain", "extended", "list")

# As clients of ours: what each can be told to do.
CLIENTS: Mapping[str, tuple[str, str]] = {
    "libnbd": ("read write trim zero status large plain extended list", ""),
    "nbdcopy": ("read write large", "it copies, no more; which form it chose cannot be seen"),
    "nbdinfo": ("status extended list", "it tells, it moves no data"),
    "qemu-img": ("read write status", "it has no command for it"),
    "qemu-io": ("read write trim zero large", "it has no command for it"),
    "qemu-storage-daemon": ("read write trim zero status large", "cannot be seen through what it serves on"),
    "nbdkit": ("read write trim zero status large", "cannot be seen through what it serves on"),
    "fio": ("read write trim large", "its engine reads, writes and trims"),
    "nbd-client": ("list", "without the kernel's module it lists, no more: tests/kernel has the rest"),
}

# As servers for ours.
SERVERS: Mapping[str, tuple[str, str]] = {
    "nbdkit": ("read write trim zero status large plain list", "it has no extended headers"),
    "qemu-nbd": ("read write trim zero status large plain extended list", ""),
    "qemu-storage-daemon": ("read write trim zero status large plain extended list", ""),
    "nbd-server": ("read write trim large plain list", "it has neither contexts nor WRITE_ZEROES nor extended headers"),
}

# What the older generation has not, of what the newer one has.
SINCE: Mapping[tuple[str, str], str] = {
    ("libnbd", "extended"): "libnbd has them since 1.18",
    ("nbdinfo", "extended"): "libnbd has them since 1.18",
    ("qemu-nbd", "extended"): "qemu has them since 8.2",
    ("qemu-storage-daemon", "extended"): "qemu has them since 8.2",
}


def missing(table: Mapping[str, tuple[str, str]], peer: str, feature: str, newest: bool) -> str | None:
    """Why a peer does not do this; None if it does."""
    offered, reason = table[peer]
    if feature not in offered.split():
        return reason
    if peer == "nbd-client" and newest:
        return "only Debian 12's is at hand"
    return None if newest else SINCE.get((peer, feature))
