"""Jobs while they live: made, claimed, moved from step to step, and their progress; every write needs the epoch."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.rules.steps import REPLICATION, Step
from omactl.rules.transitions import FINAL, ContextStatus, JobStatus, StepStatus, is_legal
from omactl.store.engine import database_clock
from omactl.store.events import note
from omactl.store.rows import Hold, Job, JobDisk, columns_of, of_row
from omactl.store.schema import claims, contexts, job_disks, job_steps, jobs
from omavol.schema.common import now

__all__ = [
    "NewJob",
    "ProgressWrite",
    "claim",
    "claimable",
    "create",
    "finish_step",
    "forget",
    "get",
    "move",
    "put_disks",
    "renew",
    "request_cancel",
    "reset_steps",
    "write_progress",
]

_FINAL = [status.value for status in FINAL]
_COPYING = [JobStatus.READY_FOR_SYNC.value, JobStatus.SNAPSHOTTING.value, JobStatus.REPLICATING.value]
IS_LIVE = jobs.c.status.not_in(_FINAL)


@dataclass(frozen=True)
class NewJob:
    """What a job is made of. `id` is given once, here."""

    kind: str
    context_id: str
    started_by: str
    options: dict[str, Any] = field(default_factory=dict)
    parent_id: str | None = None
    steps: tuple[Step, ...] = REPLICATION


def new_job_id(at: datetime) -> str:
    """`job-YYYYMMDD-HHMMSS.mmm-<6 hex>` (BEHAVIOUR.md 3.3)."""
    return f"job-{at:%Y%m%d-%H%M%S}.{at.microsecond // 1000:03d}-{secrets.token_hex(3)}"


async def create(connection: AsyncConnection, new: NewJob) -> Job:
    """Insert a job with all its steps and mark its machine. The database refuses a second live job of a machine."""
    at = now()
    job_id = new_job_id(at)
    await _refuse_if_failed_over(connection, new.context_id)
    try:
        async with connection.begin_nested():
            await connection.execute(
                sa.insert(jobs).values(
                    id=job_id,
                    kind=new.kind,
                    status=JobStatus.PENDING.value,
                    context_id=new.context_id,
                    parent_id=new.parent_id,
                    options=new.options,
                    started_by=new.started_by,
                    created_at=at,
                    updated_at=at,
                )
            )
    except sa.exc.IntegrityError as error:
        raise await _busy(connection, new.context_id) from error
    await connection.execute(
        sa.insert(job_steps),
        [{"job_id": job_id, "seq": number, "name": each.name} for number, each in enumerate(new.steps, 1)],
    )
    await connection.execute(
        sa.update(contexts)
        .where(contexts.c.context_id == new.context_id)
        .values(
            current_status=ContextStatus.REPLICATING.value,
            current_job_id=job_id,
            total_jobs_run=contexts.c.total_jobs_run + 1,
            first_job_at=sa.func.coalesce(contexts.c.first_job_at, sa.literal(at, contexts.c.first_job_at.type)),
            last_job_at=at,
            last_status_change=at,
            updated_at=at,
        )
    )
    await note(connection, "job.created", job_id, {"kind": new.kind, "context_id": new.context_id})
    return await get(connection, job_id)


async def _refuse_if_failed_over(connection: AsyncConnection, context_id: str) -> None:
    row = (
        await connection.execute(
            sa.select(contexts.c.vm_name, contexts.c.current_status).where(contexts.c.context_id == context_id)
        )
    ).one_or_none()
    if row is None:
        raise Failure("machine_unknown", machine=context_id)
    if row.current_status in (ContextStatus.FAILED_OVER_LIVE, ContextStatus.FAILED_OVER_TEST):
        raise Failure("machine_failed_over", machine=row.vm_name)


async def _busy(connection: AsyncConnection, context_id: str) -> Failure:
    found = (
        await connection.execute(
            sa.select(jobs.c.id, contexts.c.vm_name)
            .join(contexts, contexts.c.context_id == jobs.c.context_id)
            .where(jobs.c.live_machine == context_id)
        )
    ).one()
    return Failure("machine_busy", machine=found.vm_name, job_id=found.id)


async def get(connection: AsyncConnection, job_id: str) -> Job:
    """The job; Failure `job_unknown` when there is none."""
    row = (await connection.execute(sa.select(*columns_of(Job, jobs)).where(jobs.c.id == job_id))).one_or_none()
    if row is None:
        raise Failure("job_unknown", job_id)
    return of_row(Job, row)


# --- the right to write ------------------------------------------------------------------------------------------


def _is_free(owner: str) -> sa.ColumnElement[bool]:
    return sa.or_(jobs.c.owner.is_(None), jobs.c.owner == owner, jobs.c.lease_until < database_clock())


async def claimable(connection: AsyncConnection, owner: str) -> list[Job]:
    """Live jobs that this owner may claim: its own, nobody's, and those whose owner's lease ran out."""
    found = await connection.execute(
        sa.select(*columns_of(Job, jobs)).where(IS_LIVE, _is_free(owner)).order_by(jobs.c.created_at)
    )
    return [of_row(Job, row) for row in found]


async def claim(connection: AsyncConnection, job_id: str, owner: str, lease: float) -> Hold | None:
    """Take the job under a new epoch; None when another owner holds it or it has ended.

    Epochs grow, over all jobs; they begin at the present second, so that a database made anew still outranks the write
    sessions of a lost one.
    """
    at = now()
    newest = (await connection.execute(sa.select(sa.func.max(claims.c.epoch)))).scalar_one()
    epoch = max((newest or 0) + 1, int(at.timestamp()))
    taken = await connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id, IS_LIVE, _is_free(owner))
        .values(owner=owner, epoch=epoch, lease_until=database_clock() + lease, updated_at=at)
    )
    if not taken.rowcount:
        return None
    await connection.execute(sa.delete(claims).where(claims.c.job_id == job_id))
    await connection.execute(sa.insert(claims).values(epoch=epoch, job_id=job_id, owner=owner, claimed_at=at))
    return Hold(job_id, epoch)


async def renew(connection: AsyncConnection, holds: Iterable[Hold], lease: float) -> set[Hold]:
    """Lengthen the leases; those that are still ours."""
    kept = set()
    for hold in holds:
        renewed = await connection.execute(
            sa.update(jobs).where(*_held(hold)).values(lease_until=database_clock() + lease)
        )
        if renewed.rowcount:
            kept.add(hold)
    return kept


def _held(hold: Hold) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.id == hold.job_id, jobs.c.epoch == hold.epoch, IS_LIVE


async def _demand(connection: AsyncConnection, hold: Hold) -> JobStatus:
    """The job's status, if it is still ours to write; Failure `superseded` otherwise."""
    status = (await connection.execute(sa.select(jobs.c.status).where(*_held(hold)))).scalar_one_or_none()
    if status is None:
        raise Failure("superseded", f"epoch {hold.epoch} of {hold.job_id} is void")
    return JobStatus(status)


