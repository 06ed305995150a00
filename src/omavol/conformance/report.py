"""Results as lines for people, as JSON for programs, and as an exit status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omavol.conformance.facts import Facts
from omavol.conformance.run import Result
from omavol.conformance.table import Check, Row, Tag
from omavol.conformance.verdict import Outcome, shown

__all__ = ["FORMAT", "as_json", "evidence", "exit_status", "line", "listed", "summary"]

FORMAT = 1  # of the JSON; a change that breaks a reader is another number
DOCUMENT = "doc/proto.md of the NBD project, as in nbd 3.26.1"
Paint = Callable[[str, Outcome], str]


def line(result: Result, paint: Paint = lambda text, _: text) -> str:
    """`pass         H16  states  INFO and GO of …   (Option types: …)`"""
    check = result.check
    reason = f" [{result.reason}]" if result.reason else ""
    word = paint(f"{result.outcome.value:<11}", result.outcome)
    return f"{word}  {_row(check)}{reason}"


def listed(row: Row) -> str:
    """A row of the table, nothing tried."""
    needs = f" needs {', '.join(row.needs)}" if isinstance(row, Check) and row.needs else ""
    return f"{_row(row)}{needs}"


def _row(check: Row) -> str:
    tag = f"{check.tag.value}{'/e' if check.experimental else ''}"
    return f"{check.rule:<4} {tag:<8}  {check.sentence}   ({check.section})"


def evidence(result: Result) -> list[str]:
    """What a failure shows, a line each."""
    if result.outcome != Outcome.FAIL:
        return []
    lines = [f"expected: {result.expected}", f"came:     {result.came}"]
    return [*lines, f"bytes:    {shown(result.data)}"] if result.data else lines


def _counts(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Outcomes by tag; the experimental ones apart."""
    counts: dict[str, dict[str, int]] = {}
    for result in results:
        tag = "experimental" if result.check.experimental else result.check.tag.value
        row = counts.setdefault(tag, {outcome.value: 0 for outcome in Outcome})
        row[result.outcome.value] += 1
    return {tag: counts[tag] for tag in (*Tag, "experimental") if tag in counts}


def summary(results: Sequence[Result]) -> list[str]:
    """A line a tag."""
    lines = [f"{'':<13}" + "".join(f"{outcome.value:>13}" for outcome in Outcome)]
    for tag, row in _counts(results).items():
        lines.append(f"{tag:<13}" + "".join(f"{row[outcome.value]:>13}" for outcome in Outcome))
    return lines


def exit_status(results: Iterable[Result], strict: bool) -> int:
    """1 where a MUST failed; with `strict` also for a SHOULD, a plain statement, or an experimental MUST or SHOULD."""
    counted = {Tag.MUST} | ({Tag.SHOULD, Tag.STATES} if strict else set())
    failed = [result.check for result in results if result.outcome == Outcome.FAIL]
    return int(any(check.tag in counted and (strict or not check.experimental) for check in failed))


def as_json(
    results: Sequence[Result], *, target: str, facts: Facts | None, ended: str | None, status: int
) -> dict[str, Any]:
    """The document that docs/CONFORMANCE.md describes."""
    return {
        "format": FORMAT,
        "document": DOCUMENT,
        "target": target,
        "server": facts.json() if facts else None,
        "results": [_result(result) for result in results],
        "summary": _counts(results),
        "ended": ended,
        "status": status,
    }


def _result(result: Result) -> dict[str, Any]:
    check = result.check
    told: dict[str, Any] = {
        "check": check.name,
        "rule": check.rule,
        "tag": check.tag.value,
        "experimental": check.experimental,
        "section": check.section,
        "sentence": check.sentence,
        "outcome": result.outcome.value,
    }
    if result.reason:
        told["reason"] = result.reason
    if result.outcome == Outcome.FAIL:
        told |= {"expected": result.expected, "came": result.came, "bytes": result.data.hex()}
    return told
