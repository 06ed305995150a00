"""A running agent, a running machine with two disks, and a volume for each."""

from __future__ import annotations

import os
import shutil

import pytest

from agent_world import AgentProcess, Destinations, World
from source_machines import KIB, MIB, Disk, MachineFolder, short_folder


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def folder():
    path = short_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def machine(folder):
    machine = MachineFolder.create(
        folder / "inventory/web01",
        Disk("disk-2000", "qcow2", 32 * MIB, "system.qcow2"),
        Disk("disk-2001", "raw", 8 * MIB + 64 * KIB, "data.raw"),
    )
    machine.start()
    machine.write("disk-2000", MIB, os.urandom(2 * MIB))
    machine.write("disk-2001", 0, os.urandom(MIB))
    yield machine
    machine.remove()


@pytest.fixture
def volumes(folder):
    volumes = Destinations(folder)
    volumes.start()
    yield volumes
    volumes.stop()


@pytest.fixture
def agent(folder, machine):
    agent = AgentProcess(folder, folder / "inventory")
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.kill()


@pytest.fixture
def world(machine, agent, volumes):
    return World(machine, agent, volumes)


@pytest.fixture
async def client(agent):
    """A client of the running agent."""
    agent.start()
    async with agent.client() as client:
        yield client
