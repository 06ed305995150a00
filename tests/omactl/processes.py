"""`omactl` as a process of its own, beside peers that live in the test."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

OMACTL = Path(sys.executable).parent / "omactl"
LIMIT = 40


async def omactl(*arguments, **environment):
    """Run a command to its end: (exit status, standard output, standard error)."""
    process = await asyncio.create_subprocess_exec(
        OMACTL,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    async with asyncio.timeout(LIMIT):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


class Served:
    """A running `omactl serve`: its process, its address, and the lines it prints."""

    def __init__(self, process, state):
        self.process, self.state = process, state
        self.url = ""
        self.lines = []

    async def ready(self):
        """Until it has said where it is."""
        async with asyncio.timeout(LIMIT):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if line.startswith("omactl: at "):
                    self.url = line.split()[2].rstrip(",")
                    return self
        raise AssertionError(await self.errors())

    async def errors(self):
        await self.process.wait()
        return (await self.process.stderr.read()).decode()

    def client(self):
        token = (self.state / "admin-token").read_text().strip()
        return httpx2.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=LIMIT)

    async def ended(self, job_id):
        """The job once it has ended."""
        async with self.client() as client, asyncio.timeout(LIMIT):
            while True:
                job = (await client.get(f"/api/v1/jobs/{job_id}")).json()
                if job["status"] in ("completed", "failed", "cancelled"):
                    return job
                await asyncio.sleep(0.05)


@asynccontextmanager
async def serve(world, **environment):
    """`omactl serve` on the world's state and peers; ended by SIGTERM unless it has died before."""
    state = world.state / "omactl"
    process = await asyncio.create_subprocess_exec(
        OMACTL,
        *("serve", "--port", "0", "--state", str(state), "--omavol", str(world.state / "volumes.sock")),
        *("--source", f"lab={world.agent_url}", "--source-token-file", str(world.state / "agent-token")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    served = Served(process, state)
    try:
        yield await served.ready()
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(LIMIT):
                await process.wait()
        process._transport.close()
