"""SIGKILL at every named place: the next start ends what was begun, and nothing says more than was proved."""

from __future__ import annotations

import pytest

from daemon_process import APPLIANCE, DaemonProcess, attached, content_of, digest_file
from omavol.client import ProblemError, Unreachable, VolumeClient
from omavol.schema.volumes import (
    AtPoint,
    CreateVolume,
    OpenSession,
    OperationStatus,
    OperationType,
    ProofLevel,
    ProveSession,
    SessionState,
    Torn,
    UnknownContent,
    VolumeStatus,
)


@pytest.fixture
def crashing(folder, serve):
    daemon = DaemonProcess(folder)
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("failpoint", ["daemon.create-recorded", "daemon.volume-created"])
async def test_a_create_is_made_once_whenever_it_was_cut(crashing, failpoint):
    crashing.start(failpoint)
    async with VolumeClient(crashing.socket) as client:
        try:
            operation = await client.act(
                "POST", "/api/v1/volumes", dict, body=CreateVolume(name="v", size=1), headers={"Idempotency-Key": "k"}
            )
        except Unreachable as error:
            operation = None
            assert error.may_have_acted
        crashing.died_at(failpoint)
        crashing.start()
        again = await client.create_volume(CreateVolume(name="v", size=1), key="k")
        assert operation is None or operation["id"] == again.id
        done = await client.wait(again, 20)
        assert done.status is OperationStatus.COMPLETED
        (volume,) = await client.volumes()
        assert volume.status is VolumeStatus.DETACHED
        assert len(list((crashing.folder / "d" / "volumes").iterdir())) == 1
        assert len(await client.operations()) == 1


@pytest.mark.parametrize("kind", ["attach", "detach", "delete"])
async def test_every_operation_is_driven_to_its_end(crashing, kind):
    crashing.start(f"daemon.{kind}-recorded")
    async with VolumeClient(crashing.socket, timeout=10) as client:
        created = await client.wait(await client.create_volume(CreateVolume(name="v", size=1)), 20)
        volume_id = created.volume_id
        if kind == "detach":
            await client.wait(await client.attach(volume_id, APPLIANCE), 20)
        requests = {
            "attach": lambda: client.act(
                "POST", f"/api/v1/volumes/{volume_id}/attach", dict, body={"vm_id": APPLIANCE}
            ),
            "detach": lambda: client.act("POST", f"/api/v1/volumes/{volume_id}/detach", dict),
            "delete": lambda: client.act("DELETE", f"/api/v1/volumes/{volume_id}", dict),
        }
        with pytest.raises(Unreachable):
            await requests[kind]()
        crashing.died_at(f"daemon.{kind}-recorded")
        crashing.start()
        (operation,) = await client.operations(type=OperationType(kind))
        assert (await client.wait(operation, 20)).status is OperationStatus.COMPLETED
        statuses = {"attach": ["attached"], "detach": ["detached"], "delete": []}
        assert [str(volume.status) for volume in await client.volumes()] == statuses[kind]


@pytest.mark.parametrize("failpoint", ["daemon.session-recorded", "daemon.export-added"])
async def test_a_session_cut_while_opening_is_the_same_session_when_asked_again(crashing, serve, failpoint):
    crashing.start(failpoint)
    wanted = OpenSession(job="job", epoch=1)
    async with VolumeClient(crashing.socket) as client:
        volume = await attached(client)
        with pytest.raises(Unreachable):
            await client.open_session(volume.volume_id, wanted)
        crashing.died_at(failpoint)
        assert len(serve.exports) == (failpoint == "daemon.export-added")
        crashing.start()
        torn = await client.volume(volume.volume_id)
        assert isinstance(torn.content, Torn)
        session = await client.open_session(volume.volume_id, wanted)
        assert session.session_id == torn.session.session_id
        assert list(serve.exports) == [session.export_name]
        await client.end_session(volume.volume_id, session.session_id)
        assert (await client.volume(volume.volume_id)).content == UnknownContent()


