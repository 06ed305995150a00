"""The volume API over its real socket: routes, shapes, refusals."""

from __future__ import annotations

import json
import socket

import anyio
import httpx2
import pytest

from daemon_process import APPLIANCE, SIZE, attached, content_of, digest_file
from omavol.client import ProblemError
from omavol.schema.volumes import (
    AtPoint,
    CreateVolume,
    OpenSession,
    OperationStatus,
    OperationType,
    ProofLevel,
    ProveSession,
    Provider,
    SessionState,
    VolumeStatus,
)


@pytest.fixture
async def http(daemon):
    transport = httpx2.AsyncHTTPTransport(uds=str(daemon.socket))
    async with httpx2.AsyncClient(transport=transport, base_url="http://omavol/api/v1") as http:
        yield http


async def test_a_volume_is_made_attached_written_proved_detached_and_deleted(client, serve):
    volume = await attached(client, "data")
    assert volume.status is VolumeStatus.ATTACHED
    assert (await client.device(volume.volume_id)).device_path == volume.device_path
    assert [v.volume_id for v in await client.volumes_of(APPLIANCE)] == [volume.volume_id]

    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    serve.write(session.export_name, 0, content_of(volume))
    shown = await client.session(volume.volume_id, session.session_id)
    assert shown.bytes_written == volume.size
    export = await client.export(volume.volume_id)
    assert (export.served, export.bytes_written, export.status) == (True, volume.size, "active")

    async def streamed():
        data = digest_file(content_of(volume))
        for at in range(0, len(data), 7):
            yield data[at : at + 7]

    await client.put_digests(volume.volume_id, session.session_id, streamed())
    claim = ProveSession(point="p1", incarnation=serve.incarnation)
    proved = await client.wait(await client.prove(volume.volume_id, session.session_id, claim), 20)
    assert proved.response["proof"] == "digest"
    assert (await client.volume(volume.volume_id)).content == AtPoint(point="p1", proof=ProofLevel.DIGEST)
    assert (await client.exports()).count == 0

    await client.wait(await client.detach(volume.volume_id), 20)
    await client.wait(await client.delete_volume(volume.volume_id), 20)
    assert await client.volumes() == []
    kinds = [one.type for one in await client.operations(volume_id=volume.volume_id)]
    assert kinds == [OperationType(t) for t in ("delete", "detach", "prove", "attach", "create")]


async def test_an_operation_answers_201_with_its_place(http):
    answer = await http.post("/volumes", json={"name": "v", "size": 1024})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/operations/{answer.json()['id']}"
    again = await http.get(answer.headers["location"].removeprefix("/api/v1"), params={"wait": 10})
    assert again.json()["status"] == "completed"
    assert again.json()["volume_id"] == answer.json()["volume_id"]


async def test_ending_a_session_is_told_and_idempotent(client):
    volume = await attached(client)
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    for _ in range(2):
        ended = await client.end_session(volume.volume_id, session.session_id)
        assert ended.state is SessionState.ENDED
    assert [one.session_id for one in await client.sessions(volume.volume_id)] == [session.session_id]
    with pytest.raises(ProblemError) as caught:
        await client.put_digests(volume.volume_id, session.session_id, b"x")
    assert caught.value.code == "session_ended"


async def test_a_fenced_writer_is_told_who_holds_the_volume(client):
    volume = await attached(client)
    await client.open_session(volume.volume_id, OpenSession(job="a", epoch=3))
    with pytest.raises(ProblemError) as caught:
        await client.open_session(volume.volume_id, OpenSession(job="b", epoch=2))
    assert caught.value.problem.status == 409
    assert "job a with epoch 3" in str(caught.value)
    assert (await client.volume(volume.volume_id)).epoch == 3


async def test_digests_larger_than_the_disk_could_have_are_refused_and_leave_nothing(client, folder):
    volume = await attached(client)
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    with pytest.raises(ProblemError) as caught:
        await client.put_digests(volume.volume_id, session.session_id, b"x" * SIZE)
    assert caught.value.problem.status == 413
    assert list((folder / "d" / "digests").iterdir()) == []


async def test_the_provider_is_read_and_set_and_its_secrets_are_not_shown(client):
    assert (await client.provider()).appliance_vm_id == APPLIANCE
    shown = await client.set_provider(Provider(kind="local", appliance_vm_id="vm-2"))
    assert shown.appliance_vm_id == "vm-2"
    created = await client.wait(await client.create_volume(CreateVolume(name="v", size=1)), 20)
    done = await client.wait(await client.attach(created.volume_id, "vm-2"), 20)
    assert done.status is OperationStatus.COMPLETED


async def test_health_says_what_works_and_liveness_only_that_it_answers(client, http, daemon):
    health = await client.health()
    assert health.problems == []
    assert health.status == "healthy"
    assert health.details["server"]["connected"] is True
    assert health.details["record"]["writable"] is True
    assert set(health.details["device_mapper"]) == {"present", "library", "driver", "reason"}
    assert health.details["disk"]["free"] > 0
    alive = await http.get("http://omavol/health")
    assert alive.json()["status"] == "healthy"


async def test_validate_compares_now_and_says_what_it_mended(client, serve):
    volume = await attached(client)
    assert (await client.validate_exports()).findings == []
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    serve.take_away(session.export_name)
    (finding,) = (await client.validate_exports()).findings
    assert (finding.code, finding.mend, finding.mended) == ("export_gone", "re-add", True)
    assert session.export_name in serve.exports
    (mend,) = await client.operations(type=OperationType.MEND)
    assert (mend.id, mend.status) == (finding.operation_id, OperationStatus.COMPLETED)


async def test_nonsense_on_the_socket_does_not_disturb_the_daemon(client, daemon):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(daemon.socket))
        peer.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert peer.recv(4096).startswith(b"HTTP/1.1 400")
    assert (await client.health()).status == "healthy"
    assert "Traceback" not in daemon.log.read_text()


async def test_many_attaches_of_one_volume_at_once_end_in_one_attach(client):

    created = await client.wait(await client.create_volume(CreateVolume(name="v", size=1)), 20)
    outcomes: list[str] = []

    async def attach() -> None:
        try:
            await client.wait(await client.attach(created.volume_id, APPLIANCE), 20)
            outcomes.append("attached")
        except ProblemError as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(attach)
    assert outcomes.count("attached") == 1
    assert set(outcomes) <= {"attached", "volume_busy", "wrong_state"}


async def test_of_many_sessions_at_once_one_holds_the_volume(client, serve):

    volume = await attached(client)

    async def open_(epoch: int) -> None:
        try:
            await client.open_session(volume.volume_id, OpenSession(job=f"job{epoch}", epoch=epoch))
        except ProblemError as error:
            assert error.code == "stale_epoch"

    async with anyio.create_task_group() as tasks:
        for epoch in range(1, 9):
            tasks.start_soon(open_, epoch)
    session = (await client.volume(volume.volume_id)).session
    assert session.epoch == 8
    assert list(serve.exports) == [session.export_name]


def test_the_answer_to_a_lookup_is_json(daemon):
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(daemon.socket))) as http:
        answer = http.get("http://omavol/api/v1/volumes")
    assert json.loads(answer.content) == []
    assert answer.headers["content-type"] == "application/json"


async def test_digests_sent_twice_at_once_are_whole_whichever_came_last(client, folder):

    volume = await attached(client)
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    data = digest_file(content_of(volume))

    async def put() -> None:
        await client.put_digests(volume.volume_id, session.session_id, data)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(put)
    (stored,) = (folder / "d" / "digests").iterdir()
    assert stored.read_bytes() == data
