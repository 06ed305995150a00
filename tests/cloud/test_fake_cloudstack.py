"""The fake by itself: signatures, codes, device ids, what it keeps; and any run of calls and faults on the provider."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from contextlib import ExitStack, suppress
from datetime import timedelta

import cs
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omavol.cloud import asking, cloudstack
from omavol.cloud.fake.api import FakeCloud, signature
from omavol.cloud.fake.hardware import Files, Nothing
from omavol.cloud.fake.jobs import FaultKind
from omavol.cloud.fake.model import Model, Refusal, serial_of
from omavol.cloud.volumes import CloudError

GIB = 1 << 30
APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"


@pytest.fixture
def dial(cloud):
    """A client with these keys; its connections end with the test."""
    sessions = []

    def start(key="the-api-key", secret="the-secret-of-it", **options):
        sessions.append(session := requests.Session())
        return cs.CloudStack(cloud.url, key, secret, session=session, **options)

    yield start
    for session in sessions:
        session.close()


@pytest.fixture
def client(dial):
    return dial()


def code_of(refused) -> int:
    return refused.value.error["errorcode"]


def test_the_signature_is_the_documents():
    """The example of CloudStack's Developer's Guide, "Signing API Requests": its keys, its signature."""
    key = "plgWJfZK4gyS3mOMTVmjUVg-X-jlWlnfaUJ9GAbBbf9EdM-kAYMmAiLqzzq1ElZLYq_u38zCm0bewzGUdP66mg"
    secret = "VDaACYb0LV9eNjTetIOElcVQkvJck_J_QljX_FcHRj87ZKiy0z0ty0ZsYBkoXkY9b7eq1EhwJaw7FF3akA3KBQ"
    parameters = {"command": "listUsers", "response": "json", "apiKey": key}
    assert signature(parameters, secret) == "TTpdDq/7j/J58XCRHomKoQXEQds="


def test_a_wrong_signature_and_an_old_request_are_refused(cloud, client, dial):
    assert client.listZones()["count"] == 1
    for wrong in (dial(secret="wrong"), dial(key="other"), dial(expiration=timedelta(seconds=0))):
        cloud.fake.clock_skew = 5
        with pytest.raises(cs.CloudStackApiException) as refused:
            wrong.listZones()
        assert code_of(refused) == 401


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("noSuchCommand", {}, 432),
        ("attachVolume", {"id": "x"}, 431),
        ("attachVolume", {"id": "x", "virtualmachineid": APPLIANCE}, 431),
        ("queryAsyncJobResult", {"jobid": "x"}, 431),
        ("listVirtualMachines", {"id": "x"}, 431),
        ("listVolumes", {"id": "x"}, 431),
        ("listSnapshots", {"id": "x"}, 431),
        ("createSnapshot", {"volumeid": "x"}, 431),
        ("revertSnapshot", {"id": "x"}, 431),
        ("createVolume", {"name": "v", "size": "many", "diskofferingid": "o", "zoneid": "z"}, 431),
    ],
)
def test_codes_of_what_is_refused_at_once(client, command, arguments, code):
    with pytest.raises(cs.CloudStackApiException) as refused:
        getattr(client, command)(**arguments)
    assert code_of(refused) == code


def test_an_empty_list_has_no_list_and_a_long_one_has_pages(cloud, client):
    assert client.listVolumes() == {}
    for number in range(5):
        cloud.fake.model.create(str(uuid.uuid4()), f"v{number}", 1)
    assert len(client.listVolumes(page=3, pagesize=2)["volume"]) == 1
    assert len(client.listVolumes(fetch_list=True)) == 5


def test_device_ids_leave_out_the_cd_rom_and_end(cloud):
    model = Model(Nothing(), most=4)
    model.add_machine(APPLIANCE, "appliance")
    for number in range(5):
        model.create(str(number), f"v{number}", 1)
    given = [model.attach(str(number), APPLIANCE, None)["volume"]["deviceid"] for number in range(4)]
    assert given == [1, 2, 4, 5]
    with pytest.raises(Refusal, match="maximum number of data disks"):
        model.attach("4", APPLIANCE, None)
    model.detach("1")
    for device, said in (
        (3, "deviceId should be"),
        (0, "must be Stopped"),
        (1, "is used by vm"),
        (9, "should be 0,1,2,4-5"),
    ):
        with pytest.raises(Refusal, match=said):
            model.attach("4", APPLIANCE, device)
    assert model.attach("4", APPLIANCE, 2)["volume"]["deviceid"] == 2


def test_snapshots_bring_bytes_and_size_back(tmp_path):
    files = Files(tmp_path)
    model = Model(files)
    model.add_machine(APPLIANCE, "appliance").state = "Stopped"
    model.create("v", "v", 1)
    with pytest.raises(Refusal, match="not in Ready state but Allocated"):
        model.begin_snapshot("s", "v", "before")
    model.attach("v", APPLIANCE, None)
    with files.image("v").open("r+b") as file:
        file.write(b"before")
    model.begin_snapshot("s", "v", "before")
    assert model.volume("v").state == "Snapshotting"
    model.take_snapshot("s")
    with files.image("v").open("r+b") as file:
        file.write(b"after!")
    model.resize("v", 2)
    assert files.image("v").stat().st_size == 2 * GIB
    model.revert("s")
    with files.image("v").open("rb") as file:
        assert file.read(6) == b"before"
    assert files.image("v").stat().st_size == model.volume("v").size == GIB
    assert files.image("v").stat().st_blocks * 512 < 1 << 20
    model.delete_snapshot("s")
    assert [path.name for path in tmp_path.iterdir()] == ["v.raw"]


def test_a_disk_that_cannot_be_plugged_fails_its_job_and_is_not_attached(cloud, client):
    class Full(Nothing):
        def plug(self, volume_id, serial, size):
            raise OSError("no port is free")

    cloud.fake.model.hardware = Full()
    cloud.fake.model.create("v", "v", 1)
    with pytest.raises(cs.CloudStackApiException, match="no port is free"):
        client.attachVolume(id="v", virtualmachineid=APPLIANCE, fetch_result=True)
    assert client.listVolumes(name="v")["volume"][0]["state"] == "Allocated"


def test_what_a_restart_cut_short_is_ready_again_and_its_snapshot_spoilt(tmp_path):
    state = tmp_path / "state"
    first = FakeCloud(Model(Nothing()), "key", "secret", state=state)
    first.model.add_machine(APPLIANCE, "appliance")
    first.model.create("v", "v", 1)
    first.model.attach("v", APPLIANCE, None)
    first.model.begin_snapshot("s", "v", "s")
    first.keep()
    again = FakeCloud(Model(Nothing()), "key", "secret", state=state)
    assert again.model.volume("v").state == "Ready"
    assert again.model.find_snapshot("s").state == "Error"


def test_it_runs_as_a_program_and_keeps_its_state(tmp_path):
    def start():
        argv = [sys.executable, "-m", "omavol.cloud.fake", "--port", "0", "--pace", "0", "--machine", f"{APPLIANCE}=a"]
        argv += ["--state", tmp_path / "state", "--log", tmp_path / "log", "--files", tmp_path / "files"]
        process = subprocess.Popen([str(each) for each in argv], stdout=subprocess.PIPE)
        return process, json.loads(process.stdout.readline())

    for expected in (0, 1):
        process, facts = start()
        with process, ExitStack() as stack:
            session = stack.enter_context(requests.Session())
            client = cs.CloudStack(
                facts["api_url"], facts["api_key"], facts["secret"], poll_interval=0.05, session=session
            )
            assert client.listVolumes().get("count", 0) == expected
            if not expected:
                made = client.createVolume(
                    name="v",
                    size=1,
                    diskofferingid=facts["disk_offering_id"],
                    zoneid=facts["zone_id"],
                    fetch_result=True,
                )
                id = made["volume"]["id"]
                client.attachVolume(id=id, virtualmachineid=APPLIANCE, fetch_result=True)
                assert (tmp_path / "files" / f"{id}.raw").stat().st_size == GIB
            process.send_signal(signal.SIGINT)
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"createVolume", "attachVolume", "listVolumes"} <= {each["command"] for each in logged}
    assert not [each for each in logged if "signature" in each["parameters"] or "apiKey" in each["parameters"]]


def test_faults_are_arranged_over_http(cloud):
    url = cloud.url.replace("/client/api", "/faults")
    fault = {"kind": "fails", "command": "attachVolume", "times": 2}
    with requests.Session() as session:
        assert session.post(url, json=fault).status_code == 204
        assert session.post(url, json={"kind": "nonsense"}).status_code == 400
    assert cloud.fake.faults.waiting[0].kind is FaultKind.FAILS


def test_a_serial_is_twenty_characters_of_the_id():
    assert serial_of("b3bb9310-1b59-4f62-97e8-cefffdfe3804") == "b3bb93101b594f6297e8"


# --- whatever comes -------------------------------------------------------------------------------------------------

CALLS = ("create", "attach", "detach", "delete", "describe")
steps = st.lists(
    st.tuples(
        st.sampled_from(CALLS),
        st.integers(0, 1),
        st.none() | st.sampled_from([kind for kind in FaultKind if kind not in (FaultKind.SLOW, FaultKind.NEVER_ENDS)]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_run_of_calls_and_faults_loses_nothing_and_makes_nothing_twice(cloud, monkeypatch, run):
    """Whatever failed on the way: a volume is there once or not at all, and the same calls in peace end as they say."""
    monkeypatch.setattr(cloudstack, "SEEN", 0.1)
    monkeypatch.setattr(cloudstack, "LOOK_PAUSE", 0.01)
    monkeypatch.setattr(asking, "READ_PAUSE", 0.01)
    cloud.fake.faults.waiting.clear()
    ids = [str(uuid.uuid4()) for _ in range(2)]
    arguments = {"create": ("v", GIB, {}), "attach": (APPLIANCE,), "detach": (), "delete": (), "describe": ()}
    for call, which, fault in run:
        if fault is not None:
            cloud.fault(fault, "", seconds=0.05)
        with suppress(CloudError):
            getattr(cloud.provider(), call)(ids[which], *arguments[call])
        cloud.fake.faults.waiting.clear()
        names = [each.name for each in cloud.fake.model.volumes.values()]
        assert len(names) == len(set(names))
    for id in ids:
        provider = cloud.provider()
        provider.create(id, "v", GIB, {})
        assert provider.attach(id, APPLIANCE).attached_to == APPLIANCE
        provider.detach(id)
        provider.delete(id)
        assert provider.describe(id) is None
    assert not any((cloud.folder / "jobs").iterdir())
