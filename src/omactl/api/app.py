"""The application: routes, the gate before them, and the control plane that lives as long as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from omactl.access.keys import Keys
from omactl.api.gate import Gate
from omactl.api.openapi import document
from omactl.api.problem import HANDLERS
from omactl.api.routes import starlette_routes
from omactl.api.world import World
from omactl.work.control import Control

__all__ = ["build"]

Opened = Callable[[World, bool], Awaitable[None]]


def build(control: Control, on_open: Opened | None = None) -> Starlette:
    """The application around an opened control plane, which is started with it and stopped with it.

    `on_open(world, first)` runs before the background work begins; `first` is whether the admin token was written now.
    """
    encoded = msgspec.json.encode(document())

    async def openapi(request: Request) -> Response:
        return Response(encoded, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.world = world = World(control, Keys(control.database))
        first = await world.keys.first_start(control.settings.state)
        if on_open is not None:
            await on_open(world, first)
        control.start()
        try:
            yield
        finally:
            await control.stop()

    return Starlette(
        routes=starlette_routes(openapi),
        middleware=[Middleware(Gate)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
