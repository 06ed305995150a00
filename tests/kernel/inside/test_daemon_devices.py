"""The daemon on real disks that a fake CloudStack plugs into this machine: the whole of attach to detach is ours."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL
from guest_appliance import APPLIANCE, SIZE, Appliance, running
from guest_world import LIMIT, MIB, run, until

from omavol import nbd
from omavol.block.mapper import Mapper, error
from omavol.client import ProblemError
from omavol.schema.volumes import OpenSession, UnknownContent
from omavol.serve.client import ControlClient


@pytest.fixture(scope="module")
def appliance(tmp_path_factory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("appliance")) as appliance:
        yield appliance


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
        appliance.snatch(volume)
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
