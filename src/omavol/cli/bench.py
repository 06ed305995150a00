"""`omavol bench URI`: a load on an NBD server, and how fast it was answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from omavol.cli.grouped import Group, GroupedCommand
from omavol.cli.nbdtool import fail, seconds
from omavol.nbd.errors import NbdError, NotAllowed
from omavol.schema.sizes import parse_size

if TYPE_CHECKING:  # the loops are loaded when a load begins
    from omavol.load import Result, Times

__all__ = ["command"]

_OPERATIONS = ("randread", "randwrite", "randrw", "read", "write", "status", "connect")
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_MOST_SIZE = 32 << 20  # bytes of a request
_TOLD = 0.01  # seconds
_LIMITED = 0.95  # share of a processor from which the client may be what limits


class Size(click.ParamType[int]):
    """Bytes of a request, with a suffix K or M of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        size = parse_size(value, least=1, most=_MOST_SIZE)
        if size is None:
            self.fail(f"{value!r} is no size from 1 to 32M, such as 4k", param, ctx)
        return size


WORK = Group(
    "Work",
    click.Option(
        ["--op"], type=click.Choice(_OPERATIONS), default="randread", show_default=True, help="What is asked."
    ),
    click.Option(["--size"], type=Size(), default="4k", show_default=True, help="Bytes of a request; 4k, 1M."),
    click.Option(
        ["--mix"],
        type=click.IntRange(0, 100),
        default=70,
        show_default=True,
        help="The percentage of reads in randrw.",
    ),
    click.Option(["--write"], is_flag=True, help="Allow the operations that overwrite the export's data."),
    click.Option(["--flush"], is_flag=True, help="End with a FLUSH, whose time is told by itself."),
)

CONNECTIONS = Group(
    "Connections",
    click.Option(
        ["--depth"],
        type=click.IntRange(1, 4096),
        default=1,
        show_default=True,
        help="Requests in flight on each connection.",
    ),
    click.Option(["--connections"], type=click.IntRange(1, 1024), default=1, show_default=True, help="How many."),
)

TIME = Group(
    "Time",
    click.Option(["--seconds"], default=3.0, show_default=True, callback=seconds, help="How long."),
    click.Option(
        ["--warmup"], type=click.FloatRange(0, 3600), default=0.0, help="Seconds before that which do not count."
    ),
    click.Option(["--once"], is_flag=True, help="Go through the export once instead: read, write, status."),
    click.Option(
        ["--timeout"], default=30.0, show_default=True, callback=seconds, help="Seconds that any answer may take."
    ),
)

OUTPUT = Group("Output", click.Option(["--json"], is_flag=True, help="Print JSON; omavol-bench(1) has its fields."))


def _run(uri: str, op: str, mix: int, write: bool, json: bool, **options: Any) -> None:
    from omavol.load import Load, run

    load = Load(uri, op, reads=mix, **options)
    try:
        if load.writes and not write:
            raise NotAllowed(f"{op} overwrites what the export holds", "If that is meant, add --write.")
        result = run(load)
    except NbdError as error:
        fail(error)
    click.echo(_json(result) if json else _text(result), nl=False)
    if result.errors:
        raise click.ClickException(f"{result.errors} requests failed; the first: {result.first_error}")
    if result.interrupted:
        raise SystemExit(130)


command = GroupedCommand(
    "bench",
    params=[click.Argument(["uri"])],
    groups=(WORK, CONNECTIONS, TIME, OUTPUT),
    callback=_run,
    help="""Load an NBD server and tell how fast it answers: requests and bytes a second, and latencies.

    One thread drives all connections; the share of a processor that it took is told, so that you see whether it was
    itself the limit. `status` asks for the extents of the whole export; `connect` connects, negotiates, reads once
    and closes, with as many connections at a time as --connections says. Ends with 1 if a request failed.""",
)


