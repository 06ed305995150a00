"""Bodies in and answers out: typed JSON, limits, and a problem document for everything that goes wrong."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from omavol.cloud.volumes import CloudError
from omavol.schema.common import Problem
from omavol.volumes.errors import VolumeError, problem_from

__all__ = ["HANDLERS", "MIB", "answer", "body", "in_thread", "refusal"]

log = logging.getLogger("omavol.daemon")
T = TypeVar("T")
MIB = 1 << 20
BODY_LIMIT = 64 << 10


async def in_thread(function: Callable[..., T], *args: Any, **named: Any) -> T:
    """Call what blocks in a worker thread. The call goes on to its end even when the client hangs up."""
    return await anyio.to_thread.run_sync(partial(function, *args, **named))


async def body(request: Request, type: type[T], *, limit: int = BODY_LIMIT) -> T:
    """The request's JSON body as `type`; 415, 413 or 400 when it is not one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise VolumeError(415, "json_wanted", f"the body must be application/json, not {kind or 'nothing'}")
    content = bytearray()
    try:
        async for piece in request.stream():
            content += piece
            if len(content) > limit:
                raise VolumeError(413, "body_too_large", f"the body is larger than {limit} bytes")
    except ClientDisconnect:
        raise VolumeError(400, "body_cut_short", "the client hung up before the end of the body") from None
    try:
        return msgspec.json.decode(bytes(content), type=type)
    except msgspec.ValidationError as error:
        raise VolumeError(400, "invalid_body", f"the body is not a {type.__name__}: {error}") from error
    except msgspec.DecodeError as error:
        raise VolumeError(400, "malformed_json", f"the body is not JSON: {error}") from error


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def refusal(problem: Problem) -> Response:
    headers = {"Retry-After": "2"} if problem.status == 503 else None
    content = msgspec.json.encode(problem.for_the_wire())
    return Response(content, problem.status, headers, media_type="application/problem+json")


def _volume_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VolumeError | CloudError)
    return refusal(msgspec.structs.replace(problem_from(error), instance=request.url.path))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: ("no_such_route", "there is nothing at"), 405: ("method_not_allowed", "not allowed at")}
    code, text = codes.get(error.status_code, ("http_error", error.detail))
    detail = f"{request.method}: {text} {request.url.path}"
    response = refusal(Problem(status=error.status_code, code=code, title=error.detail, detail=detail))
    response.headers.update(error.headers or {})
    return response


def _record_error(request: Request, error: Exception) -> Response:
    detail = f"the record cannot be written: {error}"
    advice = ("Check the space and the rights of the state directory.",)
    log.error("%s %s: %s", request.method, request.url.path, detail)
    return refusal(Problem(status=507, code="record_failed", title="Record failed", detail=detail, advice=advice))


def _fault(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    detail = f"{type(error).__name__} in {request.method} {request.url.path}"
    advice = ("The daemon's log has the details: report them.",)
    return refusal(
        Problem(status=500, code="internal_error", title="A fault of this program", detail=detail, advice=advice)
    )


HANDLERS: Mapping[Any, Callable[[Request, Exception], Response]] = {
    VolumeError: _volume_error,
    CloudError: _volume_error,
    HTTPException: _http_error,
    sqlite3.Error: _record_error,
    Exception: _fault,
}
