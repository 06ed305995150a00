"""Says which life of the server this is: writes are durable only if the life that took them answered the FLUSH (C5)."""

from __future__ import annotations

import secrets
from pathlib import Path

__all__ = ["incarnation"]


def incarnation() -> str:
    """Boot id, this process's start time (proc(5), field 22, ticks since boot) and 64 random bits."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot}.{started}.{secrets.token_hex(8)}"
