"""Lists of jobs as the API shows them: the unified list is one query, newest first, paged by a cursor."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.rules.transitions import FINAL, LIVE, StepStatus
from omactl.store.rows import Job, JobDisk, JobStep, columns_of, of_row
from omactl.store.schema import UtcTime, contexts, job_disks, job_steps, jobs

__all__ = ["Filter", "Listed", "Page", "Reached", "disks_of", "list_jobs", "listed", "reached", "steps_of"]


@dataclass(frozen=True)
class Filter:
    """What the list is narrowed to; None leaves a field open. `machine` is a context id or a name."""

    kind: str | None = None
    status: str | None = None
    machine: str | None = None
    live: bool | None = None
    cursor: str | None = None
    limit: int = 50


@dataclass(frozen=True)
class Listed:
    """One line of the list: the job, its machine, and how far its steps are."""

    job: Job
    vm_name: str
    steps_total: int
    steps_completed: int
    step_running: str | None
    step_failed: str | None


@dataclass(frozen=True)
class Reached:
    """A point that a disk's copy reached, and when its job was made."""

    disk: JobDisk
    at: datetime


@dataclass(frozen=True)
class Page:
    lines: list[Listed]
    next_cursor: str | None


async def list_jobs(connection: AsyncConnection, wanted: Filter) -> Page:
    """One page of the unified list."""
    query = _select().order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(wanted.limit + 1)
    for condition in _conditions(wanted):
        query = query.where(condition)
    lines = await _lines(connection, query)
    more = len(lines) > wanted.limit
    lines = lines[: wanted.limit]
    return Page(lines, _cursor(lines[-1].job) if more else None)


async def listed(connection: AsyncConnection, job_id: str) -> Listed:
    """One job as the list shows it; Failure `job_unknown` when there is none."""
    lines = await _lines(connection, _select().where(jobs.c.id == job_id))
    if not lines:
        raise Failure("job_unknown", job_id)
    return lines[0]


async def steps_of(connection: AsyncConnection, job_id: str) -> list[JobStep]:
    """The steps of a job, in their order."""
    found = await connection.execute(
        sa.select(*columns_of(JobStep, job_steps)).where(job_steps.c.job_id == job_id).order_by(job_steps.c.seq)
    )
    return [of_row(JobStep, row) for row in found]


async def disks_of(connection: AsyncConnection, job_id: str) -> list[JobDisk]:
    """The disks of a job, by their keys."""
    found = await connection.execute(
        sa.select(*columns_of(JobDisk, job_disks)).where(job_disks.c.job_id == job_id).order_by(job_disks.c.disk_id)
    )
    return [of_row(JobDisk, row) for row in found]


async def reached(
    connection: AsyncConnection, *, context_id: str | None = None, job_id: str | None = None, limit: int = 20
) -> list[Reached]:
    """The points that disks reached, of a machine or in a job, newest first."""
    query = (
        sa.select(*columns_of(JobDisk, job_disks), jobs.c.created_at.label("at"))
        .join(jobs, jobs.c.id == job_disks.c.job_id)
        .where(job_disks.c.point.is_not(None))
        .order_by(jobs.c.created_at.desc(), job_disks.c.disk_id)
        .limit(limit)
    )
    if context_id is not None:
        query = query.where(jobs.c.context_id == context_id)
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    found = []
    for row in await connection.execute(query):
        values = row._asdict()
        at = values.pop("at")
        found.append(Reached(JobDisk(**values), at))
    return found


def _select() -> sa.Select[Any]:
    return sa.select(*columns_of(Job, jobs), contexts.c.vm_name).join(
        contexts, contexts.c.context_id == jobs.c.context_id
    )


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.kind is not None:
        conditions.append(jobs.c.kind == wanted.kind)
    if wanted.status is not None:
        conditions.append(jobs.c.status == wanted.status)
    if wanted.live is not None:
        conditions.append(jobs.c.status.in_([status.value for status in (LIVE if wanted.live else FINAL)]))
    if wanted.machine is not None:
        conditions.append(sa.or_(jobs.c.context_id == wanted.machine, contexts.c.vm_name == wanted.machine))
    if wanted.cursor is not None:
        at, job_id = _position(wanted.cursor)
        older = sa.literal(at, UtcTime())
        conditions.append(
            sa.or_(jobs.c.created_at < older, sa.and_(jobs.c.created_at == older, jobs.c.id < job_id)),
        )
    return conditions


async def _lines(connection: AsyncConnection, query: sa.Select[Any]) -> list[Listed]:
    rows = (await connection.execute(query)).all()
    steps = await _steps(connection, [row.id for row in rows])
    lines = []
    for row in rows:
        values = row._asdict()
        name = values.pop("vm_name")
        lines.append(Listed(Job(**values), name, *steps.get(row.id, (0, 0, None, None))))
    return lines


async def _steps(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, tuple[int, int, str | None, str | None]]:
    """Of each job: steps in all, steps completed, the running one, the failed one."""
    if not ids:
        return {}

    def named(status: StepStatus) -> sa.ColumnElement[str | None]:
        return sa.func.min(sa.case((job_steps.c.status == status.value, job_steps.c.name)))

    done = sa.func.sum(sa.case((job_steps.c.status == StepStatus.COMPLETED.value, 1), else_=0))
    found = await connection.execute(
        sa.select(job_steps.c.job_id, sa.func.count(), done, named(StepStatus.RUNNING), named(StepStatus.FAILED))
        .where(job_steps.c.job_id.in_(ids))
        .group_by(job_steps.c.job_id)
    )
    return {job_id: (total, int(completed), running, failed) for job_id, total, completed, running, failed in found}


def _cursor(job: Job) -> str:
    """Where the next page begins: opaque to readers."""
    return base64.urlsafe_b64encode(f"{job.created_at.isoformat()} {job.id}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, job_id = text.partition(" ")
        parsed = datetime.fromisoformat(at)
        if parsed.tzinfo is None or not job_id:
            raise ValueError(cursor)
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise Failure("invalid_parameter", str(error), parameter="cursor", problem="it is not one of ours") from error
    return parsed, job_id
