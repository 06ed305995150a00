"""GET /health: every part is asked for the answer, each with a short limit, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from omactl.api import shapes
from omactl.api.body import world
from omactl.api.problem import answer
from omactl.rules.messages import Failure
from omactl.store import sources
from omactl.work.control import Control
from omavol import __version__
from omavol.client import ProblemError
from omavol.schema.common import now

__all__ = ["health"]

LIMIT = 1.0  # seconds for each part: below the patience of whoever asks


async def health(request: Request) -> Response:
    """Open to all, so it names states only: no address, no path, no id. 503 when the database is away."""
    control = world(request).control
    connected, volumes, told = await asyncio.gather(
        control.database.answers(), _state(_volumes(control)), _sources(control)
    )
    parts = [volumes, control.recovery.state.state, *told.values()]
    well = connected and control.monitor.running and not {"unreachable", "degraded", "refused", "failed"} & set(parts)
    body = shapes.Health(
        service="OMA API",
        status="healthy" if well else "degraded",
        timestamp=now(),
        version=__version__,
        database="connected" if connected else "unreachable",
        recovery=control.recovery.state.state,
        monitor={
            "running": control.monitor.running,
            "check_interval": control.settings.timing.monitor,
            "stale_threshold": control.settings.timing.stale,
            "checked_at": control.monitor.checked_at,
        },
        omavol=volumes,
        sources=told,
    )
    return answer(body, status=200 if connected else 503)


async def _volumes(control: Control) -> str:
    return (await control.peers.volumes.health()).status


async def _source(control: Control, name: str) -> str:
    client = await control.peers.source(name)
    await client.version()  # unlike its health, it wants the token
    return "connected"


async def _sources(control: Control) -> dict[str, str]:
    try:
        names = [row.name for row in await control.database.read(sources.list_all)]
    except (sa.exc.SQLAlchemyError, OSError):  # the database is away: the answer says so
        return {}
    states = await asyncio.gather(*(_state(_source(control, name)) for name in names))
    return dict(zip(names, states, strict=True))


async def _state(call: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(LIMIT):
            return await call
    except ProblemError as error:
        return "refused" if error.problem.status in (401, 403) else "unreachable"
    except (Failure, TimeoutError):
        return "unreachable"
