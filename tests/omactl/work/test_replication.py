"""A replication from the click to its proof, and every way it can end short of that."""

from __future__ import annotations

import pytest

from omactl.rules.context import Holds
from omactl.rules.messages import Failure
from omactl.rules.transitions import ContextStatus, JobStatus, StepStatus
from omactl.store import queries
from omavol.schema.source import SourceStatus
from omavol.schema.volumes import SessionState, VolumeStatus


async def test_a_full_replication_ends_proved_and_committed(world):
    job = await world.ended(await world.replicate())
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert (job.sync_type, job.bytes_transferred, job.percent) == ("initial", 2000, 100)
    assert set((await world.steps(job.id)).values()) == {StepStatus.COMPLETED}
    machine = await world.machine()
    assert machine.current_status is ContextStatus.READY_FOR_FAILOVER
    assert machine.last_operation_summary["proof"] == "digest"
    assert [disk.holds for disk in await world.disks()] == [Holds.POINT] * 2
    assert len({disk.point for disk in await world.disks()}) == 1
    assert world.agent.decided == {job.id: "commit"}
    assert sorted(world.volumes.digests.values()) == [
        f"digests of {job.id} disk-{number}".encode() for number in (2000, 2001)
    ]


async def test_the_next_one_is_incremental_from_the_proved_point(world):
    await world.ended(await world.replicate())
    point = (await world.disks())[0].point
    job = await world.ended(await world.replicate())
    assert (job.status, job.sync_type) == (JobStatus.COMPLETED, "incremental")
    assert {target.base_point for target in world.agent.requests[job.id].nbd_targets} == {point}
    assert len(world.volumes.volumes) == 2, "the volumes are kept"


async def test_a_full_one_can_be_asked_for(world):
    await world.ended(await world.replicate())
    job = await world.ended(await world.replicate(full=True))
    assert {target.base_point for target in world.agent.requests[job.id].nbd_targets} == {None}


async def test_one_changed_volume_makes_all_disks_full(world):
    await world.ended(await world.replicate())
    volume = next(iter(world.volumes.volumes.values()))
    world.volumes._put(volume, generation=volume.generation + 1)
    job = await world.ended(await world.replicate())
    assert job.status is JobStatus.COMPLETED
    assert {target.base_point for target in world.agent.requests[job.id].nbd_targets} == {None}


async def test_a_source_that_fails_leaves_a_message_advice_and_a_free_machine(world):
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")
    world.agent.advance(job.id, SourceStatus.FAILED, error="/dev/vdb gone", code="agent_restarted")
    job = await world.ended(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "source_interrupted")
    assert "/dev/vdb gone" in job.error_details
    machine = await world.machine()
    assert (machine.current_status, machine.current_job_id) == (ContextStatus.FAILED, None)
    assert machine.last_operation_summary["actionable_steps"]
    assert len(machine.last_operation_summary["disks_not_ready"]) == 2, "both are torn"
    assert {session.state for session in world.volumes.sessions.values()} == {SessionState.ENDED}
    assert world.agent.decided == {job.id: "abandon"}
    world.agent.autopilot = True
    again = await world.ended(await world.replicate())
    assert again.status is JobStatus.COMPLETED


async def test_a_copy_that_differs_fails_and_the_next_one_is_full(world):
    await world.ended(await world.replicate())
    world.volumes.refuse["prove"] = (409, "digest_mismatch")
    job = await world.ended(await world.replicate())
    assert (job.status, job.error_code) == (JobStatus.FAILED, "digest_mismatch")
    assert (await world.machine()).current_status is ContextStatus.FAILED
    world.volumes.refuse.clear()
    again = await world.ended(await world.replicate())
    assert again.status is JobStatus.COMPLETED
    assert {target.base_point for target in world.agent.requests[again.id].nbd_targets} == {None}


async def test_a_proof_that_failed_because_the_server_was_away_is_begun_anew(world):
    world.volumes.refuse_once["prove"] = (503, "server_away")
    await world.restart(patience=5)
    job = await world.ended(await world.replicate())
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert [disk.holds for disk in await world.disks()] == [Holds.POINT] * 2


async def test_disks_at_different_points_are_no_copy_of_a_machine(world):
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")
    world.agent.advance(job.id, SourceStatus.COMPLETED, points={"disk-2000": "a", "disk-2001": "b"})
    job = await world.ended(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "points_differ")


async def test_a_resized_disk_is_a_clear_failure_and_nothing_is_touched(world):
    await world.ended(await world.replicate())
    world.agent.machines[0].disks[0].capacity_bytes += 4096
    job = await world.ended(await world.replicate())
    assert (job.status, job.error_code) == (JobStatus.FAILED, "disk_resized")
    assert job.error_facts["disk"] == "Hard disk 1"
    assert (await world.machine()).current_status is ContextStatus.READY_FOR_FAILOVER, "the copy is as good as before"


