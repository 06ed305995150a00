"""A replication through the API: what is copied, what is told, what is refused."""

from __future__ import annotations

import os

import pytest

from agent_world import point_of, until
from omavol.client.problem import ProblemError
from omavol.copy.digests import Digests
from omavol.schema.source import NbdTarget, SourceStatus
from source_machines import KIB, MIB


async def digests(client, job_id, disk_id):
    return Digests.decode(b"".join([piece async for piece in client.digests(job_id, disk_id)]))


async def test_a_full_pass_then_an_increment_give_equal_volumes(world, client):
    first = await world.replicate(client)
    assert (first.status, first.sync_type, first.percentage) == (SourceStatus.COMPLETED, "full", 100.0)
    assert world.volumes_equal_disks()
    await client.commit(first.job_id)
    world.machine.write("disk-2000", 20 * MIB, os.urandom(100 * KIB))
    second = await world.replicate(client, point_of(first))
    assert (second.status, second.sync_type) == (SourceStatus.COMPLETED, "incremental")
    assert world.volumes_equal_disks()
    system, data = second.disk_progresses
    assert (system.bytes_read, system.bytes_sent) == (128 * KIB, 128 * KIB)
    assert (data.bytes_read, data.bytes_sent, data.total_bytes, data.percent) == (0, 0, 0, 100.0)
    assert second.bytes_transferred == sum(disk.bytes_transferred for disk in second.disk_progresses)
    assert system.proof.base_point == point_of(first)


async def test_digests_are_kept_until_the_commit(world, client):
    done = await world.replicate(client)
    found = await digests(client, done.job_id, "disk-2000")
    assert found.size == 32 * MIB
    assert len(found) == done.disk_progresses[0].proof.pieces
    await client.commit(done.job_id)
    with pytest.raises(ProblemError) as refused:
        await digests(client, done.job_id, "disk-2000")
    assert refused.value.code == "digests_unknown"


async def test_holes_are_not_read(world, client):
    done = await world.replicate(client)
    assert done.disk_progresses[0].bytes_read <= 3 * MIB
    assert done.disk_progresses[0].capacity_bytes == 32 * MIB


async def test_an_abandoned_pass_loses_no_change(world, client):
    first = await world.replicate(client)
    await client.commit(first.job_id)
    world.machine.write("disk-2000", 0, os.urandom(KIB))
    second = await world.replicate(client, point_of(first))
    await client.abandon(second.job_id)
    await client.abandon(second.job_id)
    world.machine.write("disk-2000", 9 * MIB, os.urandom(KIB))
    third = await world.replicate(client, point_of(first))
    assert third.disk_progresses[0].bytes_sent == 2 * 64 * KIB
    assert world.volumes_equal_disks()


async def test_a_completed_point_is_a_base_before_its_commit(world, client):
    first = await world.replicate(client)
    world.machine.write("disk-2001", 0, os.urandom(KIB))
    second = await world.replicate(client, point_of(first))
    assert second.sync_type == "incremental"
    assert world.volumes_equal_disks()


async def test_an_unknown_base_is_a_full_pass_with_a_reason(world, client):
    done = await world.replicate(client, "a-point-of-long-ago")
    assert done.sync_type == "full"
    assert "no record of changes since a-point-of-long-ago" in done.disk_progresses[0].reason
    assert world.volumes_equal_disks()


async def test_committing_twice_is_no_error(world, client):
    done = await world.replicate(client)
    await client.commit(done.job_id)
    await client.commit(done.job_id)
    assert (await client.progress(done.job_id)).committed
    with pytest.raises(ProblemError) as refused:
        await client.abandon(done.job_id)
    assert refused.value.code == "point_unknown"


async def test_asking_again_with_the_same_id_starts_nothing_new(world, client):
    wanted = world.request()
    first = await client.replicate(wanted)
    assert await client.replicate(wanted) == first
    await world.finish(client, wanted.job_id)
    assert await client.replicate(wanted) == first
    assert len((await client.replications()).replications) == 1
    with pytest.raises(ProblemError) as refused:
        await client.replicate(world.request(job_id=wanted.job_id, connections=2))
    assert (refused.value.code, refused.value.problem.status) == ("job_exists", 409)


async def test_a_second_job_for_a_busy_machine_names_the_first(world, client):
    wanted = world.request(rate_limit=64 * KIB)
    await client.replicate(wanted)
    with pytest.raises(ProblemError) as refused:
        await client.replicate(world.request())
    problem = refused.value.problem
    assert (problem.status, problem.code, problem.job_id) == (409, "machine_busy", wanted.job_id)
    await client.cancel(wanted.job_id)


