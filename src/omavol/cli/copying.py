"""What `omavol copy` does, without click: importing that takes the processor time of sending 400 MiB.

`main` comes here first: arguments that are plain (each option whole, as in the table) run at once; for anything else,
help and mistakes among them, `parse` gives None and the click command of `copy.py`, made from the same table, answers.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from omavol.copy.engine import CONNECTIONS, Job, Options, Result
from omavol.copy.errors import CopyError

if TYPE_CHECKING:
    from omavol.copy.progress import Progress

__all__ = ["MOST_CONNECTIONS", "SWITCHES", "VALUES", "parse", "run"]

MOST_CONNECTIONS = 16
_TICK = 0.2  # seconds between two looks at the counters

# Switches by field: how they are written, and their help.
SWITCHES: dict[str, tuple[tuple[str, ...], str]] = {
    "allocated": (("--allocated",), "Make the destination provision zeroes too."),
    "destination_is_zero": (
        ("--destination-is-zero", "--target-is-zero"),
        "The destination reads as zero: do not write holes.",
    ),
    "flush": (("--flush",), "Accepted for nbdcopy's sake: the destination is always flushed."),
    "verify": (("--verify",), "Read the destination back and compare digests."),
    "json": (("--json",), "Say on standard output what was done."),
    "progress": (("-p", "--progress"), "Show a progress bar on standard error."),
}
# Options with a number: how they are written, help, default, least, most.
VALUES: dict[str, tuple[tuple[str, ...], str, int, int, int]] = {
    "connections": (("-C", "--connections"), "NBD connections at each end.", CONNECTIONS, 1, MOST_CONNECTIONS),
    "retries": (
        ("--retries",),
        "How often in a row a lost NBD connection is made anew; what was not flushed is then sent again.",
        0,
        0,
        1000,
    ),
    "retry_delay": (("--retry-delay",), "Seconds before the first of them; each next takes twice as long.", 1, 0, 60),
}


def parse(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The fields of `run`, or None where click has to look: help, mistakes, unusual spellings.

    >>> parse(["a", "b", "--json"])["json"], parse(["a"]), parse(["a", "b", "--connections=2"])["connections"]
    (True, None, 2)
    """
    fields: dict[str, Any] = dict.fromkeys(SWITCHES, False)
    fields.update((name, value[2]) for name, value in VALUES.items())
    spelled = {spelling: name for table in (SWITCHES, VALUES) for name, row in table.items() for spelling in row[0]}
    places: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            places.append(argument)
            continue
        spelling, equals, value = argument.partition("=")
        name = spelled.get(spelling, "")
        if name in SWITCHES and not equals:
            fields[name] = True
            continue
        if name not in VALUES:
            return None
        value = value if equals else next(rest, "")
        _, _, _, least, most = VALUES[name]
        if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            return None
        fields[name] = int(value)
    if len(places) != 2:
        return None
    fields["source"], fields["destination"] = places
    return fields


def run(
    source: str,
    destination: str,
    *,
    connections: int = CONNECTIONS,
    retries: int = 0,
    retry_delay: int = 1,
    allocated: bool = False,
    destination_is_zero: bool = False,
    flush: bool = False,
    verify: bool = False,
    json: bool = False,
    progress: bool = False,
    changed_since: str | None = None,
) -> int:
    """Copy, say what went wrong in one line on standard error, and give the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would hear of Ctrl-C when the loop in C is over
    options = Options(
        connections, verify, destination_is_zero, allocated, retries=retries, retry_delay=float(retry_delay)
    )
    job = Job(source, destination, options)
    try:
        if changed_since is not None:
            job.changed = _changed(source, changed_since)
        if verify and destination == "null:":
            raise CopyError(
                "destination null: cannot be read back; leave --verify out", code="copy.open", side="destination"
            )
        with _bar(job) if progress else nullcontext():
            result = job.run()
        if verify:
            _verify(destination, result, connections)
    except CopyError as error:
        if json:
            _say(_failure(source, destination, error))
        print(f"omavol copy: {error}", file=sys.stderr)
        return 1
    if json:
        _say(_success(source, destination, result, verify))
    return 0


def _changed(source: str, since: str) -> list[tuple[int, int]]:
    """The ranges that a context marks: omavol serve's for a point, or the one named in full (qemu:dirty-bitmap:x)."""
    from omavol.copy.extents import dirty_extents

    if "://" not in source:
        raise CopyError(
            f"source {source}: a file does not know what changed; copy it from omavol serve --track",
            code="copy.context",
            side="source",
        )
    return dirty_extents(source, since if ":" in since else f"x-oma:changed-since:{since}")


def _say(facts: dict[str, object]) -> None:
    import json

    print(json.dumps(facts))


def _verify(destination: str, result: Result, connections: int) -> None:
    """Raise CopyError with the first range that is not what was sent."""
    from omavol.copy.errors import CopyError
    from omavol.copy.verify import read_back, verify

    assert result.digests is not None
    if "://" in destination:
        outcome = read_back(destination, result.digests, connections=connections)
    else:
        outcome = verify(destination, result.digests)
    if outcome.matches:
        return
    offset, length = outcome.differing[0]
    more = f", and {len(outcome.differing) - 1} more such ranges" if len(outcome.differing) > 1 else ""
    raise CopyError(
        f"destination {destination}: {length} bytes at offset {offset} are not what was sent{more}",
        code="copy.verify",
        side="destination",
        offset=offset,
    )


def _success(source: str, destination: str, result: Result, verified: bool) -> dict[str, object]:
    counters = result.counters
    return {
        "status": "completed",
        "source": source,
        "destination": destination,
        "size": result.size,
        "bytes_read": counters.bytes_read,
        "bytes_sent": counters.bytes_sent,
        "bytes_zero": counters.bytes_zero,
        "reconnects": counters.reconnects,
        "bytes_again": counters.bytes_again,
        "seconds": round(result.seconds, 6),
        "flushed": result.flushed,
        "verified": verified,
    }


def _failure(source: str, destination: str, error: CopyError) -> dict[str, object]:
    return {
        "status": "failed",
        "source": source,
        "destination": destination,
        "code": error.code,
        "side": error.side or None,
        "offset": error.offset,
        "message": str(error),
        "advice": error.advice,
    }


@contextmanager
def _bar(job: Job) -> Iterator[None]:
    """A line on standard error that follows the job, from a thread that ends with it."""
    import threading

    from omavol.copy.progress import Progress

    over = threading.Event()

    def follow() -> None:
        progress = Progress(0)
        while True:
            last = over.wait(_TICK)
            counters = job.counters()
            progress.total = counters.planned
            progress.sample(time.monotonic(), counters.done)
            print(f"\r{_line(progress, job.trouble)}", end="", file=sys.stderr, flush=True)
            if last:
                print(file=sys.stderr)
                return

    thread = threading.Thread(target=follow, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _line(progress: Progress, trouble: str | None) -> str:
    """Percent, bar, rate and time to go in 70 columns; trouble stands where rate and time would."""
    filled = int(progress.percent / 100 * 30)
    eta = progress.eta
    left = "--:--" if eta is None else f"{int(eta) // 60:02d}:{int(eta) % 60:02d}"
    bar = "#" * filled + "-" * (30 - filled)
    if trouble is not None:
        return f"{progress.percent:5.1f}% [{bar[:20]}] {trouble[:40]:40}"
    return f"{progress.percent:5.1f}% [{bar}] {progress.rate / 2**20:8.1f} MiB/s  {left} "
