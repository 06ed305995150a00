"""What each peer offers, and why a cell of the matrix is empty where it does not."""

from __future__ import annotations

from collections.abc import Mapping

FEATURES = ("read", "write", "trim", "zero", "status", "large", "plain", "extended", "list", "x509", "psk")
INSIDE_TLS = ("read", "write", "list")  # what is done in the columns of TLS, of what the peer can do at all

_THROUGH = "cannot be seen through what it serves on"

# As clients of ours: what each can be told to do.
CLIENTS: Mapping[str, tuple[str, str]] = {
    "libnbd": ("read write trim zero status large plain extended list x509 psk", ""),
    "nbdcopy": ("read write large x509 psk", "it copies, no more; which form it chose cannot be seen"),
    "nbdinfo": ("status extended list x509 psk", "it tells, it moves no data"),
    "qemu-img": ("read write status x509 psk", "it has no command for it"),
    "qemu-io": ("read write trim zero large x509 psk", "it has no command for it"),
    "qemu-storage-daemon": ("read write trim zero status large x509 psk", _THROUGH),
    "nbdkit": ("read write trim zero status large x509 psk", _THROUGH),
    "fio": ("read write trim large", "its engine reads, writes and trims"),
    "nbd-client": ("list x509", "without the kernel's module it lists, no more: tests/kernel has the rest"),
}

# As servers for ours.
SERVERS: Mapping[str, tuple[str, str]] = {
    "nbdkit": ("read write trim zero status large plain list x509 psk", "it has no extended headers"),
    "qemu-nbd": ("read write trim zero status large plain extended list x509 psk", ""),
    "qemu-storage-daemon": ("read write trim zero status large plain extended list x509 psk", ""),
    "nbd-server": ("read write trim large plain list x509", "it has no contexts, WRITE_ZEROES, extended headers"),
}

# Why a peer has no session inside TLS of this kind.
WITHOUT: Mapping[tuple[str, str], str] = {
    ("fio", "x509"): "its libnbd may not read the files that a URI names",
    ("fio", "psk"): "its libnbd may not read the files that a URI names",
    ("nbd-client", "psk"): "it knows certificates alone",
    ("nbd-server", "psk"): "it knows certificates alone",
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
        return WITHOUT.get((peer, feature), reason)
    if peer == "nbd-client" and newest:
        return "only Debian 12's is at hand"
    return None if newest else SINCE.get((peer, feature))
