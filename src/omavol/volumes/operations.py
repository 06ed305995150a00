"""Recorded operations: a row before the first side effect, named steps, an end after any crash.

An operation is a `Work`: what must be true to begin, steps that are idempotent, and how the record stands at its end.
After a crash the steps run again from the first: each asks the provider, the file or the served table what is true.
A failure undoes the steps done, in reverse, and the problem says what could not be undone.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import msgspec

from omavol import failpoint
from omavol.cloud.volumes import CloudError, VolumeProvider
from omavol.schema.common import Problem, new_id, now
from omavol.schema.volumes import OperationStatus, OperationType
from omavol.volumes.errors import VolumeError, problem_from
from omavol.volumes.house import House
from omavol.volumes.rows import OPERATIONS, UNFINISHED, VOLUMES, OperationRow, VolumeRow, unfinished_operation

__all__ = ["Operations", "Step", "Task", "Work", "refuse_if_busy"]

log = logging.getLogger("omavol.volumes")
WORKERS = 8
PROOFS = 2  # at once: each reads a whole disk, and must not keep an attach waiting


@dataclass
class Task:
    """One run of an operation: its rows as read at the start, and what its steps found out on the way."""

    house: House
    operation: OperationRow
    volume: VolumeRow
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def provider(self) -> VolumeProvider:
        return self.house.provider()


@dataclass(frozen=True)
class Step:
    """`do` may run again after it was done. `undo`, when there is one, takes it back.

    `undo_partly`: also when `do` itself failed; only where what it may have left is this operation's for sure.
    """

    name: str
    do: Callable[[Task], None]
    undo: Callable[[Task], None] | None = None
    undo_partly: bool = False


@dataclass(frozen=True)
class Work:
    """A type of operation. `begin` refuses or marks the volume, in the transaction that inserts the row.

    `done`, which returns the response, or `failed` are in the transaction that ends it; `tidy` comes after that.
    """

    begin: Callable[[sqlite3.Connection, VolumeRow, OperationRow], None]
    steps: tuple[Step, ...]
    done: Callable[[sqlite3.Connection, Task], dict[str, Any]]
    failed: Callable[[sqlite3.Connection, Task, Problem], None]
    tidy: Callable[[Task], None] = lambda task: None


class Operations:
    """Owns the threads that run operations. Any thread may call; `finished` is called from a worker at each end."""

    def __init__(self, house: House, works: Mapping[OperationType, Work], finished: Callable[[str], None]) -> None:
        self._house = house
        self._works = works
        self._finished = finished
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="operation")
        self._proofs = ThreadPoolExecutor(PROOFS, thread_name_prefix="proof")
        self._guard = threading.Lock()  # of _running
        self._running: dict[str, Future[None]] = {}
        self._closed = False

    def submit(
        self,
        type: OperationType,
        volume_id: str,
        request: dict[str, Any],
        *,
        key: str | None = None,
        vm_id: str | None = None,
        prepare: Callable[[sqlite3.Connection], VolumeRow] | None = None,
        known: Callable[[sqlite3.Connection], OperationRow | None] | None = None,
    ) -> OperationRow:
        """Record the operation and start it. `prepare` inserts the volume's row for a create.

        `known` finds the operation that already does or did it, which is then the answer. The same `key` again
        gives the same operation. Refused when another is under way on the volume.
        """
        at = now()
        operation = OperationRow(
            id=new_id(),
            type=type,
            status=OperationStatus.PENDING,
            volume_id=volume_id,
            vm_id=vm_id,
            request=request,
            key=key,
            created_at=at,
            updated_at=at,
        )
        with self._house.record.write() as db:
            if key is not None and (with_key := OPERATIONS.where(db, "key = ?", (key,))):
                return _same(with_key[0], operation, new_volume=prepare is not None)
            if known is not None and (same := known(db)) is not None:
                return same
            volume = prepare(db) if prepare else VOLUMES.get(db, volume_id)
            refuse_if_busy(db, volume_id)
            operation = msgspec.structs.replace(operation, vm_id=vm_id or volume.vm_id)
            self._works[type].begin(db, volume, operation)
            OPERATIONS.insert(db, operation)
        failpoint.reach(f"daemon.{type}-recorded")
        self._start(operation)
        return operation

    def resume(self) -> None:
        """Start every unfinished operation that no thread runs: after a restart, or when its end could not be kept."""
        with self._house.record.read() as db:
            rows = OPERATIONS.where(db, "status IN (?, ?) AND type <> 'mend' ORDER BY id", UNFINISHED)
        for row in rows:
            self._start(row)

    def close(self, timeout: float) -> bool:
        """Take no more, wait for what runs; False when something still does: its row says so, and a restart resumes."""
        with self._guard:
            self._closed = True
            running = list(self._running.values())
        for pool in (self._pool, self._proofs):
            pool.shutdown(wait=False, cancel_futures=True)
        return not wait(running, timeout).not_done

    def _start(self, operation: OperationRow) -> None:
        pool = self._proofs if operation.type is OperationType.PROVE else self._pool
        with self._guard:
            if not self._closed and operation.id not in self._running:
                self._running[operation.id] = pool.submit(self._run_to_the_end, operation.id)

    def _run_to_the_end(self, operation_id: str) -> None:
        try:
            self._run(operation_id)
        except Exception:  # the outermost edge of the worker: the row stays, the timer resumes it
            log.exception("operation %s could not be brought to an end; it will be tried again", operation_id)
        finally:
            with self._guard:
                self._running.pop(operation_id, None)
            self._finished(operation_id)

    def _run(self, operation_id: str) -> None:
        record = self._house.record
        with record.read() as db:
            volume_id = OPERATIONS.get(db, operation_id).volume_id
        with self._house.locks.hold(volume_id):
            with record.write() as db:
                operation = OPERATIONS.get(db, operation_id)
                if operation.status not in UNFINISHED:
                    return
                OPERATIONS.update(db, operation_id, status=OperationStatus.EXECUTING)
                task = Task(self._house, operation, VOLUMES.get(db, volume_id))
            work = self._works[operation.type]
            done: list[Step] = []
            try:
                for step in work.steps:
                    with record.write() as db:
                        OPERATIONS.update(db, operation_id, step=step.name)
                    if step.undo_partly:
                        done.append(step)
                    step.do(task)
                    if not step.undo_partly:
                        done.append(step)
            except Exception as error:  # noqa: BLE001  # whatever it is, what was done is undone and the row closed
                problem = _undo(task, done, _problem(error, task))
                with record.write() as db:
                    work.failed(db, task, problem)
                    _finish(db, operation, OperationStatus.FAILED, error=problem)
                work.tidy(task)
                return
            with record.write() as db:
                response = work.done(db, task)
                _finish(db, operation, OperationStatus.COMPLETED, response=response)
            work.tidy(task)


def refuse_if_busy(db: sqlite3.Connection, volume_id: str) -> None:
    """Raise when an operation is under way on the volume."""
    if busy := unfinished_operation(db, volume_id):
        raise VolumeError(
            409,
            "volume_busy",
            f"volume {volume_id} is busy: {busy.type} {busy.id} is {busy.status}",
            f"Wait for operation {busy.id}.",
        )


def _same(known: OperationRow, asked: OperationRow, *, new_volume: bool) -> OperationRow:
    alike = known.type == asked.type and known.request == asked.request
    if alike and (new_volume or known.volume_id == asked.volume_id):
        return known
    raise VolumeError(
        409,
        "key_reused",
        f"the idempotency key belongs to another request: {known.type} {known.id} of volume {known.volume_id}",
        "Send a new key with a new request.",
    )


def _finish(db: sqlite3.Connection, operation: OperationRow, status: OperationStatus, **end: Any) -> None:
    OPERATIONS.update(db, operation.id, status=status, completed_at=now(), **end)


def _problem(error: Exception, task: Task) -> Problem:
    if isinstance(error, VolumeError | CloudError):
        return problem_from(error)
    if isinstance(error, OSError):
        what = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        return Problem(status=500, code="io_failed", title="Input or output failed", detail=what)
    log.error("operation %s failed", task.operation.id, exc_info=error)
    return Problem(
        status=500,
        code="internal_error",
        title="A fault of this program",
        detail=f"{type(error).__name__} in {task.operation.type} of volume {task.volume.volume_id}",
        advice=("The daemon's log has the details: report them.",),
    )


def _undo(task: Task, done: list[Step], problem: Problem) -> Problem:
    left = []
    for step in reversed(done):
        if step.undo is None:
            continue
        try:
            step.undo(task)
        except (VolumeError, CloudError, OSError) as error:
            left.append(f"{step.name}: {error}")
    if not left:
        return problem
    advice = (*problem.advice, *(f"Could not be undone: {text}" for text in left))
    return msgspec.structs.replace(problem, advice=advice)
