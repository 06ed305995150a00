"""What stands between clients and the store of an export: delays, errors, a rate, a pause; each said in one text.

A filter is `KIND` or `KIND:ITEM,ITEM...`, as `delay:read=10ms`. An export has a list of them; a request passes them in
that order, the first being nearest to the client. They act in `omavol._fastio` (fastio/server_filters.pxi).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from omavol.nbd.wire import Command, Error
from omavol.schema.sizes import parse_size
from omavol.serve.errors import ServeError

if TYPE_CHECKING:  # the stub's name for a shape
    from omavol._fastio import FilterRow

__all__ = ["FILTERS_MOST", "BadFilter", "parse", "parse_all"]

FILTERS_MOST = 16  # on one export
LONGEST_DELAY = 3600.0  # seconds

COMMANDS = {
    "read": Command.READ,
    "write": Command.WRITE,
    "flush": Command.FLUSH,
    "trim": Command.TRIM,
    "cache": Command.CACHE,
    "zero": Command.WRITE_ZEROES,
    "status": Command.BLOCK_STATUS,
}
OPEN = 8  # where a delay keeps the time that entering the export takes: no command has that number here
_EVERY_COMMAND = tuple(COMMANDS.values())

_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}


class BadFilter(ServeError):
    """A filter that cannot be read."""

    def __init__(self, spec: str, detail: str, advice: str) -> None:
        super().__init__("bad_filter", f"the filter {spec!r}: {detail}", advice)


class _Unreadable(ValueError):
    """What is wrong with one item; `parse` says in which filter it stands."""


def parse_all(specs: Iterable[str]) -> list[FilterRow]:
    """Read a list of filters, in the order in which requests pass them; BadFilter names the first that is wrong."""
    rows = [parse(spec) for spec in specs]
    if len(rows) > FILTERS_MOST:
        raise BadFilter("...", f"an export has at most {FILTERS_MOST}, these are {len(rows)}", "Give fewer.")
    return rows


def parse(spec: str) -> FilterRow:
    """Read one filter.

    delay:TIME or delay:COMMAND=TIME,...  every request, or those of a command, waits; TIME as 10ms, 1.5s, 250us.
    COMMAND is read, write, flush, trim, cache, zero, status, or open: entering the export. With fast-zero=no a zero
    request that is to be fast fails at once with ENOTSUP, as where zeroing is no faster than writing.
    error:ERROR,COMMAND,...  requests (of those commands, else of all) fail with EPERM, EIO, ENOMEM, EINVAL, ENOSPC,
    EOVERFLOW, ENOTSUP or ESHUTDOWN (EIO if none is given). every=N: each Nth; next=N: the next N; probability=P (10%
    or 0.1): by chance; range=A-B: only those that touch the bytes from A to B, B not included, as 1M-2M.
    rate:BYTES or rate:read=BYTES,write=BYTES  bytes a second, as 100M, over all connections of the export.
    pause  requests wait until the export's filters are changed.

    >>> parse("delay:read=10ms,write=1s")["delays"]
    {0: 0.01, 1: 1.0}
    >>> parse("error:EIO,read,every=3")
    {'kind': 'error', 'error': 5, 'commands': [0], 'every': 3}
    >>> parse("rate:100M")
    {'kind': 'rate', 'rates': (104857600, 104857600)}
    """
    kind, colon, rest = spec.partition(":")
    reader = _READERS.get(kind)
    if reader is None:
        raise BadFilter(spec, f"there is no filter {kind!r}", f"There are {', '.join(_READERS)}.")
    items = [item.strip() for item in rest.split(",")] if colon else []
    try:
        if "" in items:
            raise _Unreadable("an item is empty")
        return reader(items)
    except _Unreadable as error:
        raise BadFilter(spec, str(error), _EXAMPLES[kind]) from error


def _delay(items: list[str]) -> FilterRow:
    delays: dict[int, float] = {}
    row: FilterRow = {"kind": "delay", "delays": delays}
    for item in items:
        what, equals, value = item.rpartition("=")
        if what == "fast-zero":
            row["fast_zero"] = _yes(value)
        elif not equals:
            delays.update(dict.fromkeys(_EVERY_COMMAND, _time(value)))
        elif what == "open":
            delays[OPEN] = _time(value)
        else:
            delays[_command(what)] = _time(value)
    if not delays:
        raise _Unreadable("it says no time")
    return row


def _error(items: list[str]) -> FilterRow:
    commands: list[int] = []
    row: FilterRow = {"kind": "error", "error": Error.EIO.value, "commands": commands}
    for item in items:
        what, equals, value = item.partition("=")
        if not equals and what in Error.__members__:
            row["error"] = Error[what].value
        elif not equals:
            commands.append(_command(what))
        elif what == "every":
            row["every"] = _count(value)
        elif what == "next":
            row["next"] = _count(value)
        elif what == "probability":
            row["probability"] = _probability(value)
        elif what == "range":
            row["range"] = _range(value)
        else:
            raise _Unreadable(f"{what!r} is nothing that it knows")
    if len({"every", "next", "probability"} & row.keys()) > 1:
        raise _Unreadable("of every, next and probability one is enough")
    return row


def _rate(items: list[str]) -> FilterRow:
    rates = {"read": 0, "write": 0}
    for item in items:
        what, equals, value = item.rpartition("=")
        if equals and what not in rates:
            raise _Unreadable(f"{what!r} has no rate, read and write have")
        rates.update(dict.fromkeys([what] if equals else rates, _size(value)))
    if not any(rates.values()):
        raise _Unreadable("it says no rate above 0")
    return {"kind": "rate", "rates": (rates["read"], rates["write"])}


def _pause(items: list[str]) -> FilterRow:
    if items:
        raise _Unreadable("it takes nothing behind its name")
    return {"kind": "pause"}


_READERS: dict[str, Callable[[list[str]], FilterRow]] = {
    "delay": _delay,
    "error": _error,
    "rate": _rate,
    "pause": _pause,
}
_EXAMPLES = {
    "delay": "Write it as delay:10ms or delay:read=10ms,write=5ms.",
    "error": "Write it as error:EIO,read,every=3 or error:ENOSPC,write,range=1M-2M.",
    "rate": "Write it as rate:100M or rate:read=100M,write=10M.",
    "pause": "Write it as pause.",
}


def _command(text: str) -> int:
    if text not in COMMANDS:
        raise _Unreadable(f"{text!r} is no command; there are {', '.join(COMMANDS)}")
    return COMMANDS[text].value


def _time(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|)", text, re.ASCII)
    if match is None:
        raise _Unreadable(f"{text!r} is no time")
    seconds = float(match[1]) * _TIMES[match[2]]
    if seconds > LONGEST_DELAY:
        raise _Unreadable(f"{text} is longer than {LONGEST_DELAY:.0f}s, use pause")
    return seconds


def _size(text: str) -> int:
    size = parse_size(text)
    if size is None:
        raise _Unreadable(f"{text!r} is no number of bytes")
    return size


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    start, end = _size(first), _size(last) if dash else 0
    if end <= start:
        raise _Unreadable(f"{text!r} is no range of bytes")
    return start, end


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise _Unreadable(f"{text!r} is no count from 1 on")
    return int(text)


def _probability(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text, re.ASCII)
    chance = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= chance <= 1:
        raise _Unreadable(f"{text!r} is no probability from 0 to 1")
    return chance


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise _Unreadable(f"{text!r} is neither yes nor no")
    return text == "yes"
