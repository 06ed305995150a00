"""What a crash test does to a whole appliance: arm a place, wait for the death, start again, replicate, compare."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
from demo.control import FINAL, Control, Volumes
from demo.machine import SourceMachine
from demo.processes import Appliance, Process

__all__ = ["Stack"]

LIMIT = 90.0


@dataclass
class Stack:
    machine: SourceMachine
    appliance: Appliance

    @cached_property
    def control(self) -> Control:
        return Control(self.appliance.url, self.appliance.token)

    @cached_property
    def volumes(self) -> Volumes:
        return Volumes(self.appliance.volumes_socket)

    def close(self) -> None:
        self.control.close()
        self.volumes.close()

    def process(self, name: str) -> Process:
        return next(process for process in self.appliance.processes if process.name == name)

    def start_armed(self, name: str, place: str) -> Path:
        """Start everything, the process `name` to die when it reaches `place`; the log that will say so."""
        log = self.appliance.state / "failpoints"
        log.touch()
        log.chmod(0o666)  # the NBD server writes as nobody
        self.process(name).environment = {"OMA_FAILPOINT": place, "OMA_FAILPOINT_LOG": str(log)}
        self.appliance.start()
        return log

    def wait_for_death(self, name: str) -> int:
        """The exit status of the armed process, once it died."""
        handle = self.process(name).handle
        assert handle is not None
        return handle.wait(LIMIT)

    def start_again(self, name: str) -> None:
        process = self.process(name)
        process.environment = {}
        process.start()

    def manage(self) -> None:
        self.control.post("/api/v1/discovery/discover-vms", {"create_context": True})

    def begin(self) -> str | None:
        """Start a replication; its id, or None where omactl died before it could answer."""
        try:
            return self.control.replicate("web01")
        except httpx2.TransportError:
            return None

    def newest_job(self) -> str:
        job: str = self.control.get("/api/v1/jobs")["jobs"][0]["job_id"]
        return job

    def finish(self, job_id: str) -> dict[str, Any]:
        """The job when it has ended."""
        return self.control.wait(job_id, until=has_ended, seen=lambda job: None, limit=LIMIT)

    def replicate(self) -> dict[str, Any]:
        return self.finish(self.control.replicate("web01"))

    def change(self) -> None:
        """Write a little into both disks, as the guest would."""
        for disk in (self.machine.system_disk, self.machine.data_disk):
            with disk.open("r+b") as file:
                file.seek(disk.stat().st_size // 3)
                file.write(os.urandom(300_000))
                os.fsync(file.fileno())

    def differing_disks(self, job: dict[str, Any]) -> list[str]:
        """Disks whose volume does not hold the same bytes; compared here, by no code of ours."""
        sources = {"disk-2000": self.machine.system_disk, "disk-2001": self.machine.data_disk}
        return [
            disk["disk_id"]
            for disk in job["disks"]
            if digest(Path(self.volumes.volume(disk["volume_id"])["device_path"]), disk["capacity_bytes"])
            != digest(sources[disk["disk_id"]], disk["capacity_bytes"])
        ]


def has_ended(job: dict[str, Any]) -> bool:
    return job["status"] in FINAL


def digest(path: Path, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()
