"""Runs checks against one server, one after the other, and proves between them that the server still serves others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from omavol.conformance.facts import Need, unmet
from omavol.conformance.keeper import Keeper
from omavol.conformance.server import Server
from omavol.conformance.table import Check, Row
from omavol.conformance.verdict import CannotRun, Failed, Gone, NotOffered, Outcome, Silent, Skipped
from omavol.nbd.wire import Command
from omavol.nbd.wire import TransmissionFlag as Flag

__all__ = ["Result", "run"]

_LEAST_SCRATCH = 65536 * 4  # bytes; four of the largest minimum blocks
_RETURN = 5.0  # seconds that a server which died may take to come back


@dataclass(frozen=True)
class Result:
    """What a check came to. `reason` says why it did not run; `expected`, `came`, `data` why it failed."""

    check: Row
    outcome: Outcome
    reason: str = ""
    expected: str = ""
    came: str = ""
    data: bytes = b""


def run(
    server: Server, checks: Sequence[Check], *, write: bool = False, keeper: Keeper | None = None
) -> Iterator[Result]:
    """Every result as it comes. CannotRun ends the run where the server died and does not come back."""
    for check in checks:
        result = _one(server, check, write)
        server.release()
        if check.hostile or result.outcome == Outcome.FAIL:
            result, back = _after(server, result, keeper)
            yield result
            if not back:
                raise CannotRun(f"{server.uri}: the server died at {check.rule} and does not come back")
        else:
            yield result


def _one(server: Server, check: Check, write: bool) -> Result:
    if (reason := unmet(check.needs, server.facts)) is not None:
        return Result(check, Outcome.NOT_OFFERED, reason)
    if Need.WRITE not in check.needs:
        return _judged(server, check)
    if not write:
        return Result(check, Outcome.SKIPPED, "it writes: allow it by --write")
    if server.scratch_size < _LEAST_SCRATCH:
        return Result(check, Outcome.SKIPPED, "the export has no room for the scratch region")
    return _writing(server, check)


def _judged(server: Server, check: Check) -> Result:
    """Run it; every way to end is a result."""
    try:
        check.judge(server)
    except Failed as failed:
        data = failed.data or server.evidence
        return Result(check, Outcome.FAIL, expected=failed.expected, came=failed.came, data=data)
    except Gone as gone:
        return Result(check, Outcome.FAIL, expected="an answer", came=f"{gone}", data=server.evidence)
    except Silent as silent:
        came = f"{silent} within {server.timeout:g} s"
        return Result(check, Outcome.FAIL, expected="an answer", came=came, data=server.evidence)
    except NotOffered as reason:
        return Result(check, Outcome.NOT_OFFERED, f"{reason}")
    except Skipped as reason:
        return Result(check, Outcome.SKIPPED, f"{reason}")
    return Result(check, Outcome.PASS)


def _writing(server: Server, check: Check) -> Result:
    """Run it on the scratch region, and put back what was there."""
    size = server.scratch_size
    try:
        before = server.enter(structured=False).read_all(server.scratch, size)
    except (Failed, Gone, Silent) as error:
        return Result(check, Outcome.SKIPPED, f"the scratch region cannot be read: {error}")
    server.release()
    result = _judged(server, check)
    server.release()
    try:
        _restore(server, before)
    except (Failed, Gone, Silent) as error:
        if result.outcome == Outcome.PASS:
            return replace(result, outcome=Outcome.FAIL, expected="the scratch region written back", came=f"{error}")
    return result


def _restore(server: Server, before: bytes) -> None:
    session = server.enter(structured=False)
    if session.read_all(server.scratch, len(before)) != before:
        for at in range(0, len(before), session.step):
            session.write(server.scratch + at, before[at : at + session.step])
        if session.told.flags & Flag.SEND_FLUSH:
            session.ask(Command.FLUSH)
    session.leave()


def _after(server: Server, result: Result, keeper: Keeper | None) -> tuple[Result, bool]:
    """The result once a control connection has shown whether the server lives; and whether it does, or came back."""
    if (trouble := _control(server)) is None and not (keeper and keeper.death()):
        return result, True
    how = (keeper.death() if keeper else None) or trouble
    died = replace(
        result,
        outcome=Outcome.FAIL,
        expected=result.expected or "a server that serves the next client",
        came=f"the server died ({how})" + (f"; before that {result.came}" if result.came else ""),
    )
    if keeper:
        keeper.restart()
    until = time.monotonic() + _RETURN
    while _control(server) is not None:
        if time.monotonic() > until:
            return died, False
        time.sleep(0.05)  # nothing tells when a server of someone else's is back
    return died, True


def _control(server: Server) -> str | None:
    """What is wrong with a fresh connection; None if nothing is."""
    try:
        server.control()
    except (Failed, Gone, Silent) as error:
        return f"{error}"
    finally:
        with suppress(OSError):
            server.release()
    return None
