"""The one place that ends jobs: row, steps, disks, machine, counters and summary, in the caller's one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.context import DiskFacts, Holds, Verdict, after_job
from omactl.rules.summary import Ended, StepFacts, summary
from omactl.rules.transitions import ContextStatus, JobStatus, StepStatus, is_legal
from omactl.store import jobs as live
from omactl.store.events import note
from omactl.store.rows import Hold, Job
from omactl.store.schema import contexts, disks, job_disks, job_steps, jobs
from omavol.schema.common import now

__all__ = ["Closing", "DiskState", "close_jobs"]


@dataclass(frozen=True)
class DiskState:
    """What the volume of a disk holds at the end of a job, as the volume service says.

    `forget`: its copy was found to differ, so no later pass may stand on what it held before.
    """

    disk_id: str
    holds: Holds
    point: str | None = None
    generation: int | None = None
    forget: bool = False


@dataclass(frozen=True)
class Closing:
    """How a job ended. `code` and `facts` for a failure; `details` is the technical text, for support."""

    hold: Hold
    status: JobStatus
    code: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    details: str | None = None
    disks: Sequence[DiskState] = ()


async def close_jobs(connection: AsyncConnection, closings: Sequence[Closing]) -> list[str]:
    """End the jobs that are still ours to end; their ids. Those a newer owner holds, or that ended, are left alone."""
    at, closed = now(), []
    for closing in closings:
        if await _end_row(connection, closing, at):
            await _end_steps(connection, closing, at)
            await _end_disks(connection, closing, at)
            await _free_machine(connection, closing, at)
            closed.append(closing.hold.job_id)
    return closed


async def _end_row(connection: AsyncConnection, closing: Closing, at: datetime) -> bool:
    """The only statement that writes a final status."""
    values: dict[str, Any] = {
        "status": closing.status.value,
        "error_code": closing.code,
        "error_facts": closing.facts or None,
        "error_details": closing.details,
        "eta_seconds": None,
        "bytes_per_second": 0,
        "completed_at": at,
        "updated_at": at,
        "lease_until": 0,
    }
    if closing.status is JobStatus.COMPLETED:
        values |= {"percent": 100.0, "phase": "Completed"}
    ended = await connection.execute(
        sa.update(jobs)
        .where(
            jobs.c.id == closing.hold.job_id,
            jobs.c.epoch == closing.hold.epoch,
            jobs.c.status.in_([status.value for status in JobStatus if is_legal(status, closing.status)]),
        )
        .values(values)
    )
    return bool(ended.rowcount)


async def _end_steps(connection: AsyncConnection, closing: Closing, at: datetime) -> None:
    """What ran has failed (or was skipped, if a person cancelled); what never ran is skipped."""
    mine = job_steps.c.job_id == closing.hold.job_id
    ran = StepStatus.FAILED if closing.status is JobStatus.FAILED else StepStatus.SKIPPED
    await connection.execute(
        sa.update(job_steps)
        .where(mine, job_steps.c.status == StepStatus.RUNNING.value)
        .values(status=ran.value, completed_at=at, error_code=closing.code)
    )
    await connection.execute(
        sa.update(job_steps)
        .where(mine, job_steps.c.status == StepStatus.PENDING.value)
        .values(status=StepStatus.SKIPPED.value)
    )


async def _end_disks(connection: AsyncConnection, closing: Closing, at: datetime) -> None:
    """Record what the volumes hold; forget the export names, which are worth nothing any more."""
    context_id = sa.select(jobs.c.context_id).where(jobs.c.id == closing.hold.job_id).scalar_subquery()
    for state in closing.disks:
        values: dict[str, Any] = {"holds": state.holds.value, "updated_at": at}
        if state.generation is not None:
            values["generation"] = state.generation
        if state.holds is Holds.POINT:
            values |= {"point": state.point, "proved_at": at}
        elif state.forget:
            values["point"] = None
        await connection.execute(
            sa.update(disks).where(disks.c.context_id == context_id, disks.c.disk_id == state.disk_id).values(values)
        )
    await connection.execute(
        sa.update(job_disks).where(job_disks.c.job_id == closing.hold.job_id).values(uri=None, bytes_per_second=0)
    )


async def _free_machine(connection: AsyncConnection, closing: Closing, at: datetime) -> None:
    """Write the machine's status, counters, current job and last operation; a child job leaves it to its parent."""
    job = await live.get(connection, closing.hold.job_id)
    if job.parent_id is not None:
        return
    verdict = await _verdict(connection, job.context_id)
    ended = await _ended(connection, closing, job, verdict, at)
    succeeded = closing.status is JobStatus.COMPLETED
    values: dict[str, Any] = {
        "current_status": verdict.status.value,
        "current_job_id": None,
        "last_job_at": at,
        "last_status_change": at,
        "updated_at": at,
        "last_operation_summary": summary(ended),
    }
    if succeeded:
        values |= {"successful_jobs": contexts.c.successful_jobs + 1, "last_successful_job_id": job.id}
    elif closing.status is JobStatus.FAILED:
        values["failed_jobs"] = contexts.c.failed_jobs + 1
    await connection.execute(
        sa.update(contexts)
        .where(
            contexts.c.context_id == job.context_id,
            sa.or_(contexts.c.current_job_id == job.id, contexts.c.current_job_id.is_(None)),
        )
        .values(values)
    )
    await note(connection, f"job.{closing.status.value}", job.id, {"code": closing.code, "machine": verdict.status})


async def _verdict(connection: AsyncConnection, context_id: str) -> Verdict:
    before = (
        await connection.execute(sa.select(contexts.c.current_status).where(contexts.c.context_id == context_id))
    ).scalar_one()
    found = await connection.execute(
        sa.select(disks.c.disk_id, disks.c.holds, disks.c.point)
        .where(disks.c.context_id == context_id, disks.c.present)
        .order_by(disks.c.unit_number, disks.c.disk_id)
    )
    facts = [DiskFacts(row.disk_id, Holds(row.holds), row.point) for row in found]
    return after_job(ContextStatus(before), facts)


async def _ended(connection: AsyncConnection, closing: Closing, job: Job, verdict: Verdict, at: datetime) -> Ended:
    steps = await connection.execute(
        sa.select(job_steps.c.name, job_steps.c.status).where(job_steps.c.job_id == job.id).order_by(job_steps.c.seq)
    )
    proofs = (
        await connection.execute(sa.select(job_disks.c.proof).where(job_disks.c.job_id == job.id).distinct())
    ).scalars()
    levels = set(proofs)
    return Ended(
        job_id=job.id,
        kind=job.kind,
        status=closing.status,
        created_at=job.created_at,
        ended_at=at,
        steps=[StepFacts(row.name, StepStatus(row.status)) for row in steps],
        code=closing.code,
        facts=closing.facts,
        proof=levels.pop() if len(levels) == 1 else None,
        bytes_transferred=job.bytes_transferred,
        unready=verdict.disks,
    )
