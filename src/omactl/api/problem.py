"""Every error as one problem document (RFC 9457) with a code and advice; never a traceback."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from omactl.rules.messages import Failure, explain
from omavol.schema.common import Problem

__all__ = ["HANDLERS", "answer", "refusal"]

log = structlog.get_logger(__name__)

_RETRY_AFTER = "5"  # seconds; what a 503 tells a client to wait


def answer(content: Any, status: int = 200, **headers: str) -> Response:
    """An answer in JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def refusal(failure: Failure, instance: str | None = None, headers: dict[str, str] | None = None) -> Response:
    """The problem document of a failure. Its technical text is not in it."""
    message = explain(failure.code, failure.facts)
    job_id = failure.facts.get("job_id")
    problem = Problem(
        status=message.status,
        code=message.code,
        title=message.title,
        detail=message.sentence,
        advice=message.advice,
        instance=instance,
        job_id=None if job_id is None else str(job_id),
    ).for_the_wire()
    sent = dict(headers or {})
    if message.status == 503:
        sent["Retry-After"] = _RETRY_AFTER
    if message.status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(problem), message.status, sent, media_type="application/problem+json")


async def _failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    log.info("refused", path=request.url.path, code=error.code, cause=error.technical)
    return refusal(error, request.url.path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: Failure("no_such_route"), 405: Failure("method_not_allowed", method=request.method)}
    failure = known.get(error.status_code) or Failure("malformed_json", problem="it cannot be read")
    return refusal(failure, request.url.path, dict(error.headers or {}))


async def _database(request: Request, error: Exception) -> Response:
    log.error("the database failed", path=request.url.path, cause=str(error))
    return refusal(Failure("database_unavailable", str(error)), request.url.path)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """The outermost edge: Starlette logs the traceback, the client gets none."""
    return refusal(Failure("internal", f"{type(error).__name__}: {error}"), request.url.path)


HANDLERS: dict[Any, Any] = {
    Failure: _failure,
    HTTPException: _http,
    sa.exc.OperationalError: _database,
    Exception: _unforeseen,
}
