"""Jobs in the database: one live one a machine, writes only under the newest epoch, an end in one transaction."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from omactl.rules.context import Holds
from omactl.rules.messages import Failure
from omactl.rules.steps import REPLICATION
from omactl.rules.transitions import ContextStatus, JobStatus, StepStatus
from omactl.store import closing, contexts, jobs, queries, schema
from omactl.store.closing import Closing, DiskState
from omactl.store.engine import Database
from omactl.store.jobs import NewJob, ProgressWrite
from omactl.store.rows import Hold, JobDisk
from omavol.schema.common import now


async def new_job(database, context, kind="replication", **options):
    return await database.write(jobs.create, NewJob(kind, context.context_id, "test", **options))


async def claimed(database, context):
    job = await new_job(database, context)
    return await database.write(jobs.claim, job.id, "me", 60)


async def drive_to(database, hold, name):
    for step in REPLICATION:
        await database.write(jobs.move, hold, step.name, step.status)
        if step.name == name:
            return
        await database.write(jobs.finish_step, hold, step.name, step.setup)


async def test_a_job_has_all_its_steps_from_the_start(database, web01):
    job = await new_job(database, web01)
    steps = await database.read(queries.steps_of, job.id)
    assert [step.name for step in steps] == [step.name for step in REPLICATION]
    assert {step.status for step in steps} == {StepStatus.PENDING}
    context = await database.read(contexts.find, "web01")
    assert (context.current_job_id, context.current_status) == (job.id, ContextStatus.REPLICATING)
    assert context.total_jobs_run == 1


async def test_a_second_live_job_is_refused_and_names_the_first(database, web01):
    job = await new_job(database, web01)
    with pytest.raises(Failure) as caught:
        await new_job(database, web01)
    assert (caught.value.code, caught.value.facts["job_id"]) == ("machine_busy", job.id)
    assert caught.value.facts["machine"] == "web01"


async def test_the_database_itself_refuses_a_second_live_job(database, web01):
    await new_job(database, web01)

    async def insert(connection):
        await connection.execute(
            sa.insert(schema.jobs).values(
                id="by-hand", kind="replication", context_id=web01.context_id, created_at=now(), updated_at=now()
            )
        )

    with pytest.raises(sa.exc.IntegrityError):
        await database.write(insert)


async def test_a_child_job_does_not_count_as_a_second_one(database, web01):
    parent = await new_job(database, web01)
    child = await new_job(database, web01, parent_id=parent.id)
    assert child.live and parent.live


async def test_of_many_writers_at_once_exactly_one_gets_the_machine(database, web01):
    others = [Database(str(database.url)) for _ in range(4)]
    try:
        results = await asyncio.gather(*(new_job(each, web01) for each in others), return_exceptions=True)
    finally:
        for each in others:
            await each.close()
    refused = [each for each in results if isinstance(each, Failure)]
    assert len(refused) == 3 and {each.code for each in refused} == {"machine_busy"}


async def test_epochs_grow_and_void_the_older_hold(database, web01):
    first = await claimed(database, web01)
    second = await database.write(jobs.claim, first.job_id, "me", 60)
    assert second.epoch > first.epoch
    with pytest.raises(Failure) as caught:
        await database.write(jobs.move, first, "validation", JobStatus.ANALYZING)
    assert caught.value.code == "superseded"
    assert await database.write(jobs.write_progress, [ProgressWrite(first, {"percent": 5.0})]) == {first.job_id}
    assert await database.write(jobs.renew, [first, second], 60) == {second}


async def test_a_job_under_a_lease_is_not_taken_by_another(database, web01):
    hold = await claimed(database, web01)
    assert await database.write(jobs.claim, hold.job_id, "other", 60) is None
    assert await database.read(jobs.claimable, "other") == []
    assert [job.id for job in await database.read(jobs.claimable, "me")] == [hold.job_id]


async def test_a_job_whose_lease_ran_out_is_taken(database, web01):
    job = await new_job(database, web01)
    await database.write(jobs.claim, job.id, "gone", -1)
    taken = await database.write(jobs.claim, job.id, "other", 60)
    assert taken is not None


async def test_an_illegal_move_is_refused(database, web01):
    hold = await claimed(database, web01)
    with pytest.raises(ValueError, match="may not move"):
        await database.write(jobs.move, hold, "replicating", JobStatus.REPLICATING)


async def test_a_completed_job_leaves_a_ready_machine_in_one_transaction(database, web01):
    hold = await claimed(database, web01)
    disks = await database.read(contexts.disks_of, web01.context_id)
    job_disks = [JobDisk(hold.job_id, disk.disk_id, proof="digest", uri="nbd://secret") for disk in disks]
    await database.write(jobs.put_disks, job_disks)
    await drive_to(database, hold, "committing")
    await database.write(jobs.finish_step, hold, "committing", 85)
    states = [DiskState(disk.disk_id, Holds.POINT, "p1", 3) for disk in disks]
    assert await database.write(closing.close_jobs, [Closing(hold, JobStatus.COMPLETED, disks=states)]) == [hold.job_id]

    job = await database.read(jobs.get, hold.job_id)
    context = await database.read(contexts.find, "web01")
    assert (job.status, job.percent) == (JobStatus.COMPLETED, 100)
    assert (context.current_status, context.current_job_id) == (ContextStatus.READY_FOR_FAILOVER, None)
    assert (context.successful_jobs, context.last_successful_job_id) == (1, job.id)
    assert context.last_operation_summary["status"] == "completed"
    assert context.last_operation_summary["proof"] == "digest"
    assert context.last_operation_summary["steps_completed"] == len(REPLICATION)
    assert [disk.point for disk in await database.read(contexts.disks_of, web01.context_id)] == ["p1", "p1"]
    assert {disk.uri for disk in await database.read(queries.disks_of, hold.job_id)} == {None}
    await new_job(database, web01)


async def test_a_torn_disk_makes_the_machine_failed_and_is_named(database, web01):
    hold = await claimed(database, web01)
    await drive_to(database, hold, "replicating")
    states = [DiskState("disk-2000", Holds.POINT, "p1"), DiskState("disk-2001", Holds.TORN)]
    failed = Closing(hold, JobStatus.FAILED, "source_failed", details="/dev/vdb: i/o", disks=states)
    await database.write(closing.close_jobs, [failed])
    context = await database.read(contexts.find, "web01")
    said = context.last_operation_summary
    assert (context.current_status, context.failed_jobs) == (ContextStatus.FAILED, 1)
    assert said["disks_not_ready"] == ["disk-2001"]
    assert (said["failed_step"], said["failed_step_internal"]) == ("Data synchronisation", "replicating")
    assert said["actionable_steps"] and "/dev" not in str(said)
    steps = {step.name: step.status for step in await database.read(queries.steps_of, hold.job_id)}
    assert (steps["replicating"], steps["proving"]) == (StepStatus.FAILED, StepStatus.SKIPPED)


async def test_a_machine_never_copied_stays_discovered_after_a_failure(database, web01):
    hold = await claimed(database, web01)
    await database.write(closing.close_jobs, [Closing(hold, JobStatus.FAILED, "volumes_unreachable")])
    context = await database.read(contexts.find, "web01")
    assert (context.current_status, context.current_job_id) == (ContextStatus.DISCOVERED, None)


async def test_nothing_is_closed_under_an_old_epoch_or_twice_or_unproved(database, web01):
    old = await claimed(database, web01)
    hold = await database.write(jobs.claim, old.job_id, "me", 60)
    assert await database.write(closing.close_jobs, [Closing(old, JobStatus.FAILED, "unknown")]) == []
    assert await database.write(closing.close_jobs, [Closing(hold, JobStatus.COMPLETED)]) == [], "it is not finalizing"
    assert await database.write(closing.close_jobs, [Closing(hold, JobStatus.FAILED, "unknown")]) == [hold.job_id]
    assert await database.write(closing.close_jobs, [Closing(hold, JobStatus.CANCELLED)]) == []


async def test_a_transaction_that_breaks_closes_nothing(database, web01):
    hold = await claimed(database, web01)

    async def close_and_break(connection):
        assert await closing.close_jobs(connection, [Closing(hold, JobStatus.FAILED, "unknown")])
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        await database.write(close_and_break)
    job = await database.read(jobs.get, hold.job_id)
    context = await database.read(contexts.find, "web01")
    assert job.live and context.current_job_id == job.id and context.last_operation_summary is None


async def test_cancelling_is_noted_once_and_refused_once_ended(database, web01):
    hold = await claimed(database, web01)
    first = await database.write(jobs.request_cancel, hold.job_id, "alice")
    again = await database.write(jobs.request_cancel, hold.job_id, "bob")
    assert again.cancel_requested_by == first.cancel_requested_by == "alice"
    await database.write(closing.close_jobs, [Closing(hold, JobStatus.CANCELLED, "cancelled")])
    with pytest.raises(Failure) as caught:
        await database.write(jobs.request_cancel, hold.job_id, "bob")
    assert caught.value.code == "job_ended"


async def test_a_cancelled_caller_leaves_no_half_written_unit(database, web01):
    """The unit of work goes on without its caller, and the next writer gets its turn."""
    entered, may_end = asyncio.Event(), asyncio.Event()

    async def slow(connection):
        await jobs.create(connection, NewJob("replication", web01.context_id, "test"))
        entered.set()
        await may_end.wait()

    caller = asyncio.create_task(database.write(slow))
    await entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    may_end.set()
    hold = Hold("none", 1)
    assert await database.write(jobs.renew, [hold], 1) == set()
    assert (await database.read(contexts.find, "web01")).current_job_id is not None


async def test_a_pointer_to_a_finished_job_is_cleared(database, web01):
    async def by_hand(connection):
        await connection.execute(sa.update(schema.contexts).values(current_job_id="job-gone"))

    await database.write(by_hand)
    assert await database.write(contexts.release_finished) == [web01.context_id]
    assert await database.write(contexts.release_finished) == []
