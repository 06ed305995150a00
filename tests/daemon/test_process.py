"""The process: its socket and who may use it, its refusals in one line, its end."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import threading

import anyio
import pytest

from daemon_process import OMAVOL, DaemonProcess, attached
from omavol.client import VolumeClient
from omavol.schema.volumes import CreateVolume, OperationStatus, VolumeStatus

NOBODY = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")


def refused(*arguments: str) -> str:
    """The one line on stderr of a daemon that would not start."""
    done = subprocess.run([OMAVOL, "daemon", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def ask_as(uid: int, path: str) -> bytes:
    """GET /health as another user: the first bytes of the answer, or the name of the error."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
                peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                code = int(peer.recv(12).split()[1]) // 4
        except PermissionError:
            code = 2
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {2: b"no permission", 50: b"200", 100: b"403"}[status]


def test_the_socket_is_for_its_owner_alone(daemon):
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600


@ROOT_ONLY
def test_another_user_cannot_even_connect(daemon):
    assert ask_as(NOBODY, str(daemon.socket)) == b"no permission"


@ROOT_ONLY
def test_an_allowed_user_is_served_and_every_other_is_refused(folder, serve):
    daemon = DaemonProcess(folder, ("--allow-uid", str(NOBODY)))
    daemon.start()
    try:
        assert ask_as(NOBODY, str(daemon.socket)) == b"200"
        assert ask_as(1234, str(daemon.socket)) == b"403"
    finally:
        daemon.stop()


def test_a_second_daemon_in_the_same_folder_is_refused(daemon):
    assert "another omavol daemon runs in" in refused("--state", str(daemon.folder / "d"))
    assert daemon.answers()


def test_a_socket_of_a_living_process_is_not_taken(daemon, tmp_path):
    line = refused("--state", str(tmp_path / "other"), "--unix", str(daemon.socket))
    assert f"{daemon.socket} is the socket of a living process" in line
    assert daemon.answers()


def test_a_file_in_the_sockets_place_is_not_removed(folder):
    (folder / "s").write_text("mine")
    assert "is not a socket" in refused("--state", str(folder / "d"), "--unix", str(folder / "s"))
    assert (folder / "s").read_text() == "mine"


def test_a_state_directory_that_cannot_be_used_is_one_line(folder):
    (folder / "d").write_text("a file")
    assert "cannot be used" in refused("--state", str(folder / "d" / "below"))


def test_a_record_of_a_newer_version_is_one_line(folder):
    (folder / "d").mkdir()
    with sqlite3.connect(folder / "d" / "record.sqlite") as db:
        db.execute("CREATE TABLE t (a)")
        db.execute("PRAGMA application_id = 0x4F4D4156")
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert "newer than" in refused("--state", str(folder / "d"))


def test_a_path_too_long_for_a_socket_is_one_line(folder):
    assert "cannot be bound" in refused("--state", str(folder / "d"), "--unix", str(folder / ("x" * 120)))


def test_a_dead_daemons_socket_is_replaced(folder, serve):
    daemon = DaemonProcess(folder)
    daemon.start()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.stop() == 0
    assert not daemon.socket.exists()


async def test_a_stop_answers_who_waits_and_exits_with_0(folder, serve):
    daemon = DaemonProcess(folder)
    daemon.start()
    async with VolumeClient(daemon.socket) as client:
        await client.wait(await client.create_volume(CreateVolume(name="v", size=1)), 20)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


async def test_without_a_server_the_daemon_runs_degraded_and_says_why(folder):
    daemon = DaemonProcess(folder)
    daemon.start()
    try:
        async with VolumeClient(daemon.socket) as client:
            health = await client.health()
            assert health.status == "degraded"
            assert str(folder / "c") in health.problems[0]
            await client.wait(await client.create_volume(CreateVolume(name="v", size=1)), 20)
    finally:
        daemon.stop()


async def test_a_stop_does_not_wait_for_long_work_which_the_next_start_ends(folder, serve):
    daemon = DaemonProcess(folder)
    daemon.start()
    asked, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        go_on.wait(60)

    try:
        async with VolumeClient(daemon.socket) as client:
            volume = await attached(client)
            serve.before_listing = hang  # the detach looks for exports first
            operation = await client.detach(volume.volume_id)
            assert await anyio.to_thread.run_sync(asked.wait, 20)
            assert daemon.stop() == 0
            assert "Traceback" not in daemon.log.read_text()
            serve.before_listing = lambda: None
            go_on.set()
            daemon.start()
            assert (await client.wait(operation, 20)).status is OperationStatus.COMPLETED
            assert (await client.volume(volume.volume_id)).status is VolumeStatus.DETACHED
    finally:
        go_on.set()
        daemon.stop()
