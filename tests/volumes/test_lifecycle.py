"""Create, attach, detach, delete: what the record says after each, and after each failure."""

from __future__ import annotations

import pytest

from omavol.schema.volumes import (
    AttachVolume,
    CreateVolume,
    OperationStatus,
    OperationType,
    UnknownContent,
    VolumeStatus,
)
from omavol.volumes import orders
from omavol.volumes.errors import VolumeError
from omavol.volumes.record import APPLIANCE

GIB = 1 << 30


def test_a_new_volume_keeps_the_exact_size_and_has_whole_gibibytes(world):
    volume = world.create(size=GIB + 512)
    assert (volume.size, volume.capacity) == (GIB + 512, 2 * GIB)
    assert volume.status is VolumeStatus.DETACHED
    assert volume.content == UnknownContent()
    assert (world.folder / "volumes" / f"{volume.volume_id}.raw").stat().st_size == 2 * GIB


def test_an_attached_volume_has_a_device_and_a_detached_one_has_none(world):
    volume = world.create()
    done = world.attach(volume.volume_id)
    assert done.status is OperationStatus.COMPLETED
    assert done.response["device_path"].endswith(f"{volume.volume_id}.raw")
    assert world.views.device(volume.volume_id).vm_id == APPLIANCE
    assert [v.volume_id for v in world.views.volumes_of(APPLIANCE)] == [volume.volume_id]

    done = world.wait(orders.detach(world.operations, volume.volume_id, None))
    assert done.status is OperationStatus.COMPLETED
    with pytest.raises(VolumeError, match="no device"):
        world.views.device(volume.volume_id)
    assert world.views.volumes_of(APPLIANCE) == []


def test_a_deleted_volume_is_gone_and_its_name_is_never_given_out_again(world):
    first = world.create(vm_name="web01", disk_number="disk-2000")
    assert first.persistent_name == "web01-disk0"
    world.attach(first.volume_id)
    done = world.wait(orders.delete(world.operations, first.volume_id, None))
    assert done.status is OperationStatus.COMPLETED
    assert not (world.folder / "volumes" / f"{first.volume_id}.raw").exists()
    with pytest.raises(VolumeError, match="deleted"):
        world.views.volume(first.volume_id)
    with pytest.raises(VolumeError, match="deleted"):
        world.open(first)
    second = world.create(vm_name="web01", disk_number="disk-2000")
    assert second.persistent_name == "web01-disk0-2"


def test_attaching_to_an_unknown_machine_fails_and_leaves_the_volume_as_it_was(world):
    volume = world.create()
    wanted = AttachVolume(vm_id="another")
    done = world.wait(orders.attach(world.operations, world.record, volume.volume_id, wanted, None))
    assert done.status is OperationStatus.FAILED
    assert done.error.code == "not_attachable"
    assert done.error.advice
    assert world.views.volume(volume.volume_id).status is VolumeStatus.DETACHED


def test_a_create_that_cannot_be_done_leaves_nothing(world):
    wanted = CreateVolume(name="v", size=2**62)
    done = world.wait(orders.create(world.operations, world.record, wanted, None))
    assert done.status is OperationStatus.FAILED
    assert done.error.code == "provider_failed"
    assert world.views.volumes() == []
    assert list((world.folder / "volumes").iterdir()) == []


def test_what_could_not_be_undone_is_said_and_the_volume_is_in_error(world):
    (world.folder / "volumes").write_text("in the way")
    wanted = CreateVolume(name="v", size=GIB)
    done = world.wait(orders.create(world.operations, world.record, wanted, None))
    assert any(line.startswith("Could not be undone: provider-create") for line in done.error.advice)
    assert world.views.volumes()[0].status is VolumeStatus.ERROR


def test_a_volume_in_the_wrong_state_is_refused_before_anything_happens(world):
    volume = world.attached()
    with pytest.raises(VolumeError) as caught:
        world.attach(volume.volume_id)
    assert (caught.value.status, caught.value.code) == (409, "wrong_state")
    assert "attached" in caught.value.detail


def test_a_detach_drops_what_a_crash_left_served_and_names_the_machine(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.path.rename(away := world.serve.path.with_suffix(".away"))
    world.sessions.end(volume.volume_id, session.session_id)  # the server could not be told
    away.rename(world.serve.path)
    assert session.export_name in world.serve.exports
    done = world.wait(orders.detach(world.operations, volume.volume_id, None))
    assert (done.status, done.vm_id) == (OperationStatus.COMPLETED, APPLIANCE)
    assert world.serve.exports == {}


def test_a_volume_that_is_written_cannot_be_detached_or_deleted(world):
    volume = world.attached()
    session = world.open(volume)
    for order in (orders.detach, orders.delete):
        with pytest.raises(VolumeError) as caught:
            order(world.operations, volume.volume_id, None)
        assert caught.value.code == "session_open"
        assert session.session_id in caught.value.detail


def test_the_same_key_gives_the_same_operation_and_another_request_is_refused(world):
    wanted = CreateVolume(name="v", size=GIB)
    first = world.wait(orders.create(world.operations, world.record, wanted, "key"))
    again = orders.create(world.operations, world.record, wanted, "key")
    assert (again.id, again.volume_id) == (first.id, first.volume_id)
    assert len(world.views.volumes()) == 1
    with pytest.raises(VolumeError) as caught:
        orders.detach(world.operations, first.volume_id, "key")
    assert caught.value.code == "key_reused"


def test_a_second_operation_on_a_busy_volume_is_refused_and_named(world):
    volume = world.create()
    with world.house.locks.hold(volume.volume_id):  # the worker waits, the operation stays unfinished
        running = orders.delete(world.operations, volume.volume_id, None)
        with pytest.raises(VolumeError) as caught:
            world.attach(volume.volume_id)
    assert caught.value.code == "volume_busy"
    assert running.id in caught.value.detail
    assert world.wait(running).status is OperationStatus.COMPLETED


def test_an_operation_is_found_by_volume_type_and_status_newest_first(world):
    volume = world.attached()
    ours = world.views.operations({"volume_id": volume.volume_id}, 10)
    assert [operation.type for operation in ours] == [OperationType.ATTACH, OperationType.CREATE]
    assert ours[1].volume_id == volume.volume_id
    assert world.views.operations({"type": "create", "status": "failed"}, 10) == []
    assert len(world.views.operations({}, 1)) == 1


def test_an_unset_appliance_id_is_an_error_and_never_another_machine(world):
    volume = world.create()
    with world.record.write() as db:
        db.execute("UPDATE provider SET appliance_vm_id = ''")
    with pytest.raises(VolumeError) as caught:
        world.attach(volume.volume_id)
    assert caught.value.code == "provider_unset"
