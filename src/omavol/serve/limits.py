"""How much of everything one server may have: connections, workers, time for a handshake."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

__all__ = ["Limits", "own_limits"]

CONNECTIONS = 4096
SPARE_DESCRIPTORS = 160  # for the pipes of workers and of reads elsewhere, exports, listeners and Python itself


@dataclass(frozen=True)
class Limits:
    """`handshake` is seconds from accept to the end of the negotiation.

    Memory follows from these: a worker has 1 MiB of buffers, a connection about 200 bytes, and one whose client does
    not take its replies at most 1 MiB of them and 512 KiB of requests.
    """

    connections: int = CONNECTIONS
    client_connections: int = 0  # of one user, address or /64; 0: no limit but the one above
    workers: int = 8
    handshake: float = 10.0


def own_limits(connections: int = CONNECTIONS, client_connections: int = 0, handshake: float = 10.0) -> Limits:
    """Limits for this process on this machine; raises the soft limit of descriptors to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY:
        connections = max(1, min(connections, hard - SPARE_DESCRIPTORS))
    return Limits(connections, client_connections, max(8, 2 * (os.cpu_count() or 1)), handshake)