async def test_a_volume_that_was_deleted_is_made_anew_and_filled_in_full(world):
    await world.ended(await world.replicate())
    lost = (await world.disks())[0].volume_id
    del world.volumes.volumes[lost]
    job = await world.ended(await world.replicate())
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert (await world.disks())[0].volume_id != lost
    assert {target.base_point for target in world.agent.requests[job.id].nbd_targets} == {None}


async def test_a_disk_added_later_gets_a_volume_of_its_own(world):
    from builders import machine

    await world.ended(await world.replicate())
    world.agent.machines[0] = machine(disks=3)
    job = await world.ended(await world.replicate())
    assert job.status is JobStatus.COMPLETED
    assert len({disk.volume_id for disk in await world.disks()}) == 3


async def test_a_volume_in_use_elsewhere_is_left_alone(world):
    await world.ended(await world.replicate())
    volume = next(iter(world.volumes.volumes.values()))
    world.volumes._put(volume, status=VolumeStatus.ATTACHED, vm_id="another-machine")
    job = await world.ended(await world.replicate())
    assert (job.status, job.error_code) == (JobStatus.FAILED, "volume_busy")


@pytest.mark.parametrize(
    ("refusal", "code"), [((507, "no_space"), "storage_full"), ((500, "strange"), "volume_failed")]
)
async def test_a_refused_volume_ends_the_job_in_words(world, refusal, code):
    world.volumes.refuse["create"] = refusal
    job = await world.ended(await world.replicate())
    assert (job.status, job.error_code) == (JobStatus.FAILED, code)
    assert (await world.machine()).current_status is ContextStatus.DISCOVERED


async def test_a_machine_gone_from_its_source_is_named(world):
    world.agent.machines.clear()
    job = await world.ended(await world.replicate())
    assert (job.error_code, job.error_facts["machine"]) == ("source_lacks_machine", "web01")


async def test_a_wrong_token_for_the_source_is_said(world):
    world.agent.token = "another"
    job = await world.ended(await world.replicate())
    assert job.error_code == "source_unauthorized"


async def test_a_job_can_be_cancelled_while_it_copies(world):
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")
    await world.control.dispatch.cancel(job.id, "alice")
    job = await world.ended(job)
    assert (job.status, job.cancel_requested_by) == (JobStatus.CANCELLED, "alice")
    assert world.agent.jobs[job.id].status is SourceStatus.CANCELLED
    assert world.agent.decided == {job.id: "abandon"}
    machine = await world.machine()
    assert (machine.current_job_id, machine.failed_jobs) == (None, 0)


async def test_a_job_can_be_cancelled_in_its_set_up(world):
    world.agent.refuse["discover"] = (503, "unreachable")
    await world.restart(patience=20)
    job = await world.replicate()
    await world.at_step(job, "validation")
    await world.control.dispatch.cancel(job.id, "alice")
    job = await world.ended(job)
    assert job.status is JobStatus.CANCELLED
    assert (await world.machine()).current_status is ContextStatus.DISCOVERED


async def test_a_second_job_for_a_busy_machine_is_refused(world):
    world.agent.autopilot = False
    job = await world.replicate()
    with pytest.raises(Failure) as caught:
        await world.replicate()
    assert (caught.value.code, caught.value.facts["job_id"]) == ("machine_busy", job.id)


async def test_progress_is_recorded_in_bytes_disk_by_disk(world):
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")

    async def half():
        return (await world.job(job.id)).percent == 50

    await world.until(half)
    row = await world.job(job.id)
    assert (row.bytes_transferred, row.total_bytes, row.bytes_per_second) == (1000, 2000, 2 << 20)
    assert row.status is JobStatus.REPLICATING and row.answered_at is not None
    disks = await world.control.database.read(queries.disks_of, job.id)
    assert [(disk.bytes_read, disk.bytes_sent, disk.bytes_zero) for disk in disks] == [(1000, 900, 100)] * 2
    world.agent.advance(job.id, SourceStatus.COMPLETED)
    assert (await world.ended(job)).status is JobStatus.COMPLETED


async def test_a_source_busy_with_a_job_that_ended_here_is_freed(world):
    world.agent.autopilot = False
    first = await world.replicate()
    await world.at_step(first, "replicating")
    world.agent.refuse["cancel"] = world.agent.refuse["abandon"] = (500, "away")
    await world.control.dispatch.cancel(first.id, "alice")
    await world.ended(first)
    assert world.agent.jobs[first.id].status is SourceStatus.RUNNING, "it could not be told"
    world.agent.refuse = {"replicate": (409, "machine_busy", "busy", first.id)}
    await world.restart(patience=20)
    second = await world.replicate()
    await world.at_step(second, "handing-over")

    async def freed():
        return world.agent.jobs[first.id].status is SourceStatus.CANCELLED

    await world.until(freed)
    world.agent.refuse.clear()
    world.agent.autopilot = True
    assert (await world.ended(second)).status is JobStatus.COMPLETED
