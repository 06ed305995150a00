"""Lanes whose client is our own load generator, the same for every server."""

from __future__ import annotations

import os

from benchmarks.race import Lane, Sample, processor_seconds
from benchmarks.servers import Server
from omavol.load import Load, Result, run

__all__ = ["SECONDS", "load_lane"]

SECONDS = 0.25 if os.environ.get("OMA_BENCH") == "short" else 0.7  # of a run that lasts as long as it is let


def load_lane(
    server: Server, operation: str, *, unit: int = 0, seconds: float = SECONDS, name: str = "", **load: object
) -> Lane:
    """A unit of work is a request, or `unit` bytes; every request has to succeed."""
    wanted = Load(server.uri, operation, seconds=seconds, **load)  # type: ignore[arg-type]

    def once() -> Sample:
        before = processor_seconds(server.pid)
        result = run(wanted)
        assert result.errors == 0, result.first_error
        work = result.times.bytes / unit if unit else result.times.count
        return Sample(_seconds(result), result.user + result.system, processor_seconds(server.pid) - before, work)

    return Lane(name or server.name, once, family=server.family)


def _seconds(result: Result) -> float:
    return result.seconds + (result.flush_seconds or 0.0)
