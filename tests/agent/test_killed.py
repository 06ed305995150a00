"""The agent is killed at each of its named places; started again, it says what happened and the next pass is right."""

from __future__ import annotations

import os

import pytest

from agent_world import point_of, until
from omavol.client.problem import ProblemError
from omavol.schema.source import SourceStatus
from source_machines import KIB, MIB

# What the job is after the restart.
BEFORE_COMPLETION = {
    "agent.job-recorded": SourceStatus.FAILED,
    "agent.point-frozen": SourceStatus.FAILED,
    "agent.copied": SourceStatus.FAILED,
    "copy.first-sent": SourceStatus.FAILED,
    "copy.half-sent": SourceStatus.FAILED,
}


def armed(world, place):
    log = world.agent.folder / "reached"
    world.agent.start(OMA_FAILPOINT=place, OMA_FAILPOINT_LOG=str(log))
    return log


async def committed_pass(world):
    """A first, full, committed pass by an agent that lives; the base of what follows."""
    world.agent.start()
    async with world.agent.client() as client:
        done = await world.replicate(client)
        await client.commit(done.job_id)
    assert world.agent.stop() == 0
    return point_of(done)


@pytest.mark.parametrize("place", BEFORE_COMPLETION)
async def test_killed_before_completion_the_job_failed_and_the_next_increment_heals(world, place):
    base = await committed_pass(world)
    world.machine.write("disk-2000", 8 * MIB, os.urandom(MIB))
    log = armed(world, place)
    wanted = world.request(base)
    async with world.agent.client() as client:
        try:
            await client.replicate(wanted)
        except ProblemError:
            assert place == "agent.job-recorded"
        world.agent.wait_killed()
    assert log.read_text() == f"{place}\n"
    world.machine.write("disk-2001", 4 * MIB, os.urandom(KIB))
    world.agent.start()
    async with world.agent.client() as client:
        failed = await client.progress(wanted.job_id)
        assert (failed.status, failed.error_code) == (BEFORE_COMPLETION[place], "agent_restarted")
        assert failed.errors and "restarted" in failed.last_error
        again = await world.replicate(client, base)
        assert (again.status, again.sync_type) == (SourceStatus.COMPLETED, "incremental")
        assert world.volumes_equal_disks()
        await client.commit(again.job_id)


@pytest.mark.parametrize("place", ["agent.before-commit", "agent.after-commit"])
async def test_killed_in_a_commit_the_point_stays_a_base_and_the_commit_can_be_repeated(world, place):
    base = await committed_pass(world)
    world.machine.write("disk-2000", 8 * MIB, os.urandom(MIB))
    log = armed(world, place)
    async with world.agent.client() as client:
        done = await world.replicate(client, base)
        with pytest.raises(ProblemError):
            await client.commit(done.job_id)
        world.agent.wait_killed()
    assert log.read_text() == f"{place}\n"
    world.machine.write("disk-2000", 0, os.urandom(KIB))
    world.agent.start()
    async with world.agent.client() as client:
        assert (await client.progress(done.job_id)).status is SourceStatus.COMPLETED
        await client.commit(done.job_id)
        assert (await client.progress(done.job_id)).committed
        again = await world.replicate(client, point_of(done))
        assert again.disk_progresses[0].bytes_sent == 64 * KIB
        assert world.volumes_equal_disks()


async def test_a_completed_point_outlives_a_kill_without_a_decision(world):
    """The destination may have recorded the point although its commit never came: it must serve as a base."""
    base = await committed_pass(world)
    world.machine.write("disk-2000", 8 * MIB, os.urandom(MIB))
    world.agent.start()
    async with world.agent.client() as client:
        done = await world.replicate(client, base)
    world.agent.kill()
    world.machine.write("disk-2000", 0, os.urandom(KIB))
    world.agent.start()
    async with world.agent.client() as client:
        kept = b"".join([piece async for piece in client.digests(done.job_id, "disk-2000")])
        assert kept.startswith(b"OMADIGST")
        again = await world.replicate(client, point_of(done))
        assert again.disk_progresses[0].bytes_sent == 64 * KIB
        assert world.volumes_equal_disks()


async def test_progress_is_kept_over_a_kill(world):
    world.machine.write("disk-2000", 0, os.urandom(16 * MIB))
    world.agent.start()
    wanted = world.request(rate_limit=MIB)
    async with world.agent.client() as client:
        await client.replicate(wanted)
        seen = await until(client, wanted.job_id, lambda progress: progress.timing.elapsed_ms > 2500)
    world.agent.kill()
    world.agent.start()
    async with world.agent.client() as client:
        after = await client.progress(wanted.job_id)
        assert (after.status, after.error_code) == (SourceStatus.FAILED, "agent_restarted")
        assert 0 < after.bytes_transferred <= after.total_bytes == seen.total_bytes
        assert after.sequence > seen.sequence
        assert [progress.job_id for progress in (await client.replications(seen.sequence)).replications] == [
            wanted.job_id
        ]


async def test_a_stop_by_signal_ends_jobs_with_a_reason_and_leaves_the_machine_clean(world):
    world.agent.start()
    wanted = world.request(rate_limit=64 * KIB)
    async with world.agent.client() as client:
        await client.replicate(wanted)
        await until(client, wanted.job_id, lambda progress: progress.status is SourceStatus.RUNNING)
    assert world.agent.stop() == 0
    assert sorted(path.name for path in (world.agent.state / "run").iterdir()) == []
    world.agent.start()
    async with world.agent.client() as client:
        after = await client.progress(wanted.job_id)
        assert (after.status, after.error_code) == (SourceStatus.FAILED, "agent_restarted")
        assert (await world.replicate(client)).status is SourceStatus.COMPLETED
