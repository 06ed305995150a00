"""A copy from end to end: open, plan, move in C, flush, and say what was done.

A `Job` runs in the thread that calls `run`; everything else of it may be used from any thread meanwhile. The tool
copies without digests, by sendfile where a file is the source; a replication takes digests of what it sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from omavol import _fastio
from omavol.copy.digests import Digests
from omavol.copy.ends import End, open_destination, open_source
from omavol.copy.errors import CopyError
from omavol.copy.extents import allocation_of
from omavol.copy.plan import Work, plan

__all__ = ["Counters", "Job", "Options", "Result", "replicate"]

TIMEOUT = 60.0  # seconds without progress at one end
CONNECTIONS = 4

# Measured with all processes on two cores (2 GiB in page cache): what is in flight should fit the caches of the cores
# that pass it on. qemu-nbd of a qcow2 into omavol serve, with digests: 16 MiB in flight 1.28 s, 4 MiB 1.16 s, 3 MiB
# 1.07 s, 2 MiB 1.12 s. Over a network the way itself holds bytes, so there it is 16 MiB.
_REQUEST = 512 * 1024
_REQUEST_BY_SENDFILE = 1024 * 1024  # nothing is touched: fewer system calls are all that counts
_IN_FLIGHT_HERE = 3 * 1024 * 1024
_IN_FLIGHT_FAR = 16 * 1024 * 1024


@dataclass(frozen=True)
class Options:
    """How to copy. `rate` is bytes a second, 0 without a limit; `timeout` seconds without progress at one end.

    `destination_is_zero`: zeroes are not sent; `allocated`: they are sent so that the destination provisions them.
    """

    connections: int = CONNECTIONS
    digests: bool = False
    destination_is_zero: bool = False
    allocated: bool = False
    rate: int = 0
    timeout: float = TIMEOUT


@dataclass(frozen=True)
class Counters:
    """Bytes: `done` of `planned` are acknowledged; read, sent and zero count what really moved."""

    planned: int = 0
    done: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_zero: int = 0


@dataclass(frozen=True)
class Result:
    """A finished copy: every byte was acknowledged. `flushed` is False only where the destination offers no flush."""

    size: int
    counters: Counters
    seconds: float
    flushed: bool
    digests: Digests | None = None


class Job:
    """One copy. `run` once, in one thread; `counters`, `cancel` and `rate` from any, before, during and after it."""

    def __init__(
        self,
        source: str,
        destination: str,
        options: Options | None = None,
        *,
        changed: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.source = source
        self.destination = destination
        self.options = options or Options()
        self.changed = changed
        self._loop: _fastio.CopyLoop | None = None
        self._cancelled = False
        self._rate = self.options.rate

    def run(self) -> Result:
        """Copy and flush; CopyError says what went wrong."""
        options = self.options
        begun = time.monotonic()
        with ExitStack() as stack:
            source = stack.enter_context(
                open_source(self.source, connections=options.connections, timeout=options.timeout)
            )
            destination = stack.enter_context(
                open_destination(
                    self.destination,
                    source.size,
                    connections=options.connections,
                    timeout=options.timeout,
                    keep=options.destination_is_zero or self.changed is not None,
                    source=source,
                )
            )
            loop = self._move(source, destination, self._plan(source, destination))
        return Result(
            size=source.size,
            counters=self.counters(),
            seconds=time.monotonic() - begun,
            flushed=loop.flushed,
            digests=Digests(source.size, loop.records()) if options.digests else None,
        )

    def _plan(self, source: End, destination: End) -> list[Work]:
        allocation = None if self.changed is not None else allocation_of(source, self.options.timeout)
        block = max(source.minimum, destination.minimum)
        return plan(source.size, allocation=allocation, changed=self.changed, block=block)

    def _move(self, source: End, destination: End, work: list[Work]) -> _fastio.CopyLoop:
        options = self.options
        loop = _fastio.CopyLoop(
            source,
            destination,
            work,
            digests=options.digests,
            scan_zeroes=source.kind == "nbd" and not options.allocated,
            destination_is_zero=options.destination_is_zero or destination.empty,
            allocated=options.allocated,
            timeout=options.timeout,
            rate=self._rate,
            request_size=_REQUEST_BY_SENDFILE if source.kind == "file" and not options.digests else _REQUEST,
            in_flight=_IN_FLIGHT_HERE if source.near and destination.near else _IN_FLIGHT_FAR,
        )
        self._loop = loop  # from here on cancel and rate reach it; what came before is handed on
        loop.rate = self._rate
        if self._cancelled:
            loop.cancel()
        if not loop.run():
            assert loop.fault is not None
            raise CopyError.of(loop.fault, {"source": self.source, "destination": self.destination}, options.timeout)
        return loop

    def cancel(self) -> None:
        """End soon with a CopyError of code copy.cancelled; a copy that is not begun ends as it begins."""
        self._cancelled = True
        if self._loop is not None:
            self._loop.cancel()

    @property
    def rate(self) -> int:
        """Bytes a second, 0 without a limit; may be set while it runs."""
        return self._rate

    @rate.setter
    def rate(self, value: int) -> None:
        self._rate = value
        if self._loop is not None:
            self._loop.rate = value

    def counters(self) -> Counters:
        """Where it stands."""
        loop = self._loop
        if loop is None:
            return Counters()
        return Counters(loop.planned, loop.done, loop.bytes_read, loop.bytes_sent, loop.bytes_zero)


def replicate(
    source: str,
    destination: str,
    *,
    changed: Sequence[tuple[int, int]] | None = None,
    connections: int = CONNECTIONS,
    rate: int = 0,
    timeout: float = TIMEOUT,
    started: Callable[[Job], None] | None = None,
) -> Result:
    """One pass of a replication, with digests: all that is allocated, or only the ranges in `changed`.

    `started` gets the Job before it runs, to poll its counters, change its rate or cancel it from another thread.
    """
    options = Options(connections=connections, digests=True, rate=rate, timeout=timeout)
    job = Job(source, destination, options, changed=changed)
    if started is not None:
        started(job)
    return job.run()
