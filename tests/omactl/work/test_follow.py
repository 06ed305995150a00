"""The follower carries all jobs of a source with one request, and notices what changes behind its back."""

from __future__ import annotations

from omactl.rules.transitions import JobStatus
from omavol.schema.common import new_id
from omavol.schema.source import SourceStatus


async def two_copying(world):
    from builders import machine

    world.agent.autopilot = False
    world.agent.machines.append(machine("db01"))
    [(_, other, _)] = await world.control.machines.add("lab", ["db01"])
    first = await world.replicate()
    second = await world.control.replicate(other, "test", {})
    for job in (first, second):
        await world.at_step(job, "replicating")
    return first, second


async def test_one_request_carries_all_jobs_of_a_source(world):
    first, second = await two_copying(world)

    async def both_are_followed():
        return set(world.control.followers.followed) == {first.id, second.id}

    await world.until(both_are_followed)
    world.agent.advance(second.id, SourceStatus.COMPLETED)
    assert (await world.ended(second)).status is JobStatus.COMPLETED
    assert set(world.control.followers.followed) == {first.id}
    world.agent.advance(first.id, SourceStatus.COMPLETED)
    assert (await world.ended(first)).status is JobStatus.COMPLETED
    assert not world.control.followers.followed


async def test_an_agent_that_was_set_up_anew_is_asked_for_everything(world):
    """Its sequence starts again, so a cursor of the old one would hide every change."""
    first, second = await two_copying(world)
    world.agent.agent_id = new_id()
    world.agent.jobs.pop(first.id)
    world.agent.sequence = iter(range(1, 100))
    world.agent.advance(second.id, SourceStatus.COMPLETED)
    assert (await world.ended(second)).status is JobStatus.COMPLETED
    assert (await world.ended(first)).error_code == "job_lost"
