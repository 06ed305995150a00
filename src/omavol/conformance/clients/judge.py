"""Runs a client against every scenario, and judges it by how it ends and by what it sent."""

from __future__ import annotations

import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from os import killpg

from omavol.conformance.clients.honest import World
from omavol.conformance.clients.host import Host
from omavol.conformance.clients.scenario import Expected, Scenario
from omavol.conformance.clients.seen import Breach, Seen
from omavol.conformance.keeper import how_it_ended
from omavol.conformance.run import Result
from omavol.conformance.table import Tag
from omavol.conformance.verdict import CannotRun, Outcome
from omavol.nbd.wire import Command, Option

__all__ = ["OBSERVED", "Observed", "judge"]

_AT_ONCE = 4  # scenarios; most of a client's time is waiting
_MARGIN = 5.0  # seconds that the server outlasts its client
_CLOSED = "closed without a word"


@dataclass(frozen=True)
class Observed:
    """A rule for what a client sends, held against all of the runs together."""

    rule: str
    tag: Tag
    section: str
    sentence: str
    group: str = "What the client sends"
    experimental: bool = False

    @property
    def name(self) -> str:
        return f"{self.rule}-observed"


OBSERVED: tuple[Observed, ...] = (
    Observed("H2", Tag.MUST, "Client flags", "Client flags are those that the server offered"),
    Observed("C7", Tag.MUST, "Terminating the transmission phase", "A good server is left by ABORT or DISC"),
    Observed("C9", Tag.MUST, "Request types: NBD_CMD_DISC", "Nothing follows DISC"),
    Observed("C10", Tag.MUST, "Request types: NBD_CMD_FLUSH", "Offset and length of DISC and FLUSH are 0"),
    Observed("C12", Tag.SHOULD, "Transmission flags", "Several connections only with CAN_MULTI_CONN"),
    Observed("C13", Tag.MUST, "Fixed newstyle negotiation", "One option at a time, well-formed, nothing asked twice"),
    Observed("C14", Tag.MUST, "Command flags", "No command or flag that was not offered or does not apply"),
    Observed("C15", Tag.MUST, "Size constraints", "Requests lie inside the export, in minimum blocks"),
    Observed("C16", Tag.MUST, "Size constraints", "No payload above the maximum"),
    Observed("C17", Tag.MUST, "Request types: NBD_CMD_BLOCK_STATUS", "BLOCK_STATUS only with a selected context"),
    Observed("X5", Tag.MUST, "Request message", "Every request has its magic"),
)


@dataclass(frozen=True)
class _Ended:
    """How the command ended: its status, None where it had to be killed; and the last line it said."""

    status: int | None
    last: str

    def __str__(self) -> str:
        said = f"; it said: {self.last}" if self.last else ""
        return f"{'success' if self.status == 0 else how_it_ended(self.status or 0)}{said}"


def judge(command: str, scenarios: Sequence[Scenario], *, timeout: float, tcp: bool = False) -> Iterator[Result]:
    """A result for each scenario as it comes, then one for each rule that was observed in all of them."""
    if "{uri}" not in command:
        raise CannotRun("the command has no {uri} in it: write it where the client takes the server's URI")
    found: dict[str, tuple[str, Breach]] = {}
    together = Seen()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        runs = [pool.submit(_meet, command, scenario, timeout, tcp) for scenario in scenarios]
        for scenario, run in zip(scenarios, runs, strict=True):
            ended, seen = run.result()
            _learn(scenario, ended, seen, together, found)
            yield _decide(scenario, ended, seen, timeout)
    for rule in OBSERVED:
        yield _observed(rule, together, found)


def _meet(command: str, scenario: Scenario, timeout: float, tcp: bool) -> tuple[_Ended, Seen]:
    """One run of the client against one server."""
    world = World(scenario.offers)
    with tempfile.NamedTemporaryFile(prefix="omavol-conformance-") as image:
        image.write(world.disk)
        image.flush()
        with Host(scenario.server, world, limit=timeout + _MARGIN, tcp=tcp) as host:
            ended = _run(command, {"{uri}": str(host.uri), "{image}": image.name}, timeout)
        return ended, host.seen


def _run(command: str, places: dict[str, str], timeout: float) -> _Ended:
    argv = shlex.split(command)
    for place, what in places.items():
        argv = [word.replace(place, what) for word in argv]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise CannotRun(f"{argv[0]}: {error.strerror}") from error
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return _Ended(None, _last_line(said))
    return _Ended(process.returncode, _last_line(said))


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _decide(scenario: Scenario, ended: _Ended, seen: Seen, timeout: float) -> Result:
    """What the run of one scenario comes to."""
    wanted = scenario.expected.value
    if ended.status is None:
        return Result(scenario, Outcome.FAIL, expected=wanted, came=f"nothing: it still ran after {timeout:g} s")
    if ended.status < 0:
        return Result(scenario, Outcome.FAIL, expected=wanted, came=str(ended))
    if not seen.met:
        return Result(scenario, Outcome.NOT_OFFERED, f"the client gave no occasion; {ended}")
    succeeded = ended.status == 0
    if scenario.expected != Expected.EITHER and succeeded != (scenario.expected == Expected.SUCCESS):
        return Result(scenario, Outcome.FAIL, expected=wanted, came=str(ended))
    if scenario.soft and set(seen.endings) == {_CLOSED}:
        return Result(scenario, Outcome.FAIL, expected="NBD_OPT_ABORT or NBD_CMD_DISC before it closes", came=_CLOSED)
    return Result(scenario, Outcome.PASS)


def _learn(scenario: Scenario, ended: _Ended, seen: Seen, together: Seen, found: dict[str, tuple[str, Breach]]) -> None:
    """Put one run's sightings to the others."""
    together.options += seen.options
    together.commands += seen.commands
    together.endings += seen.endings
    for breach in seen.breaches:
        found.setdefault(breach.rule, (scenario.name, breach))
    if scenario.expected == Expected.SUCCESS and ended.status == 0 and _CLOSED in seen.endings:
        found.setdefault("C7", (scenario.name, Breach("C7", "a connection that ends without NBD_OPT_ABORT or DISC")))


def _observed(rule: Observed, together: Seen, found: dict[str, tuple[str, Breach]]) -> Result:
    if rule.rule in found:
        name, breach = found[rule.rule]
        came = f"{breach.text} (in {name})"
        return Result(rule, Outcome.FAIL, expected=rule.sentence, came=came, data=breach.data)
    occasions = {
        "C9": together.commands[Command.DISC],
        "C10": together.commands[Command.DISC] + together.commands[Command.FLUSH],
        "C13": together.options.total() - together.options[Option.EXPORT_NAME],
        "C16": together.commands[Command.READ] + together.commands[Command.WRITE],
        "C17": together.commands[Command.BLOCK_STATUS],
    }
    if not occasions.get(rule.rule, together.commands.total()):
        return Result(rule, Outcome.NOT_OFFERED, "the client sent nothing that it is about")
    return Result(rule, Outcome.PASS)