async def test_a_cancelled_job_ends_soon_and_the_machine_is_free(world, client):
    wanted = world.request(rate_limit=64 * KIB)
    await client.replicate(wanted)
    await until(client, wanted.job_id, lambda progress: progress.status is SourceStatus.RUNNING)
    await client.cancel(wanted.job_id)
    ended = await world.finish(client, wanted.job_id)
    assert (ended.status, ended.error_code) == (SourceStatus.CANCELLED, "cancelled")
    await client.cancel(wanted.job_id)
    assert (await world.replicate(client)).status is SourceStatus.COMPLETED


async def test_the_rate_can_be_changed_while_it_runs(world, client):
    wanted = world.request(rate_limit=64 * KIB)
    await client.replicate(wanted)
    await until(client, wanted.job_id, lambda progress: progress.status is SourceStatus.RUNNING)
    await client.set_rate(wanted.job_id, None)
    done = await world.finish(client, wanted.job_id)
    assert (done.status, done.rate_limit) == (SourceStatus.COMPLETED, None)


async def test_a_destination_of_another_size_gets_nothing(world, client):
    with (world.volumes.folder / "disk-2001").open("r+b") as volume:
        volume.truncate(9 * MIB)
    ended = await world.replicate(client)
    assert (ended.status, ended.error_code) == (SourceStatus.FAILED, "size_mismatch")
    assert not any(any(world.volumes.content(disk.id)) for disk in world.machine.disks)


async def test_a_destination_that_does_not_exist_is_named(world, client):
    (world.volumes.folder / "disk-2001").unlink()
    ended = await world.replicate(client)
    assert ended.error_code == "destination_refused"
    assert "the destination of disk-2001" in ended.last_error


async def test_a_destination_that_goes_away_fails_the_job_and_the_next_pass_is_right(world, client):
    first = await world.replicate(client)
    await client.commit(first.job_id)
    world.machine.write("disk-2000", 4 * MIB, os.urandom(2 * MIB))
    wanted = world.request(point_of(first), rate_limit=256 * KIB)
    await client.replicate(wanted)
    await until(client, wanted.job_id, lambda progress: progress.bytes_transferred > 0)
    world.volumes.stop()
    ended = await world.finish(client, wanted.job_id)
    assert (ended.status, ended.error_code) == (SourceStatus.FAILED, "destination_lost")
    world.volumes.start()
    again = await world.replicate(client, point_of(first))
    assert (again.status, again.sync_type) == (SourceStatus.COMPLETED, "incremental")
    assert world.volumes_equal_disks()


def two_on_one(world):
    return [
        NbdTarget(device_path=world.volumes.uri("disk-2000"), vmware_disk_key=disk.id) for disk in world.machine.disks
    ]


def one(world, **changes):
    fields = {"device_path": world.volumes.uri("disk-2000"), "vmware_disk_key": "disk-2000", **changes}
    return [NbdTarget(**fields)]


REFUSED = {
    "no machine": (lambda world: {"vm_paths": []}, 400, "bad_request"),
    "two machines": (lambda world: {"vm_paths": ["/web01", "/web02"]}, 400, "bad_request"),
    "an unknown machine": (lambda world: {"vm_paths": ["/nobody"]}, 404, "machine_unknown"),
    "no targets": (lambda world: {"nbd_targets": []}, 400, "bad_request"),
    "an unknown disk": (lambda world: {"nbd_targets": one(world, vmware_disk_key="3000")}, 404, "disk_unknown"),
    "a disk twice": (lambda world: {"nbd_targets": one(world) + one(world)}, 400, "bad_request"),
    "two disks into one export": (lambda world: {"nbd_targets": two_on_one(world)}, 400, "bad_request"),
    "a path as destination": (lambda world: {"nbd_targets": one(world, device_path="/etc/passwd")}, 400, "bad_request"),
    "no rate": (lambda world: {"rate_limit": 0}, 400, "bad_request"),
    "no connections": (lambda world: {"connections": 0}, 400, "bad_request"),
    "a job id that is none": (lambda world: {"job_id": "../../etc"}, 400, "bad_request"),
}


async def test_requests_that_cannot_be_are_refused_and_leave_no_job(world, client):
    for case, (changes, status, code) in REFUSED.items():
        with pytest.raises(ProblemError) as refused:
            await client.replicate(world.request(**changes(world)))
        assert (refused.value.problem.status, refused.value.code) == (status, code), case
    assert (await client.replications()).replications == []


async def test_an_older_control_plane_names_disks_by_number(world, client):
    done = await world.replicate(client, nbd_targets=one(world, vmware_disk_key="2000"))
    assert [disk.disk_id for disk in done.disk_progresses] == ["disk-2000"]
    assert done.status is SourceStatus.COMPLETED
