"""What `omavol conformance` does: judges, prints each result as it comes, and ends with the status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from omavol.conformance import report
from omavol.conformance.clients.judge import judge
from omavol.conformance.clients.scenario import scenarios
from omavol.conformance.facts import Facts
from omavol.conformance.keeper import Keeper
from omavol.conformance.run import Result
from omavol.conformance.run import run as judged
from omavol.conformance.server import Server
from omavol.conformance.survey import survey
from omavol.conformance.table import Row, chosen
from omavol.conformance.verdict import CannotRun
from omavol.nbd.errors import NbdError
from omavol.nbd.uri import Uri, parse

__all__ = ["Asked", "run"]

_SERVER_TIMEOUT = 5.0  # seconds for one answer
_CLIENT_TIMEOUT = 30.0  # seconds for one run
_COLOURS = {"pass": "green", "fail": "red", "not offered": "bright_black", "skipped": "yellow"}


@dataclass(frozen=True)
class Asked:
    """The command line."""

    uri: str | None
    server: str | None
    client: str | None
    export: str
    rule: tuple[str, ...]
    section: str | None
    list: bool
    write: bool
    scratch: int
    tcp: bool
    tls: bool
    tls_certificates: str | None
    timeout: float | None
    json: bool
    strict: bool

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(rule.strip() for text in self.rule for rule in text.split(",") if rule.strip())


def run(asked: Asked) -> None:
    """Judge, and exit with the status."""
    rows: Sequence[Row] = (scenarios if asked.client else chosen)(asked.rules, asked.section)
    if not rows:
        _cannot("no rule matches")
    if asked.list:
        click.echo("\n".join(map(report.listed, rows)))
        return
    if sum(given is not None for given in (asked.uri, asked.server, asked.client)) != 1:
        _cannot("give a URI, --server CMD or --client CMD")
    judgement = _Judgement(asked)
    ended: str | None = None
    try:
        (judgement.of_a_client if asked.client else judgement.of_a_server)()
    except NbdError as error:
        _cannot(f"{error}. {error.advice}" if error.advice else str(error))
    except CannotRun as error:
        ended = str(error)
    judgement.conclude(ended)


class _Judgement:
    """The results so far, shown as they come."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.results: list[Result] = []
        self.facts: Facts | None = None

    def of_a_server(self) -> None:
        checks = chosen(self.asked.rules, self.asked.section)
        with _target(self.asked) as (server, keeper):
            server.facts = self.facts = survey(server)
            self._take(judged(server, checks, write=self.asked.write or keeper is not None, keeper=keeper))

    def of_a_client(self) -> None:
        asked = self.asked
        chosen_ones = scenarios(asked.rules, asked.section)
        limit = _CLIENT_TIMEOUT if asked.timeout is None else asked.timeout
        self._take(judge(asked.client or "", chosen_ones, timeout=limit, tcp=asked.tcp))

    def _take(self, results: Iterator[Result]) -> None:
        for result in results:
            self.results.append(result)
            if not self.asked.json:
                _say(result, self.results)

    def conclude(self, ended: str | None) -> NoReturn:
        """The summary or the document, and the status."""
        asked, results = self.asked, self.results
        status = 2 if ended else report.exit_status(results, asked.strict)
        if asked.json:
            target = asked.client or asked.server or asked.uri or ""
            document = report.as_json(results, target=target, facts=self.facts, ended=ended, status=status)
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        elif results:
            click.echo("\n".join(["", *report.summary(results)]))
        if ended:
            click.echo(f"Error: {ended}", err=True)
        sys.exit(status)


@contextmanager
def _target(asked: Asked) -> Iterator[tuple[Server, Keeper | None]]:
    """The server to judge, and who keeps it alive if it is ours."""
    if asked.server is None:
        place, secure = _place(asked.uri or "")
        yield _server(asked, place, secure), None
        return
    keeper = Keeper(asked.server)
    try:
        keeper.start()
        yield _server(asked, keeper.uri(asked.export), False), keeper
    finally:
        keeper.stop()


def _server(asked: Asked, place: Uri, secure: bool) -> Server:
    limit = _SERVER_TIMEOUT if asked.timeout is None else asked.timeout
    certificates = None if asked.tls_certificates is None else Path(asked.tls_certificates)
    return Server(
        place,
        timeout=limit,
        scratch=asked.scratch,
        certificates=certificates,
        demand_tls=asked.tls or secure,
    )


def _place(text: str) -> tuple[Uri, bool]:
    """Where a URI leads, and whether it demands TLS: the suite speaks its own, and takes no parameter for it.

    >>> _place("nbds://localhost/web01")[0].export, _place("nbds://localhost/web01")[1], _place("nbd://localhost")[1]
    ('web01', True, False)
    """
    scheme, colon, rest = text.partition(":")
    secure = scheme.lower() in ("nbds", "nbds+unix")
    return parse(f"{scheme[:3]}{scheme[4:]}{colon}{rest}" if secure else text), secure


def _say(result: Result, results: list[Result]) -> None:
    """A line as it comes, under a heading where its group begins."""
    if len(results) < 2 or results[-2].check.group != result.check.group:
        click.echo(f"{'' if len(results) == 1 else chr(10)}{result.check.group}")
    click.echo(report.line(result, lambda word, outcome: click.style(word, fg=_COLOURS[outcome.value])))
    for line in report.evidence(result):
        click.echo(f"             {line}")


def _cannot(text: str) -> NoReturn:
    """End with one line and status 2: 1 is the answer "a MUST failed"."""
    click.echo(f"Error: {text}", err=True)
    raise SystemExit(2)
