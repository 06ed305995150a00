"""`omavol copy SRC DST`: a disk from a file or NBD export to another; names and behaviour follow nbdcopy(1)."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # what a `--help` does not need is imported when a copy begins
    from omavol.copy.engine import Job, Result
    from omavol.copy.errors import CopyError
    from omavol.copy.progress import Progress

__all__ = ["command"]

_TICK = 0.2  # seconds between two looks at the counters


@click.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "-C", "--connections", type=click.IntRange(1, 16), default=4, show_default=True, help="NBD connections at each end."
)
@click.option("--allocated", is_flag=True, help="Make the destination provision zeroes too.")
@click.option(
    "--destination-is-zero", "--target-is-zero", is_flag=True, help="The destination reads as zero: do not write holes."
)
@click.option("--flush", is_flag=True, help="Accepted for nbdcopy's sake: the destination is always flushed.")
@click.option("--verify", "verifies", is_flag=True, help="Read the destination back and compare digests.")
@click.option("--json", "as_json", is_flag=True, help="Say on standard output what was done.")
@click.option("-p", "--progress", "shows", is_flag=True, help="Show a progress bar on standard error.")
def command(
    source: str,
    destination: str,
    connections: int,
    allocated: bool,
    destination_is_zero: bool,
    flush: bool,
    verifies: bool,
    as_json: bool,
    shows: bool,
) -> None:
    """Copy a disk from SRC to DST, at the speed of the slower one, holes as holes.

    Each is a path, an NBD URI (nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH), or null: as a destination. Exits
    with 0 only if every byte was acknowledged and flushed.
    """
    from omavol.copy.engine import Job, Options
    from omavol.copy.errors import CopyError

    job = Job(source, destination, Options(connections, verifies, destination_is_zero, allocated))
    try:
        if verifies and destination == "null:":
            raise CopyError("null: cannot be read back; leave --verify out", code="copy.open", side="destination")
        with _bar(job) if shows else contextlib.nullcontext():
            result = job.run()
        if verifies:
            _verify(destination, result, connections)
    except CopyError as error:
        if as_json:
            click.echo(json.dumps(_failure(source, destination, error)))
        click.echo(f"omavol copy: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        job.cancel()
        click.echo("omavol copy: interrupted; the destination is incomplete", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(_success(source, destination, result, verifies)))


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


@contextlib.contextmanager
def _bar(job: Job) -> Iterator[None]:
    """A line on standard error that follows the job, from a thread that ends with it."""
    from omavol.copy.progress import Progress

    over = threading.Event()

    def follow() -> None:
        progress = Progress(0)
        while True:
            last = over.wait(_TICK)
            counters = job.counters()
            progress.total = counters.planned
            progress.sample(time.monotonic(), counters.done)
            click.echo(f"\r{_line(progress)}", err=True, nl=False)
            if last:
                click.echo(err=True)
                return

    thread = threading.Thread(target=follow, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _line(progress: Progress) -> str:
    """Percent, bar, rate and time to go in 70 columns."""
    filled = int(progress.percent / 100 * 30)
    eta = progress.eta
    left = "--:--" if eta is None else f"{int(eta) // 60:02d}:{int(eta) % 60:02d}"
    bar = "#" * filled + "-" * (30 - filled)
    return f"{progress.percent:5.1f}% [{bar}] {progress.rate / 2**20:8.1f} MiB/s  {left} "
