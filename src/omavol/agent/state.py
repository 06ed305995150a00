"""What the agent must know after it was killed: its identity, its jobs, and the points of its machines."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from omavol.journal import Journal
from omavol.schema.common import new_id
from omavol.schema.source import Progress, Replicate, SourceStatus
from omavol.source.points import Phase, PointRecord

__all__ = ["FINAL", "JobRecord", "State", "StateInUse"]

FINAL = frozenset({SourceStatus.COMPLETED, SourceStatus.FAILED, SourceStatus.CANCELLED})
JOBS_KEPT = 100
COMPACT_ABOVE = 4 << 20

_AGENT, _JOB, _POINT = 1, 2, 3
_VERSIONS = {_AGENT: 1, _JOB: 1, _POINT: 1}


class StateInUse(Exception):
    """Another agent uses the state directory."""


class JobRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A job as it is written down. The request is kept without its credentials."""

    request: Replicate
    machine_id: str
    progress: Progress
    point_id: str | None = None

    @property
    def id(self) -> str:
        return self.request.job_id

    @property
    def is_final(self) -> bool:
        return self.progress.status in FINAL


class _Agent(msgspec.Struct, kw_only=True):
    id: str


class State:
    """Everything under --state. It is also the ledger of the source. Any thread may call it; a lock guards it.

    A job or a point counts from when `save` or `save_job(durable=True)` returns.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._mutex = threading.Lock()
        self._guard = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._guard)
            raise StateInUse(f"another agent uses the state directory {folder}") from error
        try:
            self._journal = Journal(folder / "agent.journal", tag="omavol agent", versions=_VERSIONS)
        except BaseException:
            os.close(self._guard)
            raise
        self._jobs: dict[str, JobRecord] = {}
        self._points: dict[str, PointRecord] = {}
        self.agent_id = self._replay()
        self._sequence = max(
            [time.time_ns() // 1000, *(job.progress.sequence + 1_000_000 for job in self._jobs.values())]
        )
        self._compact()

    def close(self) -> None:
        self._journal.close()
        os.close(self._guard)

    def next_sequence(self) -> int:
        """A number greater than every one before, in this process and in those before it."""
        with self._mutex:
            self._sequence += 1
            return self._sequence

    @property
    def sequence(self) -> int:
        return self._sequence

    # --- jobs ----------------------------------------------------------------------------------------------------

    def jobs(self) -> tuple[JobRecord, ...]:
        with self._mutex:
            return tuple(self._jobs.values())

    def job(self, job_id: str) -> JobRecord | None:
        with self._mutex:
            return self._jobs.get(job_id)

    def note_job(self, job: JobRecord) -> None:
        """Remember it in this process alone: for progress between two writes."""
        with self._mutex:
            self._jobs[job.id] = job

    def save_job(self, job: JobRecord, *, durable: bool) -> None:
        """Write it down; `durable`: it is on the disk when this returns."""
        with self._mutex:
            self._jobs[job.id] = job
            self._append(_JOB, msgspec.msgpack.encode(job), durable=durable)

    def digests(self, job_id: str, disk_id: str) -> Path:
        """Where the digests of a finished disk are kept until its point is committed or abandoned."""
        return self.folder / "digests" / job_id / disk_id

    def keep_digests(self, job_id: str, digests: Mapping[str, bytes]) -> None:
        """Keep the digest file of each disk; on the disk when this returns."""
        for disk_id, content in digests.items():
            path = self.digests(job_id, disk_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def drop_digests(self, job_id: str) -> None:
        shutil.rmtree(self.folder / "digests" / job_id, ignore_errors=True)

    # --- points (source.points.Ledger) ---------------------------------------------------------------------------

    def save(self, record: PointRecord) -> None:
        with self._mutex:
            self._points[record.id] = record
            self._append(_POINT, msgspec.msgpack.encode(record), durable=True)

    def get(self, point_id: str) -> PointRecord | None:
        with self._mutex:
            return self._points.get(point_id)

    def points(self) -> Iterable[PointRecord]:
        with self._mutex:
            return tuple(self._points.values())

    # --- the file ------------------------------------------------------------------------------------------------

    def _append(self, kind: int, payload: bytes, *, durable: bool) -> None:
        self._journal.append(kind, payload, durable=durable)
        if self._journal.size > self._compact_above:
            self._compact()

    def _replay(self) -> str:
        agent_id = ""
        for record in self._journal.records:
            match record.kind:
                case 1:
                    agent_id = msgspec.msgpack.decode(record.payload, type=_Agent).id
                case 2:
                    job = msgspec.msgpack.decode(record.payload, type=JobRecord)
                    self._jobs[job.id] = job
                case 3:
                    point = msgspec.msgpack.decode(record.payload, type=PointRecord)
                    self._points[point.id] = point
        return agent_id or new_id()

    def _compact(self) -> None:
        """Forget all but the newest finished jobs, and points that are decided and released; then rewrite the file."""
        finished = [job.id for job in self._jobs.values() if job.is_final]
        kept_points = {job.point_id for job in self._jobs.values()}
        for job_id in finished[: max(0, len(finished) - JOBS_KEPT)]:
            point = self._points.get(self._jobs[job_id].point_id or "")
            if point is None or point.phase is not Phase.COMPLETED:
                self.drop_digests(job_id)
                kept_points.discard(self._jobs.pop(job_id).point_id)
        for point in list(self._points.values()):
            if point.released and point.phase in (Phase.COMMITTED, Phase.ABANDONED) and point.id not in kept_points:
                del self._points[point.id]
        encode = msgspec.msgpack.encode
        self._journal.compact(
            [
                (_AGENT, encode(_Agent(id=self.agent_id))),
                *((_JOB, encode(job)) for job in self._jobs.values()),
                *((_POINT, encode(point)) for point in self._points.values()),
            ]
        )
        self._compact_above = max(COMPACT_ABOVE, 4 * self._journal.size)
