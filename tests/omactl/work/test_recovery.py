"""What becomes of live jobs when the control plane starts anew, and of those that nobody works on."""

from __future__ import annotations

import asyncio

import pytest

from omactl.rules.recovery import Action, Answer
from omactl.rules.transitions import ContextStatus, JobStatus, StepStatus
from omactl.store import jobs, queries
from omactl.store.jobs import NewJob
from omavol.schema.common import new_id
from omavol.schema.source import SourceStatus
from omavol.schema.volumes import SessionState


async def copying(world):
    """A job that its source copies, with nobody following: the control plane was stopped."""
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")
    await world.stop()
    return job


async def recovered(world):
    async def is_over():
        return world.control.recovery.state.state == "completed"

    await world.until(is_over)
    return world.control.recovery.state


async def test_a_job_goes_on_being_followed_after_a_restart(world):
    job = await copying(world)
    await world.start()
    state = await recovered(world)
    [judged] = state.judged
    assert (judged.job_id, judged.answer, judged.decision.action) == (job.id, Answer.RUNNING, Action.FOLLOW)
    assert state.counts == {"follow": 1}
    world.agent.advance(job.id, SourceStatus.COMPLETED)
    assert (await world.ended(job)).status is JobStatus.COMPLETED


async def test_a_copy_that_finished_meanwhile_is_proved_then_completed(world):
    job = await copying(world)
    world.agent.advance(job.id, SourceStatus.COMPLETED)
    await world.start()
    job = await world.ended(job)
    assert job.status is JobStatus.COMPLETED
    assert {disk.proof for disk in await world.control.database.read(queries.disks_of, job.id)} == {"digest"}
    assert (await world.machine()).current_status is ContextStatus.READY_FOR_FAILOVER


async def test_a_copy_that_failed_meanwhile_is_failed_and_frees_the_machine(world):
    job = await copying(world)
    world.agent.advance(job.id, SourceStatus.FAILED, error="read: Input/output error")
    await world.start()
    job = await world.ended(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "disk_unreadable")
    assert (await world.machine()).current_job_id is None


async def test_a_job_that_its_source_forgot_is_lost(world):
    job = await copying(world)
    world.agent.jobs.clear()
    world.agent.agent_id = new_id()
    await world.start()
    job = await world.ended(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "job_lost")


async def test_a_silent_source_is_waited_for_and_the_time_of_asking_is_kept(world):
    job = await copying(world)
    world.agent.refuse["listing"] = (500, "out_of_order")
    world.timing = world.timing.__class__(**{**vars(world.timing), "lost_after": 3600.0})
    await world.start()
    await recovered(world)

    async def silence_is_counted():
        return (await world.job(job.id)).unanswered_seconds > 0

    await world.until(silence_is_counted)
    before = (await world.job(job.id)).unanswered_seconds
    await world.restart()

    async def counting_went_on():
        return (await world.job(job.id)).unanswered_seconds > before

    await world.until(counting_went_on)
    world.agent.refuse.clear()
    world.agent.advance(job.id, SourceStatus.COMPLETED)
    job = await world.ended(job)
    assert (job.status, job.unanswered_seconds) == (JobStatus.COMPLETED, 0)


async def test_a_source_silent_for_too_long_is_lost(world):
    job = await copying(world)
    world.agent.refuse["listing"] = (500, "out_of_order")
    await world.start()
    job = await world.ended(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "source_unreachable_timeout")
    assert job.unanswered_seconds > world.timing.lost_after
    assert {session.state for session in world.volumes.sessions.values()} == {SessionState.ENDED}
    world.agent.refuse.clear()
    world.agent.autopilot = True
    assert (await world.ended(await world.replicate())).status is JobStatus.COMPLETED


@pytest.mark.parametrize("step", ["validation", "provisioning", "attaching", "configuring", "handing-over"])
async def test_a_job_in_set_up_is_resumed_from_its_recorded_step(world, step):
    failing = {"validation": "discover", "handing-over": "replicate"}
    volume_side = {"provisioning": "create", "attaching": "attach", "configuring": "open"}
    await world.restart(patience=60)
    if step in failing:
        world.agent.refuse[failing[step]] = (503, "away")
    else:
        world.volumes.refuse[volume_side[step]] = (503, "server_away")
    job = await world.replicate()
    await world.at_step(job, step)
    await world.stop()
    asked = list(world.volumes.asked)
    world.agent.refuse.clear()
    world.volumes.refuse.clear()
    await world.start()
    job = await world.ended(job)
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert len(world.volumes.volumes) == 2
    if step in ("configuring", "handing-over"):
        assert "create" not in world.volumes.asked[len(asked) :], "what is recorded is not done again"


async def test_sessions_that_ended_before_the_hand_over_are_opened_anew(world):
    await world.restart(patience=60)
    world.agent.refuse["replicate"] = (503, "away")
    job = await world.replicate()
    await world.at_step(job, "handing-over")
    await world.stop()
    for session in list(world.volumes.sessions.values()):
        world.volumes._end(session, "the daemon crashed")
    world.agent.refuse.clear()
    await world.start()
    job = await world.ended(job)
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert len(world.volumes.sessions) == 4


async def test_a_job_whose_cancelling_was_cut_off_ends_as_cancelled(world):
    job = await copying(world)
    await world.start()
    await world.control.database.write(jobs.request_cancel, job.id, "alice")
    job = await world.ended(job)
    assert job.status is JobStatus.CANCELLED


async def test_a_job_that_nobody_works_on_is_found_by_the_monitor(world):
    job = await world.control.database.write(jobs.create, NewJob("replication", world.context.context_id, "test"))
    [judged] = await world.control.monitor.check()
    assert (judged.job_id, judged.decision.action) == (job.id, Action.RESUME)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert await world.control.monitor.check() == []


async def test_a_job_submitted_twice_at_once_is_worked_on_once(world):
    """As when a request comes in while recovery looks for jobs."""
    job = await world.control.database.write(jobs.create, NewJob("replication", world.context.context_id, "test"))
    assert await asyncio.gather(*(world.control.dispatch.submit(job.id) for _ in range(3))) == [True] * 3
    hold = (await world.job(job.id)).hold
    assert (await world.ended(job)).hold == hold, "one claim, one epoch"


async def test_starting_the_monitor_twice_is_an_error(world):
    with pytest.raises(RuntimeError):
        world.control.monitor.start()


async def test_a_job_under_anothers_lease_is_left_to_it(world):
    job = await world.control.database.write(jobs.create, NewJob("replication", world.context.context_id, "test"))
    await world.control.database.write(jobs.claim, job.id, "another instance", 3600)
    assert await world.control.monitor.check() == []
    assert set((await world.steps(job.id)).values()) == {StepStatus.PENDING}


async def test_an_owner_that_was_replaced_writes_nothing_more(world):
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")
    hold = await world.control.database.write(jobs.claim, job.id, world.control.owner, 3600)
    world.agent.advance(job.id, SourceStatus.FAILED, error="late")
    await world.control.dispatch.finished(job.id)
    row = await world.job(job.id)
    assert row.live and row.epoch == hold.epoch, "the newer owner decides"
