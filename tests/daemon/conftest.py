"""A daemon for each test, or one for the tests of a module that change nothing."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon_process import DaemonProcess
from fake_serve import FakeServe
from omavol.client import VolumeClient


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="oma-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def serve(folder: Path) -> Iterator[FakeServe]:
    server = FakeServe(folder / "c")
    yield server
    server.stop()


@pytest.fixture
def daemon(folder: Path, serve: FakeServe) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(folder)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[VolumeClient]:
    async with VolumeClient(daemon.socket) as client:
        yield client


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[DaemonProcess]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="oma-") as folder:
        daemon = DaemonProcess(Path(folder))
        daemon.start()
        yield daemon
        daemon.stop()
