"""A migrated database in a file, machines in it, and the event loop that omactl uses."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from builders import machine
from worlds import World

from omactl.settings import sqlite_url
from omactl.store import contexts, sources
from omactl.store.engine import Database
from omactl.store.migrations import migrate


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def _migrate(path):
    opened = Database(sqlite_url(path))
    await migrate(opened)
    await opened.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database file of the present schema, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "oma.sqlite"
    asyncio.run(_migrate(path))
    return path


@pytest.fixture
async def database(tmp_path, migrated):
    """A database of one's own."""
    opened = Database(sqlite_url(shutil.copy(migrated, tmp_path)))
    yield opened
    await opened.close()


@pytest.fixture
async def web01(database):
    """A machine under management, from the source `lab`."""
    await database.write(sources.put, "lab", "http://lab:8081", "/nowhere")
    context, _ = await database.write(contexts.add, "lab", "lab-host", machine())
    return context


@pytest.fixture
async def world(migrated):
    """A running control plane with its peers."""
    state = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    (state / "omactl").mkdir()
    shutil.copy(migrated, state / "omactl")
    async with AsyncExitStack() as stack:
        made = World(state, stack)
        await made.open()
        yield made
        await made.stop()
    shutil.rmtree(state)
