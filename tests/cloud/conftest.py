"""A fake CloudStack over real HTTP, in a thread of this process, and the provider that speaks to it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from omavol.cloud import asking, cloudstack
from omavol.cloud.asyncjobs import Ledger
from omavol.cloud.cloudstack import CloudStackProvider
from omavol.cloud.fake.api import FakeCloud
from omavol.cloud.fake.hardware import Nothing
from omavol.cloud.fake.jobs import Fault, FaultKind
from omavol.cloud.fake.model import Model
from omavol.schema.volumes import Provider

APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"
CALLER = """
import sys, msgspec
from pathlib import Path
from omavol.cloud.asyncjobs import Ledger
from omavol.cloud.cloudstack import CloudStackProvider
from omavol.schema.volumes import Provider
row = msgspec.json.decode(sys.argv[1], type=Provider)
getattr(CloudStackProvider(row, Ledger(Path(sys.argv[2]))), sys.argv[3])(*eval(sys.argv[4]))
"""
KEY, SECRET = "the-api-key", "the-secret-of-it"


@dataclass
class Cloud:
    """`fake` is the cloud behind `url`."""

    fake: FakeCloud
    url: str
    folder: Path

    def fault(self, kind: FaultKind, command: str, **how: object) -> None:
        self.fake.faults.add(Fault(kind=kind, command=command, **how))

    def row(self, **changes: str) -> Provider:
        (self.folder / "key").write_text(KEY + "\n")
        (self.folder / "secret").write_text(SECRET)
        settings = {
            "api_url": self.url,
            "api_key_file": str(self.folder / "key"),
            "secret_file": str(self.folder / "secret"),
            "zone_id": self.fake.model.zone,
            "disk_offering_id": self.fake.model.offering,
            "job_timeout": "2",
            **changes,
        }
        return Provider(kind="cloudstack", appliance_vm_id=APPLIANCE, settings=settings)

    def provider(self, **changes: str) -> CloudStackProvider:
        """Made anew, as the daemon does for each operation."""
        return CloudStackProvider(self.row(**changes), self.ledger)

    def killed_at(self, point: str, call: str, arguments: tuple[object, ...]) -> str:
        """Make the call in a process that dies at the point; the one at which it died."""
        log = self.folder / "killed-at"
        argv = [sys.executable, "-c", CALLER, msgspec.json.encode(self.row()).decode(), str(self.ledger.folder), call]
        environment = {**os.environ, "OMA_FAILPOINT": point, "OMA_FAILPOINT_LOG": str(log)}
        killed = subprocess.run([*argv, repr(arguments)], env=environment, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        return log.read_text().strip()

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "jobs")


@dataclass
class Stage:
    """One server for all tests; what it serves is the test's own."""

    app: ASGIApp | None = None
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    stage, listener = Stage(), socket.create_server(("127.0.0.1", 0))
    stage.url = f"http://127.0.0.1:{listener.getsockname()[1]}/client/api"
    server = uvicorn.Server(uvicorn.Config(stage, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    yield stage
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def cloud(stage: Stage, tmp_path: Path, monkeypatch) -> Cloud:
    """One with this appliance in it, whose jobs take no time; what is waited for in vain is not waited for long."""
    monkeypatch.setattr(cloudstack, "SEEN", 0.5)
    monkeypatch.setattr(cloudstack, "LOOK_PAUSE", 0.02)
    monkeypatch.setattr(asking, "READ_PAUSE", 0.02)
    fake = FakeCloud(Model(Nothing()), KEY, SECRET, pace=0.0)
    fake.model.add_machine(APPLIANCE, "appliance")
    stage.app = fake.app
    return Cloud(fake, stage.url, tmp_path)
