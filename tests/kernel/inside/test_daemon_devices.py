"""The daemon on real disks: a fake CloudStack plugs them into this machine, and the whole of attach to detach is ours.

`omavol daemon`, `omavol serve` and the fake are programs of their own; the fake has QEMU's monitor.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL
from guest_world import LIMIT, MIB, run, until
from hotplug import CLOUD_PORT, HOST_IMAGES, IMAGES, PORTS

from omavol import nbd
from omavol.block.mapper import Mapper, error
from omavol.client import ProblemError, VolumeClient
from omavol.schema.volumes import CreateVolume, OpenSession, Operation, Provider, UnknownContent, Volume
from omavol.serve.client import ControlClient

APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"
SIZE = 8 * MIB


class Appliance:
    """The three programs, and their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "volumes"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "key").write_text("key")
        (folder / "secret").write_text("secret")

    def start_cloud(self) -> None:
        argv = [sys.executable, "-m", "omavol.cloud.fake", "--port", "0", "--pace", "0.02", "--machine", APPLIANCE]
        argv += ["--qmp", CLOUD_PORT, "--files", IMAGES, "--seen-as", HOST_IMAGES, "--ports", PORTS]
        argv += ["--state", self.folder / "cloud"]
        process = subprocess.Popen([str(each) for each in argv], stdout=subprocess.PIPE)
        assert process.stdout is not None
        self.cloud = json.loads(process.stdout.readline())
        self.processes["cloud"] = process

    def start_server(self) -> None:
        argv = [OMAVOL, "serve", "--unix", self.folder / "nbd", "--control", self.folder / "control"]
        process = subprocess.Popen([str(each) for each in argv], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        self.processes["serve"] = process

    def start_daemon(self, failpoint: str = "") -> None:
        argv = [OMAVOL, "daemon", "--state", self.folder / "d", "--control", self.folder / "control"]
        argv += ["--unix", self.socket]
        environment = {**os.environ, "OMA_FAILPOINT": failpoint, "OMA_FAILPOINT_LOG": str(self.folder / "hit")}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([str(each) for each in argv], stdout=log, stderr=log, env=environment)
        self.processes["daemon"] = process
        until(lambda: self.answers() or process.poll() is not None, "the daemon answers")
        assert process.poll() is None, self.said()

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self.socket))
            return True
        return False

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.communicate(timeout=LIMIT)

    def ask(self, call: str, *arguments: object):
        async def asked():
            async with VolumeClient(self.socket, timeout=LIMIT) as client:
                return await getattr(client, call)(*arguments)

        return asyncio.run(asked())

    def do(self, call: str, *arguments: object) -> Operation:
        async def done() -> Operation:
            async with VolumeClient(self.socket, timeout=LIMIT) as client:
                return await client.wait(await getattr(client, call)(*arguments), LIMIT)

        return asyncio.run(done())

    def volume(self, name: str) -> Volume:
        return self.ask("volume", self.do("create_volume", CreateVolume(name=name, size=SIZE)).volume_id)

    def attached(self, name: str) -> Volume:
        volume = self.volume(name)
        self.do("attach", volume.volume_id, APPLIANCE)
        return self.ask("volume", volume.volume_id)


@pytest.fixture(scope="module")
def appliance(tmp_path_factory) -> Iterator[Appliance]:
    IMAGES.mkdir(exist_ok=True)
    appliance = Appliance(tmp_path_factory.mktemp("appliance"))
    appliance.start_cloud()
    appliance.start_server()
    appliance.start_daemon()
    settings = {
        "api_url": appliance.cloud["api_url"],
        "api_key_file": str(appliance.folder / "key"),
        "secret_file": str(appliance.folder / "secret"),
        "zone_id": appliance.cloud["zone_id"],
        "disk_offering_id": appliance.cloud["disk_offering_id"],
    }
    appliance.ask("set_provider", Provider(kind="cloudstack", appliance_vm_id=APPLIANCE, settings=settings))
    yield appliance
    for name in ("daemon", "serve", "cloud"):
        appliance.stop(name)


