"""The daemon in front of the real NBD server: real clients write, real crashes cut, the record says what is true."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from daemon_process import OMAVOL, DaemonProcess, attached
from omavol.client import ProblemError, VolumeClient
from omavol.copy.engine import Job, Options, Result, replicate
from omavol.schema.volumes import (
    AtPoint,
    Base,
    OpenSession,
    OperationStatus,
    OperationType,
    ProofLevel,
    ProveSession,
    Session,
    Torn,
    UnknownContent,
    Volume,
)

SIZE = (8 << 20) + 4096


class Server:
    """`omavol serve` of its own, with a unix socket and a control socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        command = [OMAVOL, "serve", "--unix", self.folder / "nbd", "--control", self.folder / "c"]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._listens():
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)  # a process's socket has no event to wait for

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, contextlib.suppress(OSError):
            probe.connect(os.fspath(self.folder / "c"))
            return True
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.process.terminate()
    try:
        server.process.wait(20)
    finally:
        server.kill()


@pytest.fixture
async def client(server: Server, folder: Path) -> AsyncIterator[VolumeClient]:
    daemon = DaemonProcess(folder)
    daemon.start()
    async with VolumeClient(daemon.socket) as client:
        yield client
    daemon.stop()


@pytest.fixture
def disk(folder: Path) -> Path:
    """A sparse source disk with data at both ends."""
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(SIZE)
        file.seek(SIZE - 4096)
        file.write(os.urandom(4096))
    return disk


async def copied(session: Session, disk: Path, **more: object) -> Result:
    assert session.uri is not None
    return await anyio.to_thread.run_sync(lambda: replicate(str(disk), session.uri, **more))


async def incarnation(client: VolumeClient) -> str:
    return str((await client.health()).details["server"]["incarnation"])


async def replicated(client: VolumeClient, volume: Volume, disk: Path, epoch: int, point: str, **more: object) -> None:
    base = more.pop("base", None)
    session = await client.open_session(volume.volume_id, OpenSession(job=f"job{epoch}", epoch=epoch, base=base))
    result = await copied(session, disk, **more)
    await client.put_digests(volume.volume_id, session.session_id, result.digests.encode())
    claim = ProveSession(point=point, incarnation=await incarnation(client))
    await client.wait(await client.prove(volume.volume_id, session.session_id, claim), 30)


def nbdinfo(*arguments: str) -> str:
    return subprocess.run(["nbdinfo", *arguments], capture_output=True, text=True, check=False).stdout


def flip(volume: Volume, offset: int) -> None:
    with Path(volume.device_path).open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01")


def holds(volume: Volume, disk: Path) -> bool:
    with Path(volume.device_path).open("rb") as file:
        return file.read(SIZE) == disk.read_bytes()


async def test_a_copy_and_an_increment_are_proved_equal(client, disk):
    volume = await attached(client, size=SIZE)
    await replicated(client, volume, disk, 1, "p1")
    assert holds(volume, disk)
    volume = await client.volume(volume.volume_id)
    assert volume.content == AtPoint(point="p1", proof=ProofLevel.DIGEST)
    with disk.open("r+b") as file:
        file.seek(65536)
        file.write(b"changed" * 1000)
    base = Base(generation=volume.generation, point="p1")
    await replicated(client, volume, disk, 2, "p2", base=base, changed=[(65536, 65536)])
    assert holds(volume, disk)
    assert (await client.volume(volume.volume_id)).content == AtPoint(point="p2", proof=ProofLevel.DIGEST)


async def test_the_export_has_the_disks_exact_size_and_nothing_is_listed(client, disk):
    volume = await attached(client, size=SIZE)
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    assert nbdinfo("--size", session.uri) == f"{SIZE}\n"
    assert volume.capacity > SIZE
    assert nbdinfo("--size", session.uri.replace(session.export_name, "0" * 32)) == ""
    assert session.export_name not in nbdinfo("--list", session.uri)


async def test_a_newer_epoch_cuts_the_older_writer_off(client, folder):
    volume = await attached(client, size=64 << 20)
    old = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    source = folder / "big"
    with source.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    job = Job(str(source), old.uri, Options(digests=True, rate=4 << 20))
    async with anyio.create_task_group() as tasks:
        failures: list[str] = []

        async def write() -> None:
            try:
                await anyio.to_thread.run_sync(job.run)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is what this test is about
                failures.append(str(error))

        tasks.start_soon(write)
        while (await client.session(volume.volume_id, old.session_id)).bytes_written == 0:  # noqa: ASYNC110  # no event
            await anyio.sleep(0.01)
        new = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=2))
    assert failures
    assert new.session_id != old.session_id
    assert isinstance((await client.volume(volume.volume_id)).content, Torn)


async def test_a_session_nobody_wrote_to_gives_the_content_back(client):
    volume = await attached(client, size=SIZE)
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    await client.end_session(volume.volume_id, session.session_id)
    assert (await client.volume(volume.volume_id)).content == UnknownContent()


async def test_a_killed_server_leaves_the_volume_torn_and_the_next_pass_heals_it(client, server, disk):
    volume = await attached(client, size=SIZE)
    await replicated(client, volume, disk, 1, "p1")
    base = Base(generation=1, point="p1")
    session = await client.open_session(volume.volume_id, OpenSession(job="j", epoch=2, base=base))
    result = await copied(session, disk, changed=[(0, 65536)])
    server.kill()
    server.start()
    await client.validate_exports()
    await client.put_digests(volume.volume_id, session.session_id, result.digests.encode())
    with pytest.raises(ProblemError) as caught:
        await client.prove(volume.volume_id, session.session_id, ProveSession(point="p2", incarnation=""))
    assert caught.value.code == "unprovable"
    torn = await client.volume(volume.volume_id)
    assert torn.content == Torn(since_session=session.session_id, job="j", base="p1")
    await replicated(client, volume, disk, 3, "p3", base=base, changed=[(0, 1 << 20)])
    assert (await client.volume(volume.volume_id)).content == AtPoint(point="p3", proof=ProofLevel.DIGEST)


async def test_a_flipped_byte_on_the_volume_is_found_past_the_page_cache(client, disk):
    volume = await attached(client, size=SIZE)
    session = await client.open_session(volume.volume_id, OpenSession(job="job", epoch=1))
    result = await copied(session, disk)
    flip(volume, 5 << 20)
    await client.put_digests(volume.volume_id, session.session_id, result.digests.encode())
    claim = ProveSession(point="p1", incarnation=await incarnation(client))
    with pytest.raises(ProblemError) as caught:
        await client.wait(await client.prove(volume.volume_id, session.session_id, claim), 30)
    assert caught.value.code == "digest_mismatch"
    (operation,) = await client.operations(type=OperationType.PROVE)
    assert operation.status is OperationStatus.FAILED
