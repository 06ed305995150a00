"""Stopped machines through the agent: their images are opened for the pass alone, or it is said who has them."""

from __future__ import annotations

import os

from agent_world import point_of
from omavol.schema.source import PowerState, SourceStatus
from source_machines import KIB, MIB, write_into


def disk_content(machine, disk_id, tmp_path):
    from source_machines import run

    disk = next(disk for disk in machine.disks if disk.id == disk_id)
    run("qemu-img", "convert", "-f", disk.format, "-O", "raw", machine.folder / disk.file, tmp_path / "raw")
    return (tmp_path / "raw").read_bytes()


async def test_a_stopped_machine_is_replicated_and_its_qcow2_incrementally(world, client, tmp_path):
    world.machine.stop()
    (found,) = (await client.discover()).vms
    assert found.power_state is PowerState.OFF
    assert [disk.tracks_changes for disk in found.disks] == [True, False]
    first = await world.replicate(client)
    assert first.status is SourceStatus.COMPLETED
    await client.commit(first.job_id)
    write_into(world.machine.folder / "system.qcow2", "qcow2", 5 * MIB, KIB, 9)
    second = await world.replicate(client, point_of(first))
    system, data = second.disk_progresses
    assert (system.mode, system.bytes_sent) == ("incremental", 64 * KIB)
    assert data.mode == "full" and "only while the machine runs" in data.reason
    for disk in world.machine.disks:
        assert world.volumes.content(disk.id) == disk_content(world.machine, disk.id, tmp_path)
    assert world.machine.bitmaps("disk-2000") == {f"oma-{point_of(first)}", f"oma-{point_of(second)}"}
    await client.commit(second.job_id)
    assert world.machine.bitmaps("disk-2000") == {f"oma-{point_of(second)}"}


async def test_a_machine_that_is_started_after_a_pass_goes_on_from_its_record(world, client):
    world.machine.stop()
    first = await world.replicate(client)
    world.machine.start()
    await client.commit(first.job_id)
    world.machine.write("disk-2000", 7 * MIB, os.urandom(KIB))
    second = await world.replicate(client, point_of(first))
    assert second.disk_progresses[0].bytes_sent == 64 * KIB
    assert world.volumes_equal_disks()
    await client.commit(second.job_id)


async def test_an_image_that_another_program_has_open_is_named(world, client):
    monitor = world.machine.machine.monitor
    monitor.rename(monitor.with_name("elsewhere.sock"))
    ended = await world.replicate(client)
    assert (ended.status, ended.error_code) == (SourceStatus.FAILED, "image_in_use")
    assert "is in use" in ended.last_error
    assert any("qmp" in advice for advice in ended.errors)
    monitor.with_name("elsewhere.sock").rename(monitor)
    assert (await world.replicate(client)).status is SourceStatus.COMPLETED
