"""A copy from end to end: open, plan, move in C, flush, and say what was done.

A `Job` runs in the thread that calls `run`; everything else of it may be used from any thread meanwhile. The tool
copies without digests, by sendfile where a file is the source; a replication takes digests of what it sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from omavol import _fastio
from omavol.copy.ends import NULL, End, open_destination, open_source
from omavol.copy.errors import CopyError
from omavol.copy.extents import allocation_of
from omavol.copy.plan import Work, plan
from omavol.copy.reconnect import Attempts, reopen, without

if TYPE_CHECKING:
    from omavol.copy.digests import Digests

__all__ = ["Counters", "Job", "Options", "Result", "replicate"]

TIMEOUT = 60.0  # seconds without progress at one end
CONNECTIONS = 4
FLUSH_EVERY = 2 << 30  # bytes; with retries alone, as a flush on the way costs time

# Measured with all processes on two cores (2 GiB in page cache): what is in flight should fit the caches of the cores
# that pass it on. qemu-nbd of a qcow2 into omavol serve, with digests: 16 MiB in flight 1.28 s, 4 MiB 1.16 s, 3 MiB
# 1.07 s, 2 MiB 1.12 s. Over a network the way itself holds bytes, so there it is 16 MiB.
_REQUEST = 512 * 1024
_REQUEST_BY_SENDFILE = 1024 * 1024  # nothing is touched: fewer system calls are all that counts
_IN_FLIGHT_HERE = 3 * 1024 * 1024
_IN_FLIGHT_FAR = 16 * 1024 * 1024


class Options(NamedTuple):
    """How to copy. `rate` is bytes a second, 0 without a limit; `timeout` seconds without progress at one end.

    `destination_is_zero`: zeroes are not sent; `allocated`: they are sent so that the destination provisions them.
    `retries`: how often in a row a lost NBD connection is made anew, first after `retry_delay` seconds, each time twice
    as long; then the destination is flushed every `flush_every` bytes, which bounds what has to be sent again.
    """

    connections: int = CONNECTIONS
    digests: bool = False
    destination_is_zero: bool = False
    allocated: bool = False
    rate: int = 0
    timeout: float = TIMEOUT
    retries: int = 0
    retry_delay: float = 1.0
    flush_every: int = FLUSH_EVERY


class Counters(NamedTuple):
    """Bytes: `done` of `planned` are acknowledged; read, sent and zero count what really moved.

    `reconnects` counts connections made anew, `bytes_again` what was begun or acknowledged before and due again then.
    """

    planned: int = 0
    done: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_zero: int = 0
    reconnects: int = 0
    bytes_again: int = 0


class Result(NamedTuple):
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
        self._cancelled = Event()
        self._rate = self.options.rate
        # what loops that ended by a loss came to, and the one that runs: one value, so that no other thread sees half
        self._standing: tuple[Counters, _fastio.CopyLoop | None] = (Counters(), None)
        self._trouble: str | None = None

    def run(self) -> Result:
        """Copy and flush; CopyError says what went wrong."""
        options = self.options
        begun = time.monotonic()
        ends: dict[str, End] = {}
        try:
            source = ends["source"] = open_source(self.source, connections=options.connections, timeout=options.timeout)
            destination = ends["destination"] = open_destination(
                self.destination,
                source.size,
                connections=options.connections,
                timeout=options.timeout,
                keep=options.destination_is_zero or self.changed is not None,
                source=source,
            )
            loop = self._move(ends, self._plan(source, destination))
        finally:
            for end in ends.values():
                end.close()
        return Result(
            size=source.size,
            counters=self.counters(),
            seconds=time.monotonic() - begun,
            flushed=loop.flushed,
            digests=_digests(source.size, loop) if options.digests else None,
        )

    def _plan(self, source: End, destination: End) -> list[Work]:
        allocation = None if self.changed is not None else allocation_of(source, self.options.timeout)
        block = max(source.minimum, destination.minimum)
        return plan(source.size, allocation=allocation, changed=self.changed, block=block)

    def _move(self, ends: dict[str, End], work: list[Work]) -> _fastio.CopyLoop:
        """Move all work, in one loop or, where connections are lost and made anew, in several."""
        attempts = Attempts(self.options.retries, self.options.retry_delay)
        loop = self._loop_over(ends, work, b"")
        self._go(Counters(), loop)
        while not loop.run():
            error = self._failure(loop)
            if not loop.lost or not self.options.retries:
                raise error
            again, rest = loop.due()
            self._reconnect(ends, loop.lost, error, attempts, sum(length for _, length, _ in [*again, *rest]))
            so_far = self.counters()
            loop = self._loop_over(ends, sorted([*again, *rest]), without(loop.records(), again))
            bytes_again = so_far.bytes_again + sum(length for _, length, _ in again)
            self._go(so_far._replace(reconnects=so_far.reconnects + 1, bytes_again=bytes_again), loop)
        return loop

    def _go(self, before: Counters, loop: _fastio.CopyLoop) -> None:
        """From here on cancel and rate reach this loop; what came before is handed on."""
        self._standing = (before, loop)
        loop.rate = self._rate
        if self._cancelled.is_set():
            loop.cancel()

    def _loop_over(self, ends: dict[str, End], work: list[Work], records: bytes) -> _fastio.CopyLoop:
        options, source, destination = self.options, ends["source"], ends["destination"]
        return _fastio.CopyLoop(
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
            reconnects=options.retries > 0,
            flush_every=options.flush_every,
            records=records,
        )

    def _failure(self, loop: _fastio.CopyLoop) -> CopyError:
        assert loop.fault is not None
        return CopyError.of(loop.fault, {"source": self.source, "destination": self.destination}, self.options.timeout)

    def _reconnect(
        self, ends: dict[str, End], lost: tuple[str, ...], error: CopyError, attempts: Attempts, due: int
    ) -> None:
        """Open the lost ends anew, within the attempts; raises the error that was there last."""
        options = self.options
        gone = {side: ends.pop(side) for side in lost}
        for end in gone.values():
            end.close()
        if not due and lost == ("source",):  # all of it is durable: nothing is left to ask a source for
            ends["source"] = End("null", NULL)
            return
        while gone:
            side, old = next(iter(gone.items()))
            delay = attempts.next(due)
            if delay is None:
                raise error
            self._trouble = f"{side} lost, attempt {attempts.number} of {attempts.most}"
            if self._cancelled.wait(delay):
                raise CopyError("cancelled while reconnecting", code="copy.cancelled")
            try:
                ends[side] = reopen(old, side, connections=options.connections, timeout=options.timeout)
                del gone[side]
            except CopyError as failed:
                if not failed.passing:
                    raise
                error = failed
        self._trouble = None

    def cancel(self) -> None:
        """End soon with a CopyError of code copy.cancelled; a copy that is not begun ends as it begins."""
        self._cancelled.set()
        if (loop := self._standing[1]) is not None:
            loop.cancel()

    @property
    def trouble(self) -> str | None:
        """What keeps it from going on just now, in a few words: a lost connection that is made anew."""
        return self._trouble

    @property
    def rate(self) -> int:
        """Bytes a second, 0 without a limit; may be set while it runs."""
        return self._rate

    @rate.setter
    def rate(self, value: int) -> None:
        self._rate = value
        if (loop := self._standing[1]) is not None:
            loop.rate = value

    def counters(self) -> Counters:
        """Where it stands. After a loss `done` falls back by what is due again."""
        before, loop = self._standing
        if loop is None:
            return before
        planned = before.planned or loop.planned
        return Counters(
            planned,
            planned - loop.planned + loop.done,
            before.bytes_read + loop.bytes_read,
            before.bytes_sent + loop.bytes_sent,
            before.bytes_zero + loop.bytes_zero,
            before.reconnects,
            before.bytes_again,
        )


def _digests(size: int, loop: _fastio.CopyLoop) -> Digests:
    from omavol.copy.digests import Digests  # which a copy without them does not need

    return Digests(size, loop.records())


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
