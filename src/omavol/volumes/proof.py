"""Proving a session: its writes are on the medium and equal the source at a point, or the reason why that is unknown.

The export goes first (drained, flushed, closed); the incarnation of the server that removed it must be the one that
took every write, for a server that died lost what it had not flushed (ARCHITECTURE.md, "Durability"). Then fsync, then
the digests, read again past the page cache. The point is recorded in one transaction with the session's end.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omavol import failpoint
from omavol.schema.common import Problem, now
from omavol.schema.control import Done
from omavol.schema.volumes import OperationType, ProofLevel, ProveSession, SessionState
from omavol.volumes.compare import Compared, compare, read_digests
from omavol.volumes.content import Held, Proved, content_after
from omavol.volumes.errors import VolumeError
from omavol.volumes.house import House
from omavol.volumes.operations import Operations, Step, Task, Work, refuse_if_busy
from omavol.volumes.rows import EXPORTS, OPERATIONS, SESSIONS, VOLUMES, OperationRow, SessionRow, VolumeRow
from omavol.volumes.sessions import apply_content, close_unproved, open_device, wrote_nothing

__all__ = ["DOUBTS", "PROOF", "RemovalFacts", "doubt", "prove"]

RANGES_NAMED = 8


def prove(
    house: House, operations: Operations, session: SessionRow, claim: ProveSession, key: str | None
) -> OperationRow:
    """Start the proof, or find the one of the same claim: asking again never proves twice.

    Begun under the volume's lock, so that nobody is just ending the session; a proof under way is found without it.
    """
    request: dict[str, Any] = {
        "session_id": session.session_id,
        "point": claim.point,
        "incarnation": claim.incarnation,
        "level": str(claim.level),
    }
    with house.record.read() as db:
        if (same := _same_claim(db, session.session_id, claim.point)) is not None:
            return same
        refuse_if_busy(db, session.volume_id)
    with house.locks.hold(session.volume_id):
        return operations.submit(
            OperationType.PROVE,
            session.volume_id,
            request,
            key=key,
            known=lambda db: _same_claim(db, session.session_id, claim.point),
        )


def _same_claim(db: sqlite3.Connection, session_id: str, point: str) -> OperationRow | None:
    session = SESSIONS.get(db, session_id)
    if session.state is SessionState.OPEN:
        return None
    proofs = OPERATIONS.where(db, "volume_id = ? AND type = 'prove' ORDER BY rowid DESC", (session.volume_id,))
    mine = [row for row in proofs if row.request["session_id"] == session_id]
    if mine and mine[0].request["point"] == point:
        return mine[0]
    why = f" for point {session.point}" if session.point else ""
    raise VolumeError(
        409,
        f"session_{session.state}",
        f"session {session_id} is {session.state}{why}: it cannot be proved for point {point}",
        "Open a new session.",
    )


def _begin(db: sqlite3.Connection, volume: VolumeRow, operation: OperationRow) -> None:
    session = SESSIONS.get(db, operation.request["session_id"])
    if session.unprovable_because:
        raise VolumeError(
            409, "unprovable", f"session {session.session_id}: {session.unprovable_because}", "Copy again in a new one."
        )
    SESSIONS.update(db, session.session_id, state=SessionState.PROVING, point=operation.request["point"])


# --- steps ------------------------------------------------------------------------------------------------------


def _session(task: Task) -> SessionRow:
    with task.house.record.read() as db:
        return SESSIONS.get(db, task.operation.request["session_id"])


def _check_digests(task: Task) -> None:
    """Refuse before the export goes: a claim that cannot be judged must not end the session."""
    if task.operation.request["level"] == ProofLevel.DIGEST:
        session = _session(task)
        full = session.mode == "full"
        path = task.house.digests_of(session.session_id)
        task.found["digests"] = read_digests(path, task.volume, full=full)


def _remove_export(task: Task) -> None:
    session = _session(task)
    if session.removed:
        return
    done = task.house.served.remove(session.export_name)
    present = done.incarnation if done else task.house.served.listing().incarnation
    facts = RemovalFacts(
        counted=done is not None and not session.counters_lost,
        errno=done.export.failed if done else 0,
        same_server=present == session.incarnation,
        same_as_claimed=task.operation.request["incarnation"] in ("", present),
        by_digest=task.operation.request["level"] == ProofLevel.DIGEST,
    )
    task.found["removed"] = done
    if (refused := doubt(facts)) is not None:
        raise refused
    with task.house.record.write() as db:
        written = session.bytes_written + (done.export.bytes_written if done else 0)
        SESSIONS.update(db, session.session_id, removed=True, bytes_written=written)


def _fsync(task: Task) -> None:
    descriptor = open_device(task.volume)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(task: Task) -> None:
    if "digests" in task.found:
        compared = compare(task.volume, task.found["digests"])
        task.found["compared"] = compared
        if compared.differing:
            raise VolumeError(
                409,
                "digest_mismatch",
                f"volume {task.volume.volume_id} differs from its source at {_named(compared.differing)}",
                "Copy again; if it happens again, check the memory, the network and the storage.",
            )
    failpoint.reach("daemon.prove-verified")


def _named(ranges: tuple[tuple[int, int], ...]) -> str:
    """Offset+length of the first ranges."""
    named = ", ".join(f"{offset}+{length}" for offset, length in ranges[:RANGES_NAMED])
    more = len(ranges) - RANGES_NAMED
    return named + (f" and {more} more ranges" if more > 0 else "")


# --- ends -------------------------------------------------------------------------------------------------------


def _done(db: sqlite3.Connection, task: Task) -> dict[str, Any]:
    request = task.operation.request
    session = SESSIONS.get(db, request["session_id"])
    volume = VOLUMES.get(db, session.volume_id)
    level = ProofLevel(request["level"])
    compared: Compared | None = task.found.get("compared")
    held = content_after(Held(volume.content, volume.generation), Proved(session.session_id, request["point"], level))
    apply_content(db, session.volume_id, held)
    EXPORTS.delete(db, session.export_name)
    SESSIONS.update(db, session.session_id, state=SessionState.PROVED, ended_at=now())
    return {
        "volume_id": session.volume_id,
        "session_id": session.session_id,
        "point": request["point"],
        "proof": str(level),
        "bytes_written": session.bytes_written,
        "bytes_compared": compared.bytes_read if compared else 0,
        "read": compared.way if compared else None,
        "message": f"volume {volume.persistent_name} is at point {request['point']}, proved: {level}",
    }


REOPENING = frozenset({"server_away", "digests_missing", "digests_invalid", "digests_incomplete"})


def _failed(db: sqlite3.Connection, task: Task, problem: Problem) -> None:
    """What says nothing about the bytes leaves the session open; anything else ends it, torn."""
    session = SESSIONS.get(db, task.operation.request["session_id"])
    if session.state is not SessionState.PROVING:
        return
    if problem.code in REOPENING and not session.removed:
        SESSIONS.update(db, session.session_id, state=SessionState.OPEN, point=None)
        return
    done: Done | None = task.found.get("removed")
    because = f"{problem.code}: {problem.detail}"
    close_unproved(db, session, because, wrote_nothing=wrote_nothing(session, done), done=done)


def _tidy(task: Task) -> None:
    session = _session(task)
    if session.state is not SessionState.OPEN:
        task.house.forget_digests(session.session_id)


# --- whether the removal leaves a doubt -------------------------------------------------------------------------


@dataclass(frozen=True)
class RemovalFacts:
    """`counted`: the server saw every write and answered the removal; false: something else had taken the export."""

    counted: bool
    errno: int
    same_server: bool
    same_as_claimed: bool
    by_digest: bool


@dataclass(frozen=True)
class Doubt:
    matches: Callable[[RemovalFacts], bool]
    code: str
    detail: str


DOUBTS: tuple[Doubt, ...] = (
    Doubt(lambda f: not f.same_server, "incarnation_changed", "another server than the one that took the writes"),
    Doubt(lambda f: not f.same_as_claimed, "incarnation_changed", "the last flush was answered by another server"),
    Doubt(lambda f: f.errno != 0, "flush_failed", "a flush failed on the server: {cause}"),
    Doubt(lambda f: not f.counted and not f.by_digest, "removal_unseen", "nobody saw the last flush succeed"),
)


def doubt(facts: RemovalFacts) -> VolumeError | None:
    """The first doubt that holds, as the error that fails the proof; None when the writes are on the medium.

    A removal whose answer was lost in a crash is good enough for a proof that reads everything again.
    """
    for rule in DOUBTS:
        if rule.matches(facts):
            cause = errno.errorcode.get(facts.errno, str(facts.errno))
            detail = f"writes may be lost: {rule.detail.format(cause=cause)}"
            return VolumeError(409, rule.code, detail, "Copy again in a new session.")
    return None


PROOF = Work(
    _begin,
    (
        Step("check-digests", _check_digests),
        Step("remove-export", _remove_export),
        Step("fsync", _fsync),
        Step("verify", _verify),
    ),
    _done,
    _failed,
    _tidy,
)
