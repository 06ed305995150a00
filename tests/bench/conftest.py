"""Servers under load: the table in this process, and real peers on unix sockets."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.servers import wait_for_socket

from omavol.serve.limits import Limits
from omavol.serve.listeners import TcpAddress, listen_tcp, listen_unix
from omavol.serve.table import ExportTable

IMAGE = 4 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def image(place: Path) -> Path:
    """4 MiB: data, then as much hole."""
    path = place / "image"
    with path.open("wb") as file:
        file.write(os.urandom(IMAGE // 2))
        file.truncate(IMAGE)
    return path


@pytest.fixture
def table(image: Path, place: Path) -> Iterator[ExportTable]:
    """Ours, with `disk` to be written and `fixed` read-only, at the sockets of `uri` and `tcp`."""
    table = ExportTable(Limits())
    table.add_path("disk", str(image), read_only=False)
    table.add_path("fixed", str(image), read_only=True)
    table.listen(listen_unix(str(place / "nbd")))
    table.start()
    yield table
    table.stop()


@pytest.fixture
def uri(table: ExportTable, place: Path) -> str:
    return f"nbd+unix:///disk?socket={place}/nbd"


@pytest.fixture
def tcp(table: ExportTable) -> str:
    (listener,) = listen_tcp(TcpAddress("127.0.0.1", 0))
    table.listen(listener)
    return f"{listener.uri}disk"


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., str]]:
    """Start a peer's command in which SOCK stands for its socket; its URI once it accepts."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*argv: object) -> str:
        path = place / f"peer{len(running)}"
        command = [str(part).replace("SOCK", str(path)) for part in argv]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(process)
        wait_for_socket(path, process)
        return f"nbd+unix:///?socket={path}"

    begin.running = running
    yield begin
    for process in running:
        process.kill()
        process.wait()
