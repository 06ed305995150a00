"""Snapshots, their return, and growth by the CloudStack provider: every fault, a crash between any two steps."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omavol.cloud import asking, cloudstack
from omavol.cloud.cloudstack import EITHER, volume_name
from omavol.cloud.fake.hardware import Files
from omavol.cloud.fake.jobs import FaultKind
from omavol.cloud.volumes import CloudError, NoSpace, NoSuchSnapshot, NotAttachable, VolumeInUse

GIB = 1 << 30
APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"
UNKNOWN_WHETHER = [FaultKind.FAILS_AFTER, FaultKind.RESTART_AFTER, FaultKind.VANISHES, FaultKind.LOST_ANSWER]
HAPPENED = [*UNKNOWN_WHETHER, FaultKind.HALF, FaultKind.LATE, FaultKind.SLOW]
NOT_DONE = [FaultKind.FAILS, FaultKind.CANCELLED, FaultKind.RESTART, FaultKind.UNHEARD, FaultKind.STATUS]


@pytest.fixture
def files(cloud, tmp_path) -> Files:
    """The volumes have bytes."""
    cloud.fake.model.hardware = Files(tmp_path / "files")
    return cloud.fake.model.hardware


@pytest.fixture
def volume(cloud, files) -> str:
    """A volume that was attached once, as one must have been before a snapshot of it can be taken; it holds `first`."""
    return used_volume(cloud)


def used_volume(cloud) -> str:
    provider, id = cloud.provider(), str(uuid.uuid4())
    provider.create(id, "web01-disk0", GIB, {})
    provider.attach(id, APPLIANCE)
    provider.detach(id)
    write(cloud, id, b"first")
    return id


def image_of(cloud, volume_id):
    (there,) = (each for each in cloud.fake.model.volumes.values() if each.name == volume_name(volume_id))
    return cloud.fake.model.hardware.image(there.id)


def write(cloud, volume_id, content: bytes) -> None:
    with image_of(cloud, volume_id).open("r+b") as file:
        file.write(content.ljust(16))


def read(cloud, volume_id) -> bytes:
    with image_of(cloud, volume_id).open("rb") as file:
        return file.read(16).rstrip()


def snapshots_in(cloud, snapshot_id):
    name = volume_name(snapshot_id)
    return [each for each in cloud.fake.model.snapshots.values() if each.name == name and each.state == "BackedUp"]


def test_a_volume_gets_its_bytes_and_its_size_back(cloud, volume):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(volume, kept)
    write(cloud, volume, b"second")
    assert provider.resize(volume, GIB + 1) == 2 * GIB
    assert provider.describe(volume).capacity == image_of(cloud, volume).stat().st_size == 2 * GIB
    assert provider.revert(volume, kept) == provider.describe(volume)
    assert provider.describe(volume).capacity == GIB
    assert read(cloud, volume) == b"first"
    provider.delete_snapshot(volume, kept)
    with pytest.raises(NoSuchSnapshot, match=f"volume {volume} has no whole snapshot {kept}"):
        provider.revert(volume, kept)


def test_every_one_of_these_calls_may_be_made_again(cloud, volume):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(volume, kept)
    write(cloud, volume, b"second")
    provider.snapshot(volume, kept)  # it is kept: what came later is not
    for _ in range(2):
        assert provider.resize(volume, 2 * GIB) == 2 * GIB
    assert provider.resize(volume, 1) == 2 * GIB  # never smaller
    for _ in range(2):
        provider.revert(volume, kept)
    assert read(cloud, volume) == b"first"
    assert len(snapshots_in(cloud, kept)) == 1
    for _ in range(2):
        provider.delete_snapshot(volume, kept)
    assert not cloud.fake.model.snapshots


@pytest.mark.parametrize("kind", HAPPENED)
@pytest.mark.parametrize("command", ["createSnapshot", "deleteSnapshot", "resizeVolume"])
def test_what_happened_to_it_is_believed_whatever_was_answered(cloud, volume, kind, command):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    cloud.fault(kind, command, seconds=0.2)
    provider.snapshot(volume, kept)
    assert len(snapshots_in(cloud, kept)) == 1
    assert provider.resize(volume, 2 * GIB) == 2 * GIB
    provider.delete_snapshot(volume, kept)
    assert not cloud.fake.model.snapshots and cloud.fake.faults.waiting == []
    assert cloud.ledger.recall(volume) is None


@pytest.mark.parametrize("kind", NOT_DONE)
@pytest.mark.parametrize("command", ["createSnapshot", "deleteSnapshot", "resizeVolume"])
def test_what_was_not_done_to_it_is_an_error_and_can_be_tried_again(cloud, volume, kind, command):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    if command == "deleteSnapshot":
        provider.snapshot(volume, kept)
    call = {
        "createSnapshot": lambda: provider.snapshot(volume, kept),
        "deleteSnapshot": lambda: provider.delete_snapshot(volume, kept),
        "resizeVolume": lambda: provider.resize(volume, 2 * GIB),
    }[command]
    cloud.fault(kind, command)
    with pytest.raises(CloudError, match=command):
        call()
    assert len(snapshots_in(cloud, kept)) == (command == "deleteSnapshot")
    assert provider.describe(volume).capacity == GIB
    call()
    assert len(snapshots_in(cloud, kept)) == (command == "createSnapshot")
    assert provider.describe(volume).capacity == (2 * GIB if command == "resizeVolume" else GIB)


@pytest.mark.parametrize("kind", [*UNKNOWN_WHETHER, FaultKind.HALF, *NOT_DONE])
def test_a_revert_of_which_nobody_knows_says_so_and_is_made_again(cloud, volume, kind):
    """The volume does not show whether it was reverted: a job that failed after it, and one before it, look alike."""
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(volume, kept)
    write(cloud, volume, b"second")
    cloud.fault(kind, "revertSnapshot")
    with pytest.raises(CloudError, match="revertSnapshot") as failed:
        provider.revert(volume, kept)
    assert EITHER in failed.value.advice
    assert read(cloud, volume) == (b"second" if kind in NOT_DONE else b"first")
    provider.revert(volume, kept)
    assert read(cloud, volume) == b"first"
    assert cloud.ledger.recall(volume) is None


def test_a_revert_ends_when_the_volume_is_left_alone_not_when_its_job_does(cloud, volume):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(volume, kept)
    write(cloud, volume, b"second")
    cloud.fault(FaultKind.LATE, "revertSnapshot", seconds=0.2)
    provider.revert(volume, kept)
    assert read(cloud, volume) == b"first"


def test_a_volume_that_the_cloud_works_on_is_left_alone(cloud, volume):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(volume, kept)
    cloud.fault(FaultKind.NEVER_ENDS, "revertSnapshot")
    with pytest.raises(CloudError, match=r"revertSnapshot has not ended within 0.2 s"):
        cloud.provider(job_timeout="0.2").revert(volume, kept)
    assert cloud.ledger.recall(volume).command == "revertSnapshot"
    cloud.fake.jobs.all.clear()  # it is forgotten, and the volume still RevertSnapshotting
    for call in (provider.revert, provider.snapshot):
        with pytest.raises(VolumeInUse, match=f"volume {volume} is RevertSnapshotting in the cloud"):
            call(volume, kept if call == provider.revert else str(uuid.uuid4()))


def test_only_the_volume_of_a_machine_that_does_not_run_is_reverted(cloud, volume):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(volume, kept)
    write(cloud, volume, b"second")
    provider.attach(volume, APPLIANCE)
    with pytest.raises(VolumeInUse, match=f"attached to machine {APPLIANCE}, which is Running") as refused:
        provider.revert(volume, kept)
    assert refused.value.status == 409 and read(cloud, volume) == b"second"
    cloud.fake.model.machines[APPLIANCE].state = "Stopped"
    assert provider.revert(volume, kept).attached_to == APPLIANCE
    assert read(cloud, volume) == b"first"


def test_the_snapshot_of_another_volume_is_not_taken_for_its_own(cloud, volume):
    provider, kept = cloud.provider(), str(uuid.uuid4())
    provider.snapshot(used_volume(cloud), kept)
    with pytest.raises(NoSuchSnapshot):
        provider.revert(volume, kept)


def test_a_snapshot_whose_job_nobody_knows_is_waited_for(cloud, volume, monkeypatch):
    monkeypatch.setattr(cloudstack, "SEEN", 0.05)
    cloud.fake.jobs._pace = 0.1  # half a second for a snapshot
    kept = str(uuid.uuid4())
    cloud.fault(FaultKind.LOST_ANSWER, "createSnapshot")
    cloud.provider().snapshot(volume, kept)
    assert len(snapshots_in(cloud, kept)) == 1


def test_a_snapshot_that_does_not_become_whole_is_told(cloud, volume):
    kept = str(uuid.uuid4())
    cloud.fault(FaultKind.NEVER_ENDS, "createSnapshot")
    with pytest.raises(CloudError, match="createSnapshot has not ended"):
        cloud.provider(job_timeout="0.2").snapshot(volume, kept)
    cloud.fake.jobs.all.clear()
    with pytest.raises(
        CloudError, match=f"snapshot {kept} of volume {volume} is not whole: the cloud calls it Creating"
    ):
        cloud.provider(job_timeout="0.2").snapshot(volume, kept)


def test_a_snapshot_that_a_restart_left_in_the_making_is_not_waited_for(cloud, volume):
    cloud.fake.model.fail_snapshot = lambda id: None
    cloud.fault(FaultKind.RESTART, "createSnapshot")
    with pytest.raises(CloudError, match="createSnapshot: job cancelled because of management server restart"):
        cloud.provider().snapshot(volume, str(uuid.uuid4()))


def test_what_the_cloud_refuses_is_told(cloud, volume):
    provider = cloud.provider()
    provider.create(new := str(uuid.uuid4()), "v", GIB, {})
    with pytest.raises(CloudError, match=r"createSnapshot: VolumeId: .* is not in Ready state but Allocated"):
        provider.snapshot(new, str(uuid.uuid4()))
    cloud.fault(FaultKind.NO_CAPACITY, "resizeVolume")
    with pytest.raises(NoSpace):
        provider.resize(volume, 2 * GIB)
    provider.attach(volume, APPLIANCE)
    cloud.fake.model.machines[APPLIANCE].has_snapshots = True
    with pytest.raises(NotAttachable, match="any VM snapshots cannot be resized"):
        provider.resize(volume, 2 * GIB)


@pytest.mark.parametrize(
    ("call", "command"),
    [
        ("snapshot", "createSnapshot"),
        ("revert", "revertSnapshot"),
        ("delete_snapshot", "deleteSnapshot"),
        ("resize", "resizeVolume"),
    ],
)
@pytest.mark.parametrize("step", ["sent", "remembered", "ended"])
def test_after_a_crash_the_same_call_ends_as_it_was_to_end(cloud, volume, call, command, step):
    kept, point = str(uuid.uuid4()), f"cloud.{command}-{step}"
    if call != "snapshot":
        cloud.provider().snapshot(volume, kept)
    write(cloud, volume, b"second")
    arguments = (volume, 2 * GIB) if call == "resize" else (volume, kept)
    assert cloud.killed_at(point, call, arguments) == point
    getattr(cloud.provider(), call)(*arguments)
    assert len(snapshots_in(cloud, kept)) == (call != "delete_snapshot")
    assert read(cloud, volume) == (b"first" if call == "revert" else b"second")
    assert cloud.provider().describe(volume).capacity == (2 * GIB if call == "resize" else GIB)
    assert cloud.ledger.recall(volume) is None


FAULTS = [kind for kind in FaultKind if kind not in (FaultKind.SLOW, FaultKind.NEVER_ENDS)]
steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "snapshot", "revert", "resize"]),
        st.integers(0, 1),
        st.none() | st.sampled_from(FAULTS),
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_a_revert_that_returns_has_brought_back_what_was_kept(cloud, files, monkeypatch, run):
    """Whatever failed on the way. A snapshot whose call failed may have been taken then: its bytes are one of two."""
    monkeypatch.setattr(cloudstack, "SEEN", 0.3)
    monkeypatch.setattr(cloudstack, "LOOK_PAUSE", 0.01)
    monkeypatch.setattr(asking, "READ_PAUSE", 0.01)
    cloud.fake.faults.waiting.clear()
    volume, ids = used_volume(cloud), [str(uuid.uuid4()) for _ in range(2)]
    kept: list[set[bytes]] = [set(), set()]
    for number, (call, which, fault) in enumerate(run):
        if call == "write":
            write(cloud, volume, b"%d" % number)
            continue
        if call == "snapshot":
            kept[which].add(read(cloud, volume))
        if fault is not None:
            cloud.fault(fault, "", seconds=0.05)
        with suppress(CloudError):
            getattr(cloud.provider(), call)(volume, (number + 1) * GIB if call == "resize" else ids[which])
            assert call != "revert" or read(cloud, volume) in kept[which]
        cloud.fake.faults.waiting.clear()
        assert len(snapshots_in(cloud, ids[which])) <= 1
        until_idle(cloud)
    for which, id in enumerate(ids):
        kept[which].add(read(cloud, volume))
        cloud.provider().snapshot(volume, id)
        cloud.provider().revert(volume, id)
        assert read(cloud, volume) in kept[which] and len(snapshots_in(cloud, id)) == 1
    assert not any((cloud.folder / "jobs").iterdir())


def until_idle(cloud) -> None:
    """What the cloud does late it has done; only then the test may write."""
    end = time.monotonic() + 5
    while any(each.state not in ("Ready", "Allocated") for each in cloud.fake.model.volumes.values()):
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_volume_that_the_cloud_says_is_in_use_is_so():
    assert isinstance(asking.refusal("resizeVolume", 536, "the volume is used"), VolumeInUse)
