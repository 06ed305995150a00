"""The CloudStack provider against the fake: every call, every fault, and a crash between any two steps."""

from __future__ import annotations

import uuid

import pytest

from omavol.cloud.cloudstack import volume_name
from omavol.cloud.fake.jobs import FaultKind
from omavol.cloud.volumes import CloudError, NoSpace, NoSuchVolume, NotAttachable, ProviderMisconfigured
from omavol.schema.volumes import Provider

GIB = 1 << 30


@pytest.fixture
def volume(cloud) -> str:
    """The id of a volume that is there."""
    cloud.provider().create(id := str(uuid.uuid4()), "web01-disk0", GIB, {})
    return id


def in_cloud(cloud, volume_id):
    return [each for each in cloud.fake.model.volumes.values() if each.name == volume_name(volume_id)]


APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"


def test_a_volumes_life(cloud):
    provider, id = cloud.provider(), str(uuid.uuid4())
    assert provider.describe(id) is None
    assert provider.create(id, "web01-disk0", GIB + 1, {}) == 2 * GIB
    (there,) = in_cloud(cloud, id)
    told = provider.describe(id)
    assert (told.capacity, told.attached_to, told.path, told.uuid) == (2 * GIB, None, None, there.id)
    assert provider.attach(id, APPLIANCE).attached_to == APPLIANCE
    assert there.state == "Ready" and there.device == 1
    with pytest.raises(NotAttachable, match=r"is attached to machine"):
        provider.delete(id)
    provider.detach(id)
    assert provider.describe(id).attached_to is None
    provider.delete(id)
    assert provider.describe(id) is None and not in_cloud(cloud, id)


def test_every_call_may_be_made_again(cloud, volume):
    provider = cloud.provider()
    assert provider.create(volume, "again", GIB, {}) == GIB
    assert provider.attach(volume, APPLIANCE) == provider.attach(volume, APPLIANCE)
    for _ in range(2):
        provider.detach(volume)
    for _ in range(2):
        provider.delete(volume)
    with pytest.raises(NoSuchVolume, match="the cloud has no volume named oma-"):
        provider.attach(volume, APPLIANCE)


def test_another_machines_volume_is_not_taken(cloud, volume):
    other = cloud.fake.model.add_machine(str(uuid.uuid4()), "other")
    cloud.provider().attach(volume, other.id)
    with pytest.raises(NotAttachable, match=f"is attached to machine {other.id}"):
        cloud.provider().attach(volume, APPLIANCE)


HAPPENED = [FaultKind.FAILS_AFTER, FaultKind.RESTART_AFTER, FaultKind.VANISHES, FaultKind.LOST_ANSWER, FaultKind.HALF]
SPARED = [FaultKind.LATE, FaultKind.SLOW, FaultKind.WRONG_DEVICE]


@pytest.mark.parametrize("kind", [*HAPPENED, *SPARED])
@pytest.mark.parametrize("command", ["createVolume", "attachVolume", "detachVolume"])
def test_what_happened_is_believed_whatever_was_answered(cloud, kind, command):
    provider, id = cloud.provider(), str(uuid.uuid4())
    cloud.fault(kind, command, seconds=0.2)
    provider.create(id, "v", GIB, {})
    assert provider.attach(id, APPLIANCE).attached_to == APPLIANCE
    provider.detach(id)
    assert provider.describe(id).attached_to is None
    assert len(in_cloud(cloud, id)) == 1 and cloud.fake.faults.waiting == []
    assert cloud.ledger.recall(id) is None


@pytest.mark.parametrize("kind", [FaultKind.LOST_ANSWER, FaultKind.HALF])
def test_a_delete_whose_answer_was_lost_is_seen(cloud, volume, kind):
    cloud.fault(kind, "deleteVolume")
    cloud.provider().delete(volume)
    assert not in_cloud(cloud, volume)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (FaultKind.FAILS, "attachVolume: Failed to attachVolume"),
        (FaultKind.CANCELLED, "attachVolume: Failed to attachVolume"),
        (FaultKind.RESTART, "because of management server restart"),
        (FaultKind.NEVER_ENDS, "attachVolume has not ended within 0.3 s"),
        (FaultKind.UNHEARD, "attachVolume: the connection to the cloud failed"),
        (FaultKind.STATUS, "attachVolume: the cloud answered HTTP 503"),
    ],
)
def test_what_did_not_happen_is_an_error_and_can_be_tried_again(cloud, volume, kind, said):
    cloud.fault(kind, "attachVolume")
    with pytest.raises(CloudError, match=said) as failed:
        cloud.provider(job_timeout="0.3").attach(volume, APPLIANCE)
    assert failed.value.status >= 400
    assert cloud.provider().describe(volume).attached_to is None
    if kind is FaultKind.NEVER_ENDS:  # what may still happen is not done a second time
        assert cloud.ledger.recall(volume).command == "attachVolume"
        cloud.fake.jobs.all.clear()
    assert cloud.provider().attach(volume, APPLIANCE).attached_to == APPLIANCE


