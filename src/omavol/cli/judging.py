"""What `omavol conformance` does: judges, prints each result as it comes, and ends with the status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import click

from omavol.conformance import report
from omavol.conformance.keeper import Keeper
from omavol.conformance.run import Result
from omavol.conformance.run import run as judged
from omavol.conformance.server import Server
from omavol.conformance.survey import survey
from omavol.conformance.table import chosen
from omavol.conformance.verdict import CannotRun
from omavol.nbd.errors import NbdError
from omavol.nbd.uri import parse

__all__ = ["Asked", "run"]

_COLOURS = {"pass": "green", "fail": "red", "not offered": "bright_black", "skipped": "yellow"}


@dataclass(frozen=True)
class Asked:
    """The command line."""

    uri: str | None
    server: str | None
    export: str
    rule: tuple[str, ...]
    section: str | None
    list: bool
    write: bool
    scratch: int
    timeout: float
    json: bool
    strict: bool

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(rule.strip() for text in self.rule for rule in text.split(",") if rule.strip())


def run(asked: Asked) -> None:
    """Judge, and exit with the status."""
    checks = chosen(asked.rules, asked.section)
    if not checks:
        _cannot("no rule matches")
    if asked.list:
        click.echo("\n".join(map(report.listed, checks)))
        return
    if (asked.uri is None) == (asked.server is None):
        _cannot("give a URI, or --server CMD")
    results: list[Result] = []
    server: Server | None = None
    ended: str | None = None
    try:
        with _target(asked) as (server, keeper):
            server.facts = survey(server)
            for result in judged(server, checks, write=asked.write or keeper is not None, keeper=keeper):
                results.append(result)
                if not asked.json:
                    _say(result, results)
    except NbdError as error:
        _cannot(f"{error}. {error.advice}" if error.advice else str(error))
    except CannotRun as error:
        ended = str(error)
    _conclude(asked, results, server, ended)


@contextmanager
def _target(asked: Asked) -> Iterator[tuple[Server, Keeper | None]]:
    """The server to judge, and who keeps it alive if it is ours."""
    if asked.server is None:
        yield Server(parse(asked.uri or ""), timeout=asked.timeout, scratch=asked.scratch), None
        return
    keeper = Keeper(asked.server)
    try:
        keeper.start()
        yield Server(keeper.uri(asked.export), timeout=asked.timeout, scratch=asked.scratch), keeper
    finally:
        keeper.stop()


def _conclude(asked: Asked, results: list[Result], server: Server | None, ended: str | None) -> NoReturn:
    status = 2 if ended else report.exit_status(results, asked.strict)
    if asked.json:
        facts = server.facts if results and server else None
        target = asked.server or asked.uri or ""
        document = report.as_json(results, target=target, facts=facts, ended=ended, status=status)
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif results:
        click.echo("\n".join(["", *report.summary(results)]))
    if ended:
        click.echo(f"Error: {ended}", err=True)
    sys.exit(status)


def _say(result: Result, results: list[Result]) -> None:
    """A line as it comes, under a heading where its group begins."""
    if len(results) < 2 or results[-2].check.group != result.check.group:
        click.echo(f"{'' if len(results) == 1 else chr(10)}{result.check.group.value}")
    click.echo(report.line(result, lambda word, outcome: click.style(word, fg=_COLOURS[outcome.value])))
    for line in report.evidence(result):
        click.echo(f"             {line}")


def _cannot(text: str) -> NoReturn:
    """End with one line and status 2: 1 is the answer "a MUST failed"."""
    click.echo(f"Error: {text}", err=True)
    raise SystemExit(2)
