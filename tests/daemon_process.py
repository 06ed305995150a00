"""A real `omavol daemon` process on a unix socket, fed by a real control socket; tests talk to it by HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from omavol.client import VolumeClient
from omavol.copy.engine import Job, Options
from omavol.schema.volumes import CreateVolume, Operation, Volume

OMAVOL = Path(sys.executable).with_name("omavol")
SIZE = (2 << 20) + 512
APPLIANCE = "local-appliance"


@dataclass
class DaemonProcess:
    """`start` returns when it answers; `failpoint` is where it shall die."""

    folder: Path
    arguments: tuple[str, ...] = ()
    log: Path = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.log = self.folder / "log"
        self.socket = self.folder / "d" / "omavol.sock"

    def start(self, failpoint: str | None = None) -> None:
        environment = {**os.environ, "OMA_FAILPOINT_LOG": str(self.folder / "hit")}
        if failpoint:
            environment["OMA_FAILPOINT"] = failpoint
        command = [OMAVOL, "daemon", "--state", self.folder / "d", "--control", self.folder / "c", *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)  # a process's socket has no event to wait for

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.socket))
            return True
        return False

    def died_at(self, failpoint: str) -> None:
        """Wait for the crash and prove that it was this one."""
        assert self.process is not None
        assert self.process.wait(20) == -signal.SIGKILL, self.log.read_text()
        assert (self.folder / "hit").read_text().splitlines()[-1] == failpoint

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


async def attached(client: VolumeClient, name: str = "v", size: int = SIZE) -> Volume:
    created = await client.wait(await client.create_volume(CreateVolume(name=name, size=size)), 20)
    await client.wait(await client.attach(created.volume_id, APPLIANCE), 20)
    return await client.volume(created.volume_id)


async def unfinished(client: VolumeClient) -> list[Operation]:
    return [one for one in await client.operations() if one.completed_at is None]


def content_of(volume: Volume) -> bytes:
    return (b"\x01some bytes\x02" * (volume.size // 12 + 1))[: volume.size]


def digest_file(content: bytes) -> bytes:
    """As a replication's copy loop takes them."""
    with tempfile.NamedTemporaryFile() as source:
        source.write(content)
        source.flush()
        digests = Job(source.name, "null:", Options(digests=True)).run().digests
    assert digests is not None
    return digests.encode()
