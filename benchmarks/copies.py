"""Lanes whose client is a whole program: nbdcopy in a server's own generation, and `omavol copy`."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.race import Lane, Sample, command_lane, processor_seconds
from benchmarks.servers import OMAVOL, Server
from omavol.copy.engine import Job, Options

__all__ = ["engine_lane", "nbdcopy_lane", "omavol_lane"]

_End = Server | Path | str


def _word(end: _End) -> str:
    return end.uri if isinstance(end, Server) else str(end)


def nbdcopy_lane(
    source: _End, destination: _End, server: Server, *options: str, before: Callable[[], object] | None = None
) -> Lane:
    """nbdcopy with 4 connections; `server` is the one whose name, generation and processor time the lane has."""
    argv = server.peers.command("nbdcopy", "--connections=4", *options, _word(source), _word(destination))
    environment = server.peers.environment()
    return command_lane(
        server.name, argv, server=server.pid, family=server.family, before=before, environment=environment
    )


def engine_lane(
    source: _End, destination: _End, server: Server, *, before: Callable[[], object] = lambda: None
) -> Lane:
    """The copy engine in this process, as a program uses it that is already there: no start of Python in its time."""

    def run() -> Sample:
        mine, theirs = _processor_time(), processor_seconds(server.pid)
        start = time.perf_counter()
        Job(_word(source), _word(destination), Options(connections=4)).run()
        elapsed = time.perf_counter() - start
        return Sample(elapsed, _processor_time() - mine, processor_seconds(server.pid) - theirs)

    return Lane(server.name, run, before, server.family)


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def omavol_lane(
    source: _End, destination: _End, server: Server, *, aside: bool = False, before: Callable[[], object] | None = None
) -> Lane:
    """`omavol copy` with 4 connections, as a program: it always flushes. `aside`: shown beside engine_lane."""
    argv = [OMAVOL, "copy", "--connections", "4", _word(source), _word(destination)]
    name = "omavol copy" if aside else server.name
    return replace(command_lane(name, argv, server=server.pid, family=server.family, before=before), aside=aside)
