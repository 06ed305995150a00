"""Peers and fakes that a copy runs against, each on a unix socket of its own, ended with the test."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.servers import wait_for_socket
from copy_data import OMAVOL


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a short path: sun_path has 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(sockets: Path) -> Iterator[Callable[..., str]]:
    """Start a server's command in which SOCK stands for its socket; its URI once it accepts."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*argv: object, export: str = "") -> str:
        path = sockets / f"s{len(running)}"
        command = [str(part).replace("SOCK", str(path)) for part in argv]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(process)
        wait_for_socket(path, process)
        return f"nbd+unix:///{export}?socket={path}"

    yield begin
    for process in running:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_process(pid: int, limit: int = 10_000) -> None:
    """SIGTERM, and wait (milliseconds) until it is gone: it removes files of its own on its way out."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended = select.poll()
        ended.register(process, select.POLLIN)
        assert ended.poll(limit), f"process {pid} does not end"
    finally:
        os.close(process)


NBD_SERVER = """[generic]
unixsock = {sock}
allowlist = true
[disk]
exportname = {path}
flush = true
fua = true
trim = false
multifile = false
"""


@pytest.fixture
def serve(start: Callable[..., str], sockets: Path) -> Iterator[Callable[[str, Path], str]]:
    """Serve a raw file with the named peer; its URI."""

    def begin(peer: str, path: Path) -> str:
        if peer == "nbdkit":
            return start("nbdkit", "-f", "-U", "SOCK", "file", path)
        if peer == "qemu-nbd":
            return start("qemu-nbd", "--persistent", "-e", "8", "-k", "SOCK", "-f", "raw", path)
        if peer == "omavol":
            return start(OMAVOL, "serve", "--unix", "SOCK", path)
        config, pid, path_of_socket = sockets / "nbd-server.conf", sockets / "nbd-server.pid", sockets / "nbd-server"
        config.write_text(NBD_SERVER.format(sock=path_of_socket, path=path))
        subprocess.run(["nbd-server", "-C", config, "-p", pid], check=True, stderr=subprocess.DEVNULL)
        pids.append(pid)
        wait_for_socket(path_of_socket)
        return f"nbd+unix:///disk?socket={path_of_socket}"

    pids: list[Path] = []
    yield begin
    for pid in pids:
        end_process(int(pid.read_text()))


@pytest.fixture
def copy() -> Callable[..., dict[str, Any]]:
    """Run `omavol copy --json`; what it says, with its exit status and the lines it wrote to standard error."""

    def run(source: object, destination: object, *options: str) -> dict[str, Any]:
        done = subprocess.run(
            [OMAVOL, "copy", "--json", str(source), str(destination), *options],
            capture_output=True,
            text=True,
            timeout=120,
        )
        said: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return said | {"exit": done.returncode, "lines": done.stderr.splitlines()}

    return run


@pytest.fixture
def fake(sockets: Path) -> Iterator[Callable[..., str]]:
    """A server that negotiates and then does what its behaviour says with each connection; see copy_hostile.py."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def begin(behaviour: Callable[[socket.socket], None]) -> str:
        path = sockets / f"f{len(listeners)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(path))
        listener.listen()
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=serve_one, args=(connection,))
                thread.start()
                threads.append(thread)

        def serve_one(connection: socket.socket) -> None:
            with connection:
                try:
                    behaviour(connection)
                except (ConnectionError, TimeoutError):
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        threads.append(thread)
        return f"nbd+unix:///?socket={path}"

    yield begin
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
