"""Sources, recovery, and one-time links."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from omactl.access.keys import write_secret
from omactl.api import shapes
from omactl.api.body import check_name, decode, world
from omactl.api.problem import answer
from omactl.rules.messages import Failure
from omactl.store import sources
from omactl.store.rows import Source

__all__ = ["add_source", "list_sources", "new_link", "recovery"]


async def list_sources(request: Request) -> Response:
    rows = [_source(row) for row in await world(request).control.database.read(sources.list_all)]
    return answer(shapes.Sources(sources=rows, count=len(rows)))


async def add_source(request: Request) -> Response:
    """The token goes into a file that only this user reads; the database keeps its path."""
    wanted, control = await decode(request, shapes.NewSource), world(request).control
    name = check_name("name", wanted.name)
    url = _address(wanted.url)
    if not wanted.token.isascii() or not wanted.token.isprintable() or not wanted.token.strip():
        raise Failure("invalid_parameter", parameter="token", problem="it must be one line of ASCII text")
    await control.database.read(_refuse_other, name, url)
    path = control.settings.state / "sources" / f"{name}.token"
    write_secret(path, wanted.token.strip())
    row = await control.database.write(sources.put, name, url, str(path))
    return answer(_source(row), status=201)


async def _refuse_other(connection: AsyncConnection, name: str, url: str) -> None:
    for known in await sources.list_all(connection):
        if known.name == name and known.url != url:
            raise Failure("source_exists", source=name)


def _address(url: str) -> str:
    """http(s)://host[:port], and nothing more."""
    wrong = Failure("invalid_parameter", parameter="url", problem="it must be like http://host:8081")
    if len(url) > 500 or not url.isascii() or not url.isprintable() or " " in url:
        raise wrong
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise wrong
    if parts.path not in ("", "/") or port == 0:
        raise wrong
    return url.rstrip("/")


def _source(row: Source) -> shapes.SourceRow:
    return shapes.SourceRow(name=row.name, url=row.url, created_at=row.created_at, updated_at=row.updated_at)


async def recovery(request: Request) -> Response:
    state = world(request).control.recovery.state
    decisions = [
        shapes.RecoveryDecision(
            job_id=each.job_id,
            machine=each.machine,
            status=each.status,
            answer=each.answer.value,
            action=each.decision.action.value,
            reason=each.decision.reason,
            at=each.at,
        )
        for each in state.judged
    ]
    return answer(
        shapes.RecoveryPage(
            state=state.state,
            started_at=state.started_at,
            completed_at=state.completed_at,
            counts=state.counts,
            decisions=decisions,
        )
    )


async def new_link(request: Request) -> Response:
    code = await world(request).keys.new_link(request.state.token.name)
    return answer(shapes.Link(path=f"/login?code={code}"), status=201)
