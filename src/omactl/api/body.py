"""Requests into types: bodies with a limit, parameters with their ranges; what does not fit is refused in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
from starlette.requests import ClientDisconnect, Request

from omactl.rules.messages import Failure
from omavol.schema.common import Name

if TYPE_CHECKING:
    from omactl.api.world import World

__all__ = ["check_name", "decode", "number", "path_id", "text", "world"]

BODY_LIMIT = 1 << 20
T = TypeVar("T")


def world(request: Request) -> World:
    """What the handlers work with, put into the application's state at start."""
    return cast("World", request.app.state.world)


async def decode(request: Request, kind: type[T]) -> T:
    """The body as that type. An empty one counts as an empty object."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_LIMIT:
                raise Failure("too_large", limit=BODY_LIMIT)
    except ClientDisconnect as error:
        raise Failure("malformed_json", problem="it ended too soon") from error
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise Failure("malformed_json", str(error), problem=str(error)) from error
    except UnicodeDecodeError as error:
        raise Failure("malformed_json", str(error), problem="it is not UTF-8") from error


def path_id(request: Request, name: str) -> str:
    """An id or a name from the path."""
    return _name(name, request.path_params[name])


def text(request: Request, name: str) -> str | None:
    """An optional query parameter that is an id, a name or a word."""
    value = request.query_params.get(name)
    return None if value is None else _name(name, value)


def _name(parameter: str, value: str) -> str:
    if not value or len(value) > 255 or not value.isprintable():
        raise Failure("invalid_parameter", parameter=parameter, problem="it is empty, too long or not plain text")
    return value


def number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """An optional whole number from the query."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdecimal() or len(value) > 18 or not low <= int(value) <= high:
        raise Failure("invalid_parameter", parameter=name, problem=f"it must be a whole number from {low} to {high}")
    return int(value)


def check_name(parameter: str, value: str) -> str:
    """A name that becomes part of a file's name."""
    try:
        return msgspec.convert(value, Name)
    except msgspec.ValidationError as error:
        problem = "letters, digits and ._:@+- are allowed, at most 191"
        raise Failure("invalid_parameter", str(error), parameter=parameter, problem=problem) from error
