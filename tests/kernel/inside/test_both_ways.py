"""What a volume's name promises, with device-mapper's nodes and without: one suite, the daemon chooses by looking."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from guest_appliance import APPLIANCE, SIZE, Appliance, running
from guest_world import LIMIT, MIB, until

from omavol import nbd
from omavol.block.mapper import Mapper
from omavol.block.names import MappedNames
from omavol.client import ProblemError
from omavol.schema.volumes import OpenSession, UnknownContent, Volume


@pytest.fixture(scope="module", params=[True, False], ids=["nodes", "no-nodes"])
def appliance(request, tmp_path_factory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("appliance"), nodes=request.param) as appliance:
        yield appliance
    with Mapper() as mapper:
        assert MappedNames(mapper).standing() == []


@contextmanager
def served(appliance: Appliance, volume: Volume) -> Iterator[nbd.Client]:
    """A client in a write session of the volume; the session ends with the block, if it has not ended before."""
    session = appliance.ask("open_session", volume.volume_id, OpenSession(job="j", epoch=volume.epoch + 1))
    with nbd.connect(session.uri, timeout=LIMIT) as client:
        yield client
    with suppress(ProblemError):
        appliance.ask("end_session", volume.volume_id, session.session_id)


def test_it_is_opened_by_its_name_or_as_the_kernel_names_it(appliance):
    volume = appliance.attached("plain")
    node = f"/dev/mapper/{volume.persistent_name}"
    assert (volume.device_path == node) is appliance.nodes and Path(volume.device_path).is_block_device()
    appliance.do("detach", volume.volume_id)
    assert not Path(node).exists() and appliance.ask("volume", volume.volume_id).device_path is None
    appliance.do("delete_volume", volume.volume_id)


def test_the_source_disks_bytes_are_served_and_none_beyond(appliance):
    size = 5 * MIB + 512
    volume = appliance.attached("bounded", size)
    with served(appliance, volume) as client:
        assert client.export.size == size
        client.write(size - 512, b"e" * 512)
        assert client.read(size - 512, 512) == b"e" * 512
    assert Path(volume.device_path).is_block_device()
    appliance.do("delete_volume", volume.volume_id)


def test_a_client_goes_on_at_another_letter_and_sees_no_stale_byte(appliance):
    """The disk goes and comes, with other content, while no daemon runs; the server has the one that went open."""
    volume = appliance.attached("moves")
    with served(appliance, volume) as client:
        client.write(0, b"a" * SIZE)
        client.flush()
        assert client.read(MIB, 8192) == b"a" * 8192
        appliance.stop("daemon", signal.SIGKILL)
        appliance.snatch(volume)
        image = appliance.image(volume)
        with image.open("r+b") as file:
            file.write(b"b" * SIZE)
        appliance.bring_back(volume)
        appliance.start_daemon()
        assert appliance.ask("validate_exports").findings == []
        assert client.read(0, 8192) == b"b" * 8192
        moved = appliance.ask("volume", volume.volume_id)
        assert (moved.device_path == volume.device_path) is appliance.nodes
        client.write(MIB + 512, b"n" * 512)  # a part of a page that the old disk had in the cache
        assert client.read(MIB, 2048) == b"b" * 512 + b"n" * 512 + b"b" * 1024
        with pytest.raises(nbd.NbdError, match="FLUSH failed: EIO"):
            client.flush()  # nobody knows what the disk that went had of what was written before
    with served(appliance, moved) as client:
        client.write(MIB + 8192 + 512, b"m" * 512)
        client.flush()
    appliance.do("detach", volume.volume_id)
    written = bytearray(b"b" * SIZE)
    for at, what in ((MIB + 512, b"n"), (MIB + 8192 + 512, b"m")):
        written[at : at + 512] = what * 512
    with image.open("rb") as file:
        assert file.read(SIZE) == written
    appliance.do("delete_volume", volume.volume_id)


def test_a_disk_that_is_taken_without_asking_fails_its_clients(appliance):
    volume = appliance.attached("snatched")
    with served(appliance, volume) as client:
        client.read(0, 4096)
        appliance.snatch(volume)
        until(lambda: appliance.ask("volume", volume.volume_id).status != "attached", "the daemon has seen it")
        with pytest.raises(nbd.NbdError):
            client.read(MIB, 4096)
    lost = appliance.ask("volume", volume.volume_id)
    assert isinstance(lost.content, UnknownContent) and lost.generation > volume.generation
    if lost.status == "error":
        appliance.do("detach", volume.volume_id)
    appliance.do("attach", volume.volume_id, APPLIANCE)
    with served(appliance, appliance.ask("volume", volume.volume_id)) as client:
        assert len(client.read(0, 4096)) == 4096
    appliance.do("delete_volume", volume.volume_id)


def test_who_has_it_open_is_said_and_it_stays(appliance):
    volume = appliance.attached("open")
    with Path(volume.device_path).open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        file.close()
        try:
            with pytest.raises(ProblemError, match=rf"process {holder.pid} \(sleep\)"):
                appliance.do("detach", volume.volume_id)
            assert appliance.ask("volume", volume.volume_id).status == "attached"
        finally:
            holder.kill()
    appliance.do("detach", volume.volume_id)
    appliance.do("delete_volume", volume.volume_id)


@pytest.mark.parametrize(
    ("call", "point", "end"),
    [
        ("attach", "daemon.device-found", "attached"),
        ("detach", "daemon.device-parted", "detached"),
    ],
)
@pytest.mark.parametrize("appliance", [False], indirect=True, ids=["no-nodes"], scope="module")
def test_without_nodes_too_what_was_killed_is_brought_to_its_end(appliance, call, point, end):
    volume = appliance.volume("killed") if call == "attach" else appliance.attached("killed")
    appliance.stop("daemon")
    appliance.start_daemon(point)
    with suppress(ProblemError):  # it may die before it has answered
        appliance.ask(call, volume.volume_id, *([APPLIANCE] if call == "attach" else []))
    appliance.processes.pop("daemon").wait(LIMIT)
    assert (appliance.folder / "hit").read_text().splitlines()[-1] == point
    appliance.start_daemon()
    until(lambda: appliance.ask("volume", volume.volume_id).status == end, "it has ended")
    assert (appliance.ask("volume", volume.volume_id).device_path is not None) is (end == "attached")
    appliance.do("delete_volume", volume.volume_id)
