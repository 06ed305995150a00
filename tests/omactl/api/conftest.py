"""A client with the admin token, before the application around a running control plane."""

from __future__ import annotations

from types import SimpleNamespace

import httpx2
import pytest

from omactl.access.keys import ADMIN_TOKEN, Keys
from omactl.api.app import build
from omactl.api.world import World as ApiWorld


@pytest.fixture
async def app(world):
    """Its control plane is started and stopped by the `world`, not by the application."""
    built = build(world.control)
    keys = Keys(world.control.database)
    await keys.first_start(world.control.settings.state)
    built.state.world = ApiWorld(world.control, keys)
    return built


@pytest.fixture
async def anyone(app):
    """A client without a token."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://oma") as client:
        yield client


@pytest.fixture
async def client(app, world):
    token = (world.control.settings.state / ADMIN_TOKEN).read_text().strip()
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://oma", headers=headers) as made:
        yield made


@pytest.fixture
def problem():
    """Checks that an answer is a problem document of that status and code, fit for old readers, without internals."""

    def check(response, status, code):
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        said = SimpleNamespace(**response.json())
        assert (said.status, said.code, said.success) == (status, code, False)
        assert said.advice and said.error == said.message == said.detail
        assert "Traceback" not in response.text
        return said

    return check