# --- steps -------------------------------------------------------------------------------------------------------


async def move(connection: AsyncConnection, hold: Hold, name: str, status: JobStatus) -> None:
    """Begin the named step: the step is running, the job has its status."""
    before = await _demand(connection, hold)
    if not is_legal(before, status):
        raise ValueError(f"{hold.job_id} may not move from {before} to {status}")
    at = now()
    await connection.execute(
        sa.update(jobs)
        .where(*_held(hold))
        .values(
            status=status.value,
            updated_at=at,
            started_at=sa.func.coalesce(jobs.c.started_at, sa.literal(at, jobs.c.started_at.type)),
        )
    )
    await connection.execute(
        sa.update(job_steps)
        .where(job_steps.c.job_id == hold.job_id, job_steps.c.name == name)
        .values(
            status=StepStatus.RUNNING.value,
            started_at=sa.func.coalesce(job_steps.c.started_at, sa.literal(at, job_steps.c.started_at.type)),
        )
    )
    await note(connection, "job.step", hold.job_id, {"step": name, "status": status.value})


async def finish_step(
    connection: AsyncConnection,
    hold: Hold,
    name: str,
    setup_percent: float,
    disks: Sequence[JobDisk] = (),
    following: Step | None = None,
) -> None:
    """The named step is completed, what it leaves is recorded with it, and the following one begins."""
    await _demand(connection, hold)
    at = now()
    await put_disks(connection, disks)
    await connection.execute(
        sa.update(job_steps)
        .where(job_steps.c.job_id == hold.job_id, job_steps.c.name == name)
        .values(status=StepStatus.COMPLETED.value, completed_at=at)
    )
    await connection.execute(sa.update(jobs).where(*_held(hold)).values(setup_percent=setup_percent, updated_at=at))
    if following is not None:
        await move(connection, hold, following.name, following.status)


