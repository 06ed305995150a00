"""A fake CloudStack over real HTTP, in a thread of this process, and the provider that speaks to it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from omavol.cloud import asking, cloudstack
from omavol.cloud.asyncjobs import Ledger
from omavol.cloud.cloudstack import CloudStackProvider
from omavol.cloud.fake.api import FakeCloud
from omavol.cloud.fake.hardware import Nothing
from omavol.cloud.fake.jobs import Fault, FaultKind
from omavol.cloud.fake.model import Model
from omavol.schema.volumes import Provider

APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"
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

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "jobs")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[FakeCloud], str]]:
    """Serve a fake until the end of the test; gives its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(fake: FakeCloud) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(fake.app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/client/api"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def cloud(serve, tmp_path: Path, monkeypatch) -> Cloud:
    """One with this appliance in it, whose jobs take no time; what is waited for in vain is not waited for long."""
    monkeypatch.setattr(cloudstack, "SEEN", 0.5)
    monkeypatch.setattr(cloudstack, "LOOK_PAUSE", 0.02)
    monkeypatch.setattr(asking, "READ_PAUSE", 0.02)
    fake = FakeCloud(Model(Nothing()), KEY, SECRET, pace=0.0)
    fake.model.add_machine(APPLIANCE, "appliance")
    return Cloud(fake, serve(fake), tmp_path)
