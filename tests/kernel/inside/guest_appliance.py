"""In the guest: an appliance whose cloud is a fake CloudStack that plugs real disks into this machine.

`omavol daemon`, `omavol serve` and the fake are programs of their own; the fake has QEMU's monitor.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cs
import requests
from benchmarks.servers import OMAVOL
from guest_world import LIMIT, MIB, until
from hotplug import CLOUD_PORT, HOST_IMAGES, IMAGES, PORTS

from omavol.client import VolumeClient
from omavol.schema.volumes import CreateVolume, Operation, Provider, Volume

APPLIANCE = "5f7b1a52-0000-4000-8000-00000000000a"
SIZE = 8 * MIB


class Appliance:
    """The three programs, and their folder; `nodes` false: the daemon finds a kernel without device-mapper."""

    def __init__(self, folder: Path, *, nodes: bool = True) -> None:
        self.folder = folder
        self.nodes = nodes
        self.socket = folder / "volumes"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "key").write_text("key")
        (folder / "secret").write_text("secret")

    def start_cloud(self) -> None:
        argv = [sys.executable, "-m", "omavol.cloud.fake", "--port", "0", "--pace", "0.02", "--machine", APPLIANCE]
        argv += ["--qmp", CLOUD_PORT, "--files", IMAGES, "--seen-as", HOST_IMAGES, "--ports", PORTS]
        argv += ["--state", self.folder / "cloud"]
        process = subprocess.Popen([str(each) for each in argv], stdout=subprocess.PIPE)
        assert process.stdout is not None
        self.cloud = json.loads(process.stdout.readline())
        self.processes["cloud"] = process

    def start_server(self) -> None:
        argv = [OMAVOL, "serve", "--unix", self.folder / "nbd", "--control", self.folder / "control"]
        process = subprocess.Popen([str(each) for each in argv], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        self.processes["serve"] = process

    def start_daemon(self, failpoint: str = "") -> None:
        argv = [OMAVOL, "daemon", "--state", self.folder / "d", "--control", self.folder / "control"]
        argv += ["--unix", self.socket]
        if not self.nodes:
            argv = ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /proc/misc && exec "$@"', "sh", *argv]
        environment = {**os.environ, "OMA_FAILPOINT": failpoint, "OMA_FAILPOINT_LOG": str(self.folder / "hit")}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([str(each) for each in argv], stdout=log, stderr=log, env=environment)
        self.processes["daemon"] = process
        until(lambda: self.answers() or process.poll() is not None, "the daemon answers")
        assert process.poll() is None, self.said()

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self.socket))
            return True
        return False

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.communicate(timeout=LIMIT)

    def ask(self, call: str, *arguments: object):
        async def asked():
            async with VolumeClient(self.socket, timeout=LIMIT) as client:
                return await getattr(client, call)(*arguments)

        return asyncio.run(asked())

    def do(self, call: str, *arguments: object) -> Operation:
        async def done() -> Operation:
            async with VolumeClient(self.socket, timeout=LIMIT) as client:
                return await client.wait(await getattr(client, call)(*arguments), LIMIT)

        return asyncio.run(done())

    def volume(self, name: str, size: int = SIZE) -> Volume:
        return self.ask("volume", self.do("create_volume", CreateVolume(name=name, size=size)).volume_id)

    def attached(self, name: str, size: int = SIZE) -> Volume:
        volume = self.volume(name, size)
        self.do("attach", volume.volume_id, APPLIANCE)
        return self.ask("volume", volume.volume_id)

    def snatch(self, volume: Volume) -> None:
        """Detach it by the cloud's own API, as an operator at its page does; it is gone from the machine then."""
        with self.page() as page:
            there = self.cloud_id(page, volume)
            page.detachVolume(id=there, fetch_result=True)
            until(lambda: "virtualmachineid" not in page.listVolumes(id=there)["volume"][0], "the cloud has it back")

    def bring_back(self, volume: Volume) -> None:
        """Attach it by the cloud's own API."""
        with self.page() as page:
            page.attachVolume(id=self.cloud_id(page, volume), virtualmachineid=APPLIANCE, fetch_result=True)

    @contextmanager
    def page(self) -> Iterator[cs.CloudStack]:
        with requests.Session() as http:
            yield cs.CloudStack(self.cloud["api_url"], "key", "secret", session=http, poll_interval=0.1)

    def cloud_id(self, page: cs.CloudStack, volume: Volume) -> str:
        (there,) = page.listVolumes(name=f"oma-{volume.volume_id}")["volume"]
        return there["id"]

    def image(self, volume: Volume) -> Path:
        """The file that its disk's bytes are in."""
        with self.page() as page:
            (found,) = IMAGES.glob(f"{self.cloud_id(page, volume)}*")
            return found


@contextmanager
def running(folder: Path, *, nodes: bool = True) -> Iterator[Appliance]:
    """All three, told of each other; they end with the block."""
    IMAGES.mkdir(exist_ok=True)
    appliance = Appliance(folder, nodes=nodes)
    try:
        appliance.start_cloud()
        appliance.start_server()
        appliance.start_daemon()
        settings = {
            "api_url": appliance.cloud["api_url"],
            "api_key_file": str(folder / "key"),
            "secret_file": str(folder / "secret"),
            "zone_id": appliance.cloud["zone_id"],
            "disk_offering_id": appliance.cloud["disk_offering_id"],
        }
        appliance.ask("set_provider", Provider(kind="cloudstack", appliance_vm_id=APPLIANCE, settings=settings))
        yield appliance
    finally:
        for name in ("daemon", "serve", "cloud"):
            appliance.stop(name)