async def reset_steps(connection: AsyncConnection, hold: Hold, names: Sequence[str]) -> None:
    """Make steps pending again: what they left no longer holds (a session that ended is opened anew)."""
    await _demand(connection, hold)
    await connection.execute(
        sa.update(job_steps)
        .where(job_steps.c.job_id == hold.job_id, job_steps.c.name.in_(names))
        .values(status=StepStatus.PENDING.value, completed_at=None)
    )


async def put_disks(connection: AsyncConnection, disks: Sequence[JobDisk]) -> None:
    """Write the disks of a job as they stand."""
    for disk in disks:
        values = asdict(disk)
        changed = await connection.execute(
            sa.update(job_disks)
            .where(job_disks.c.job_id == disk.job_id, job_disks.c.disk_id == disk.disk_id)
            .values(values)
        )
        if not changed.rowcount:
            await connection.execute(sa.insert(job_disks).values(values))


# --- progress ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgressWrite:
    """What changed of a job since it was last written. `values` are columns of oma_jobs, `disks` of its disks.

    `copying` is the status while the source copies: written only over another such status.
    """

    hold: Hold
    values: dict[str, Any]
    disks: dict[str, dict[str, Any]] = field(default_factory=dict)
    copying: JobStatus | None = None


async def write_progress(connection: AsyncConnection, writes: Sequence[ProgressWrite]) -> set[str]:
    """Write the progress of many jobs at once; the ids of those that are no longer ours to write."""
    at, lost = now(), set()
    for write in writes:
        values = {**write.values, "updated_at": at}
        if write.copying is not None:  # a write that comes late never takes a job back
            values["status"] = sa.case((jobs.c.status.in_(_COPYING), write.copying.value), else_=jobs.c.status)
        changed = await connection.execute(sa.update(jobs).where(*_held(write.hold)).values(values))
        if not changed.rowcount:
            lost.add(write.hold.job_id)
            continue
        for disk_id, values in write.disks.items():
            await connection.execute(
                sa.update(job_disks)
                .where(job_disks.c.job_id == write.hold.job_id, job_disks.c.disk_id == disk_id)
                .values(values)
            )
    return lost


async def request_cancel(connection: AsyncConnection, job_id: str, by: str) -> Job:
    """Note that a person wants the job to end; its owner sees to it. Failure `job_ended` when it has."""
    job = await get(connection, job_id)
    if not job.live:
        raise Failure("job_ended", status=job.status.value, job_id=job_id)
    await connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id, IS_LIVE, jobs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now(), cancel_requested_by=by)
    )
    await note(connection, "job.cancel_requested", job_id, {"by": by})
    return await get(connection, job_id)


async def forget(connection: AsyncConnection, job_id: str) -> None:
    """Delete the record of a job that has ended, with its steps and disks. The machine keeps volumes and counters."""
    job = await get(connection, job_id)
    if job.live:
        raise Failure("job_live", job_id=job_id)
    await connection.execute(
        sa.update(contexts).where(contexts.c.last_successful_job_id == job_id).values(last_successful_job_id=None)
    )
    await connection.execute(sa.update(jobs).where(jobs.c.parent_id == job_id).values(parent_id=None))
    await connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
    await note(connection, "job.forgotten", job_id, {"status": job.status.value})