def _json(result: Result) -> str:
    load, export = result.load, result.export
    document: dict[str, object] = {
        "uri": load.uri,
        "op": load.operation,
        "size": load.size,
        "depth": load.depth,
        "connections": load.connections,
        "export_size": export.size,
        "structured": export.structured,
        "multi_conn": export.multi_conn,
        "seconds": round(result.seconds, 6),
        **_rates(result.times, result.seconds),
        "errors": result.errors,
        "first_error": result.first_error,
        "cpu": {
            "user": round(result.user, 6),
            "system": round(result.system, 6),
            "awake": round(result.awake, 6),
            "share": round(result.processor, 4),
        },
        "interrupted": result.interrupted,
    }
    if load.operation == "status":
        document["extents"] = result.extents
    if load.operation == "randrw":
        document["read"] = _rates(result.read, result.seconds)
        document["write"] = _rates(result.write, result.seconds)
    if result.flush_seconds is not None:
        document["flush_seconds"] = round(result.flush_seconds, 6)
    return json.dumps(document, indent=2) + "\n"


def _rates(times: Times, elapsed: float) -> dict[str, object]:
    return {
        "requests": times.count,
        "bytes": times.bytes,
        "requests_per_second": round(times.count / elapsed, 1) if elapsed else 0.0,
        "bytes_per_second": round(times.bytes / elapsed, 1) if elapsed else 0.0,
        "latency_ns": {
            "min": times.least,
            "mean": times.mean,
            **{f"p{percent:g}": times.percentile(percent) for percent in _PERCENTILES},
            "max": times.most,
        },
    }


def _text(result: Result) -> str:
    load = result.load
    replies = "structured" if result.export.structured else "simple"
    plural = "" if load.connections == 1 else "s"
    lines = [
        f"{load.operation} at {load.uri}",
        f"  {_bytes(load.size)}, {load.depth} in flight on each of {load.connections} connection{plural}, "
        f"{replies} replies",
    ]
    if load.operation == "randrw":
        lines += [f"  reads   {_line(result.read, result.seconds)}", f"  writes  {_line(result.write, result.seconds)}"]
    lines.append(f"  {_line(result.times, result.seconds)}, {result.times.count:,} requests in {result.seconds:.2f} s")
    if load.operation == "status":
        lines.append(f"  {result.extents:,} extents, {result.extents / (result.seconds or 1):,.0f}/s")
    lines.append(f"  latency  {_latencies(result.times)}")
    if result.flush_seconds is not None:
        lines.append(f"  flush    {_time(result.flush_seconds * 1e9)}")
    lines.append(
        f"  this client took {result.processor:.0%} of a processor ({result.user:.2f} s user, {result.system:.2f} s "
        f"system{_awake(result)})" + (": it may have been the limit" if result.processor >= _LIMITED else "")
    )
    if load.connections > 1 and not result.export.multi_conn:
        lines.append("  the server does not promise that several connections see the same (CAN_MULTI_CONN)")
    return "".join(f"{line}\n" for line in lines)


def _awake(result: Result) -> str:
    return f", of which it waited {result.awake:.2f} s awake" if result.awake >= _TOLD else ""


def _line(times: Times, elapsed: float) -> str:
    rate = times.count / elapsed if elapsed else 0.0
    through = times.bytes / elapsed / 2**20 if elapsed else 0.0
    return f"{rate:,.0f} requests/s, {through:,.1f} MiB/s"


def _latencies(times: Times) -> str:
    marks = [("mean", times.mean), *((f"p{percent:g}", times.percentile(percent)) for percent in _PERCENTILES)]
    return "  ".join(f"{name} {_time(nanoseconds)}" for name, nanoseconds in [*marks, ("max", times.most)])


def _time(nanoseconds: float) -> str:
    """Three digits and a unit.

    >>> _time(950), _time(12_345), _time(1_234_567), _time(2_500_000_000)
    ('950 ns', '12.3 us', '1.23 ms', '2.50 s')
    """
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= factor:
            value = nanoseconds / factor
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{nanoseconds:.0f} ns"


def _bytes(size: int) -> str:
    """Bytes in the largest unit that leaves no rest.

    >>> _bytes(4096), _bytes(1 << 20), _bytes(1000)
    ('4 KiB', '1 MiB', '1000 bytes')
    """
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
