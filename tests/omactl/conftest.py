"""A migrated database in a file, machines in it, and the event loop that omactl uses."""

from __future__ import annotations

import pytest
from builders import machine

from omactl.store import contexts, sources
from omactl.store.engine import Database, sqlite_url
from omactl.store.migrations import migrate


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def database(tmp_path):
    """Its schema is the present one."""
    opened = Database(sqlite_url(tmp_path / "oma.sqlite"))
    await migrate(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def web01(database):
    """A machine under management, from the source `lab`."""
    await database.write(sources.put, "lab", "http://lab:8081", "/nowhere")
    context, _ = await database.write(contexts.add, "lab", "lab-host", machine())
    return context