def test_a_full_cloud_is_no_space(cloud):
    cloud.fault(FaultKind.NO_CAPACITY, "attachVolume")
    cloud.provider().create(id := str(uuid.uuid4()), "v", GIB, {})
    with pytest.raises(NoSpace, match="suitable primary storage") as full:
        cloud.provider().attach(id, APPLIANCE)
    assert full.value.status == 507


def test_questions_are_asked_again(cloud, volume):
    cloud.fault(FaultKind.STATUS, "listVolumes", code=429)
    cloud.fault(FaultKind.UNHEARD, "listVolumes")
    cloud.fault(FaultKind.HALF, "listVolumes")
    assert cloud.provider().describe(volume).capacity == GIB
    cloud.fault(FaultKind.STATUS, "listVolumes", times=9)
    with pytest.raises(CloudError, match="HTTP 503"):
        cloud.provider().describe(volume)


def test_a_machine_with_snapshots_is_named(cloud, volume):
    cloud.fake.model.machines[APPLIANCE].has_snapshots = True
    with pytest.raises(NotAttachable, match="does not have VM snapshots"):
        cloud.provider().attach(volume, APPLIANCE)


def test_a_machine_that_the_cloud_does_not_know_is_a_setting(cloud, volume):
    with pytest.raises(ProviderMisconfigured, match="the cloud knows no machine nobody"):
        cloud.provider().attach(volume, "nobody")


def test_two_volumes_of_one_name_are_told(cloud, volume):
    (there,) = in_cloud(cloud, volume)
    cloud.fake.model.create(str(uuid.uuid4()), there.name, 1)
    with pytest.raises(CloudError, match="the cloud has two volumes named"):
        cloud.provider().describe(volume)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"api_url": ""}, "needs api_url"),
        ({"color": "red"}, "no settings color"),
        ({"secret_file": "/nowhere"}, "secret_file /nowhere cannot be read"),
        ({"job_timeout": "soon"}, "job_timeout is a number of seconds"),
        ({"timeout": "0"}, "timeout is more than 0"),
    ],
)
def test_bad_settings_are_told(cloud, changes, said):
    with pytest.raises(ProviderMisconfigured, match=said):
        cloud.provider(**changes).describe("x")


def test_no_error_has_the_key_or_the_secret(cloud, volume):
    errors = []
    (cloud.folder / "other").write_text("wrong-secret")
    for change in ({"secret_file": str(cloud.folder / "other")}, {"api_url": "http://127.0.0.1:1/client/api"}):
        with pytest.raises(CloudError) as failed:
            cloud.provider(**change).attach(volume, APPLIANCE)
        errors.append(failed.value)
    for kind in (FaultKind.UNHEARD, FaultKind.HALF, FaultKind.STATUS):
        cloud.fault(kind, "listVolumes", times=9)
        with pytest.raises(CloudError) as failed:
            cloud.provider().describe(volume)
        cloud.fake.faults.waiting.clear()
        errors.append(failed.value)
    assert "does not accept the key" in str(errors[0])
    for error in errors:
        told = f"{error} {error.advice} {error.__cause__} {error.__suppress_context__}"
        assert error.__suppress_context__
        assert not {word for word in ("the-api-key", "the-secret", "wrong-secret", "signature") if word in told}


@pytest.mark.parametrize(
    ("call", "command"),
    [("create", "createVolume"), ("attach", "attachVolume"), ("detach", "detachVolume"), ("delete", "deleteVolume")],
)
@pytest.mark.parametrize("step", ["sent", "remembered", "ended"])
def test_after_a_crash_the_same_call_ends_where_it_was_to_end(cloud, call, command, step):
    """Killed when it was sent, when its job was on disk, when the job had ended."""
    if call == "delete" and step != "sent":
        return  # it has no job
    id = str(uuid.uuid4())
    before = {"create": [], "attach": ["create"], "detach": ["create", "attach"], "delete": ["create"]}[call]
    arguments = {"create": (id, "v", GIB, {}), "attach": (id, APPLIANCE), "detach": (id,), "delete": (id,)}
    for each in before:
        getattr(cloud.provider(), each)(*arguments[each])
    point = f"cloud.{command}-{step}"
    assert cloud.killed_at(point, call, arguments[call]) == point
    getattr(cloud.provider(), call)(*arguments[call])
    told = cloud.provider().describe(id)
    assert len(in_cloud(cloud, id)) == (0 if call == "delete" else 1)
    assert (told.attached_to if told else None) == (APPLIANCE if call == "attach" else None)
    assert cloud.ledger.recall(id) is None


def test_the_row_makes_it(cloud):
    from omavol.cloud import provider_for

    assert provider_for(cloud.row(), cloud.folder).describe(str(uuid.uuid4())) is None
    with pytest.raises(ProviderMisconfigured, match="needs api_url, api_key_file"):
        provider_for(Provider(kind="cloudstack", appliance_vm_id="a"), cloud.folder)
