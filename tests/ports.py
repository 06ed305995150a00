"""Ports for servers that a test starts, and starts again, by themselves."""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["free_ports"]


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens on, from below the range the kernel takes for outgoing connections."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")
