"""Bodies in and out of the API: JSON of the shared types, problems as application/problem+json."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from omavol.agent.errors import AgentError

__all__ = ["answer", "body", "problem_answer"]

T = TypeVar("T")
BODY_LIMIT = 1 << 20


def answer(value: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def problem_answer(error: AgentError, instance: str) -> Response:
    content = msgspec.json.encode(error.problem(instance))
    return Response(content, error.status, media_type="application/problem+json")


async def body(request: Request, type: type[T], *, default: T | None = None) -> T:
    """The request's body as `type`; an empty one gives `default`. Raises AgentError naming the field at fault."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > BODY_LIMIT:
            raise AgentError("request_too_large", f"the body is larger than {BODY_LIMIT >> 20} MiB")
    if not content and default is not None:
        return default
    try:
        return msgspec.json.decode(content, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError("bad_request", f"the body is not what {request.url.path} takes: {error}") from error