async def test_a_proof_cut_before_it_was_recorded_is_made_again(crashing, serve):
    crashing.start("daemon.prove-verified")
    async with VolumeClient(crashing.socket) as client:
        volume = await attached(client)
        session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
        serve.write(session.export_name, 0, content_of(volume))
        await client.put_digests(volume.volume_id, session.session_id, digest_file(content_of(volume)))
        claim = ProveSession(point="p1", incarnation=serve.incarnation)
        operation = await client.prove(volume.volume_id, session.session_id, claim)
        crashing.died_at("daemon.prove-verified")
        crashing.start()
        assert (await client.wait(operation, 20)).status is OperationStatus.COMPLETED
        assert (await client.volume(volume.volume_id)).content == AtPoint(point="p1", proof=ProofLevel.DIGEST)
        again = await client.prove(volume.volume_id, session.session_id, claim)
        assert again.id == operation.id


async def test_a_byte_that_changed_while_the_daemon_was_dead_is_found(crashing, serve):
    crashing.start("daemon.prove-verified")
    async with VolumeClient(crashing.socket) as client:
        volume = await attached(client)
        session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
        serve.write(session.export_name, 0, content_of(volume))
        await client.put_digests(volume.volume_id, session.session_id, digest_file(content_of(volume)))
        claim = ProveSession(point="p1", incarnation=serve.incarnation)
        operation = await client.prove(volume.volume_id, session.session_id, claim)
        crashing.died_at("daemon.prove-verified")
        with (crashing.folder / "d" / "volumes" / f"{volume.volume_id}.raw").open("r+b") as file:
            file.seek(1000)
            file.write(b"\xff")
        crashing.start()
        with pytest.raises(ProblemError) as caught:
            await client.wait(operation, 20)
        assert caught.value.code == "digest_mismatch"
        assert isinstance((await client.volume(volume.volume_id)).content, Torn)


async def test_a_copy_goes_on_while_the_daemon_is_killed_and_started(crashing, serve):
    crashing.start()
    async with VolumeClient(crashing.socket) as client:
        volume = await attached(client)
        session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
        crashing.kill()
        serve.write(session.export_name, 0, content_of(volume))
        crashing.start()
        shown = await client.session(volume.volume_id, session.session_id)
        assert (shown.state, shown.unprovable_because) == (SessionState.OPEN, None)
        assert shown.bytes_written == volume.size
        await client.put_digests(volume.volume_id, session.session_id, digest_file(content_of(volume)))
        claim = ProveSession(point="p1", incarnation=serve.incarnation)
        proved = await client.wait(await client.prove(volume.volume_id, session.session_id, claim), 20)
        assert proved.error is None


async def test_a_server_that_comes_back_is_noticed_and_its_sessions_are_marked(crashing, serve):
    crashing.start()
    async with VolumeClient(crashing.socket) as client:
        volume = await attached(client)
        session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
        serve.stop()
        health = await client.health()
        assert health.status == "degraded"
        assert "does not answer" in health.problems[0]
        with pytest.raises(ProblemError) as caught:
            await client.open_session(volume.volume_id, OpenSession(job="job", epoch=2))
        assert caught.value.code == "server_away"
        serve.start()
        mends: list[object] = []
        while not mends:  # the daemon's own back-off; the mark of pytest-timeout is the limit
            mends = list(await client.operations(type=OperationType.MEND))
        shown = await client.session(volume.volume_id, session.session_id)
        assert "writes may be lost" in shown.unprovable_because
        await client.put_digests(volume.volume_id, session.session_id, digest_file(content_of(volume)))
        with pytest.raises(ProblemError) as caught:
            await client.prove(volume.volume_id, session.session_id, ProveSession(point="p", incarnation=""))
        assert caught.value.code == "unprovable"
        assert (await client.health()).status == "healthy"
        fresh = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=2))
        assert list(serve.exports) == [fresh.export_name]
