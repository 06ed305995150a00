"""The API document (OpenAPI 3.1), made of the route table and the types on the wire."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import msgspec

from omactl.api.routes import ROUTES, Endpoint
from omavol import __version__
from omavol.schema.common import Problem

__all__ = ["document"]

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")


def document() -> dict[str, Any]:
    """The whole document, as JSON would have it."""
    types = list(dict.fromkeys(kind for each in ROUTES for kind in (*_answers(each), each.body) if kind))
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=_REF)
    named = dict(zip(types, schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ROUTES:
        answers = [named[kind] for kind in _answers(endpoint)]
        answer = answers[0] if len(answers) == 1 else {"anyOf": answers}
        body = named.get(endpoint.body)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, answer, body)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OMA",
            "version": __version__,
            "description": "The control plane of a migration appliance. Errors are problem documents (RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "oma_session"},
            },
        },
    }


def _answers(endpoint: Endpoint) -> tuple[Any, ...]:
    return endpoint.answer if isinstance(endpoint.answer, tuple) else (endpoint.answer,)


def _operation(endpoint: Endpoint, answer: Any, body: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": _operation_id(endpoint),
        "security": [] if endpoint.open else [{"token": []}, {"session": []}],
        "responses": _responses(endpoint, answer),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "maxLength": 255}}
        for name in _PARAMETER.findall(endpoint.path)
    ]
    parameters += [
        {"name": each.name, "in": "query", "description": each.description, "schema": {"type": each.kind}}
        for each in endpoint.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = _PARAMETER.sub(r"by_\1", endpoint.path.removeprefix("/api/v1")).replace("-", "_").strip("/")
    return f"{endpoint.method.lower()}_{words.replace('/', '_')}"


def _responses(endpoint: Endpoint, answer: Any) -> dict[str, Any]:
    statuses = [endpoint.status, *([202] if endpoint.method == "DELETE" else [])]
    responses: dict[str, Any] = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": answer}},
        }
        for status in statuses
    }
    if endpoint.path == "/health":
        responses["503"] = responses["200"] | {"description": "The database is away"}
    else:
        for status in sorted({401, 503, *endpoint.errors}):
            responses[str(status)] = _problem(status)
    return responses


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name="Problem")}
    said: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status == 503:
        said["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return said