@pytest.fixture(scope="module")
def mapper() -> Iterator[Mapper]:
    with Mapper() as mapper:
        yield mapper


def nodes(mapper: Mapper) -> dict[str, str]:
    """The names of our nodes by their volume."""
    return {each.uuid.removeprefix("OMA-"): each.name for each in mapper.nodes()}


def test_a_volume_is_attached_named_served_and_let_go(appliance, mapper):
    volume = appliance.attached("web01")
    assert volume.device_path == f"/dev/mapper/{volume.persistent_name}"
    assert nodes(mapper)[volume.volume_id] == volume.persistent_name
    session = appliance.ask("open_session", volume.volume_id, OpenSession(job="j", epoch=volume.epoch + 1))
    with nbd.connect(session.uri, timeout=LIMIT) as client:
        (line, *_) = json.loads(run(OMAVOL, "devices", "--json", "--daemon", appliance.socket))
        assert (line["state"], line["name"], line["clients"]) == ("ok", volume.persistent_name, 1)
        assert len(line["serial"]) == 20
        (named,) = json.loads(run(OMAVOL, "names", "--json"))
        assert (named["name"], named["state"], named["openers"]) == (volume.persistent_name, "live", 1)
        assert client.export.size == SIZE
        client.write(4096, b"content" * 512)
        client.flush()
        assert client.read(4096, 3584) == b"content" * 512
    appliance.ask("end_session", volume.volume_id, session.session_id)
    appliance.do("detach", volume.volume_id)
    assert nodes(mapper) == {} and not Path(volume.device_path).is_symlink()
    appliance.do("attach", volume.volume_id, APPLIANCE)
    assert Path(volume.device_path).read_bytes()[4096:7680] == b"content" * 512
    appliance.do("delete_volume", volume.volume_id)
    assert nodes(mapper) == {}


def test_a_detach_with_a_client_connected_is_refused_until_the_session_ends(appliance, mapper):
    volume = appliance.attached("busy")
    session = appliance.ask("open_session", volume.volume_id, OpenSession(job="j", epoch=volume.epoch + 1))
    with nbd.connect(session.uri, timeout=LIMIT) as client:
        assert len(client.read(0, 4096)) == 4096
        appliance.ask("end_session", volume.volume_id, session.session_id)
        appliance.do("detach", volume.volume_id)
    assert nodes(mapper) == {}
    appliance.do("delete_volume", volume.volume_id)


def test_requests_that_a_crash_left_held_are_let_go(appliance, mapper):
    volume = appliance.attached("held")
    session = appliance.ask("open_session", volume.volume_id, OpenSession(job="j", epoch=volume.epoch + 1))
    with ControlClient(appliance.folder / "control", timeout=LIMIT) as control:
        control.set_filters(session.export_name, ["pause"])
        assert appliance.ask("validate_exports").findings == []
        assert control.list().exports[0].filters == []
    with nbd.connect(session.uri, timeout=LIMIT) as client:
        assert len(client.read(0, 4096)) == 4096
    appliance.ask("end_session", volume.volume_id, session.session_id)
    appliance.do("delete_volume", volume.volume_id)


def test_a_node_that_went_under_an_open_export_is_brought_back(appliance, mapper):
    """Swapped to the error target behind the daemon's back: named again, with the export's requests held meanwhile."""
    volume = appliance.attached("adrift")
    session = appliance.ask("open_session", volume.volume_id, OpenSession(job="j", epoch=volume.epoch + 1))
    with nbd.connect(session.uri, timeout=LIMIT) as client:
        client.write(0, b"w" * 4096)
        client.flush()
        mapper.load(volume.persistent_name, error(SIZE))
        mapper.suspend(volume.persistent_name, freeze=False)
        mapper.resume(volume.persistent_name)
        found = appliance.ask("validate_exports").findings
        assert [(each.code, each.mended) for each in found] == [("device_adrift", True)]
        assert client.read(0, 4096) == b"w" * 4096
    appliance.ask("end_session", volume.volume_id, session.session_id)
    appliance.do("delete_volume", volume.volume_id)


