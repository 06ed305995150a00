"""A real agent process over real machines, destinations served by nbdkit, and what a replication needs of both."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.ports import free_ports

from omavol.client.source import SourceClient
from omavol.schema.common import new_id
from omavol.schema.source import NbdTarget, Progress, Replicate, Replications, SourceStatus
from source_machines import MachineFolder

OMAVOL = Path(sys.executable).with_name("omavol")
LIMIT = 30.0
UNFINISHED = (SourceStatus.PREPARING, SourceStatus.RUNNING)


class AgentProcess:
    """`omavol agent` on a port of the kernel's choice; `log` is what it printed."""

    def __init__(self, folder: Path, inventory: Path) -> None:
        self.folder = folder
        self.inventory = inventory
        self.state = folder / "agent"
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_ports(1)[0]

    def start(self, **environment: str) -> None:
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [OMAVOL, "agent", "--inventory", self.inventory, "--state", self.state, "--port", str(self.port)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            )
        deadline = time.monotonic() + LIMIT
        while b"source API at" not in self.log.read_bytes()[before:]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_killed(self) -> None:
        """Wait until a fail-point has killed it."""
        assert self.process is not None
        assert self.process.wait(LIMIT) == -signal.SIGKILL, self.log.read_text()

    @property
    def token(self) -> str:
        return (self.state / "token").read_text().strip()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> SourceClient:
        return SourceClient(self.url, self.token)


class Destinations:
    """Files of a folder served by one nbdkit, each under its name; `slow` reads and writes are delayed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "volumes"
        self.folder.mkdir()
        self.socket = folder / "nbdkit.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *filters: str) -> None:
        self.socket.unlink(missing_ok=True)
        plugin = [filter for filter in filters if not filter.startswith("--")]
        options = [filter for filter in filters if filter.startswith("--")]
        ready = self.folder.parent / "nbdkit.pid"
        ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["nbdkit", "-f", "-P", ready, "-U", self.socket, *options, "file", f"dir={self.folder}", *plugin]
        )
        deadline = time.monotonic() + LIMIT
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def make(self, name: str, size: int) -> str:
        with (self.folder / name).open("ab") as file:
            file.truncate(size)
        return self.uri(name)

    def uri(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket={self.socket}"

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class World:
    """A machine, an agent and a volume for each disk: what a replication needs."""

    def __init__(self, machine: MachineFolder, agent: AgentProcess, volumes: Destinations) -> None:
        self.machine = machine
        self.agent = agent
        self.volumes = volumes
        for disk in machine.disks:
            volumes.make(disk.id, disk.size)

    def request(self, base: str | None = None, **changes: object) -> Replicate:
        targets = [
            NbdTarget(device_path=self.volumes.uri(disk.id), vmware_disk_key=disk.id, base_point=base)
            for disk in self.machine.disks
        ]
        fields = {"job_id": new_id(), "vm_paths": ["/web01"], "nbd_targets": targets, **changes}
        return Replicate(**fields)

    async def finish(self, client: SourceClient, job_id: str) -> Progress:
        return await until(client, job_id, lambda progress: progress.status not in UNFINISHED)

    async def replicate(self, client: SourceClient, base: str | None = None, **changes: object) -> Progress:
        wanted = self.request(base, **changes)
        await client.replicate(wanted)
        return await self.finish(client, wanted.job_id)

    def volumes_equal_disks(self) -> bool:
        return all(self.volumes.content(disk.id) == self.machine.read(disk.id) for disk in self.machine.disks)


async def until(client: SourceClient, job_id: str, reached) -> Progress:
    """Wait, by the long poll, until a job's progress is what `reached` says."""
    cursor, deadline = 0, time.monotonic() + LIMIT
    while True:
        answer = await client.read("/api/v1/replications", Replications, params={"since": cursor, "wait": 5})
        cursor = answer.cursor
        for progress in answer.replications:
            if progress.job_id == job_id and reached(progress):
                return progress
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0)


def point_of(progress: Progress) -> str:
    proof = progress.disk_progresses[0].proof
    assert proof is not None, progress
    return proof.point
