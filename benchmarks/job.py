"""A lane that runs one pass of a replication as the agent does: in a process that is already there, with digests."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from benchmarks.race import Lane, Sample, processor_seconds
from benchmarks.servers import Server
from omavol.copy.engine import Counters, replicate
from omavol.copy.extents import dirty_extents

__all__ = ["JobLane"]


@dataclass
class JobLane:
    """Copies `source` into `destination`: all of it, or what the meta context `context` says is dirty."""

    name: str
    source: Server
    destination: Server
    context: str | None = None
    counters: Counters | None = None

    @property
    def lane(self) -> Lane:
        return Lane(self.name, self.run)

    def run(self) -> Sample:
        mine, servers = processor_time(), self._servers_time()
        start = time.perf_counter()
        changed = dirty_extents(self.source.uri, self.context) if self.context else None
        result = replicate(self.source.uri, self.destination.uri, changed=changed)
        seconds = time.perf_counter() - start
        assert result.flushed
        self.counters = result.counters
        return Sample(seconds, processor_time() - mine, self._servers_time() - servers)

    def _servers_time(self) -> float:
        return processor_seconds(self.destination.pid)


def processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