def test_a_daemon_that_starts_finds_what_was_there(appliance, mapper):
    """Its nodes gone, as after a reboot; another's left alone."""
    volume = appliance.attached("rebooted")
    appliance.stop("daemon", signal.SIGKILL)
    mapper.remove(volume.persistent_name)
    appliance.start_daemon()
    until(lambda: nodes(mapper) == {volume.volume_id: volume.persistent_name}, "the node stands again")
    assert appliance.ask("volume", volume.volume_id).device_path == volume.device_path
    appliance.do("delete_volume", volume.volume_id)


@pytest.mark.parametrize("point", ["daemon.volume-attached", "names.created"])
def test_an_attach_that_was_killed_anywhere_is_brought_to_its_end(appliance, mapper, point):
    volume = appliance.volume("killed")
    appliance.stop("daemon")
    appliance.start_daemon(point)
    with suppress(ProblemError):  # it may die before it has answered
        appliance.ask("attach", volume.volume_id, APPLIANCE)
    appliance.processes.pop("daemon").wait(LIMIT)
    assert (appliance.folder / "hit").read_text().splitlines()[-1] == point
    appliance.start_daemon()
    until(lambda: appliance.ask("volume", volume.volume_id).status == "attached", "the attach has ended")
    assert nodes(mapper) == {volume.volume_id: volume.persistent_name}
    appliance.do("delete_volume", volume.volume_id)
    assert nodes(mapper) == {}


@pytest.mark.parametrize("point", ["names.removed"])
def test_a_detach_that_was_killed_anywhere_is_brought_to_its_end(appliance, mapper, point):
    volume = appliance.attached("parted")
    appliance.stop("daemon")
    appliance.start_daemon(point)
    with suppress(ProblemError):
        appliance.ask("detach", volume.volume_id)
    appliance.processes.pop("daemon").wait(LIMIT)
    assert (appliance.folder / "hit").read_text().splitlines()[-1] == point
    appliance.start_daemon()
    until(lambda: appliance.ask("volume", volume.volume_id).status == "detached", "the detach has ended")
    assert nodes(mapper) == {}
    appliance.do("delete_volume", volume.volume_id)


def test_a_disk_that_is_taken_without_asking_fails_its_clients_and_heals(appliance, mapper):
    """The cloud takes it away behind everybody's back; the record says so; attached again it is another generation."""
    volume = appliance.attached("snatched")
    session = appliance.ask("open_session", volume.volume_id, OpenSession(job="j", epoch=volume.epoch + 1))
    with nbd.connect(session.uri, timeout=LIMIT) as client:
        client.read(0, 4096)
        snatch(appliance, volume)
        until(lambda: appliance.ask("volume", volume.volume_id).status != "attached", "the daemon has seen it")
        with pytest.raises(nbd.NbdError):
            client.read(MIB, 4096)
    lost = appliance.ask("volume", volume.volume_id)
    assert isinstance(lost.content, UnknownContent) and lost.generation > volume.generation
    with ControlClient(appliance.folder / "control", timeout=LIMIT) as control:
        assert control.list().exports == []
    until(lambda: nodes(mapper) == {}, "the node of a disk that is gone goes too")
    if lost.status == "error":
        appliance.do("detach", volume.volume_id)
    appliance.do("attach", volume.volume_id, APPLIANCE)
    assert appliance.ask("volume", volume.volume_id).device_path == volume.device_path
    appliance.do("delete_volume", volume.volume_id)
    assert nodes(mapper) == {}


def snatch(appliance: Appliance, volume: Volume) -> None:
    """Detach it by the cloud's own API, as an operator at its page does."""
    import cs
    import requests

    with requests.Session() as http:
        client = cs.CloudStack(appliance.cloud["api_url"], "key", "secret", session=http, poll_interval=0.1)
        (there,) = client.listVolumes(name=f"oma-{volume.volume_id}")["volume"]
        client.detachVolume(id=there["id"], fetch_result=True)
        deadline = time.monotonic() + LIMIT
        while client.listVolumes(id=there["id"])["volume"][0].get("virtualmachineid"):
            assert time.monotonic() < deadline
