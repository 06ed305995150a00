"""Routes of volumes, operations, exports and the provider: parse, call, answer (BEHAVIOUR.md 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omavol.cloud import provider_for
from omavol.daemon.answers import answer, body, in_thread
from omavol.daemon.health import health, liveness
from omavol.daemon.house import Daemon
from omavol.schema.volumes import (
    AttachVolume,
    CreateVolume,
    OperationStatus,
    OperationType,
    Provider,
)
from omavol.volumes import orders
from omavol.volumes.errors import VolumeError
from omavol.volumes.rows import UNFINISHED, OperationRow
from omavol.volumes.views import EXPORT_FILTERS, FILTERS, shown_operation

__all__ = ["API", "ROUTES", "daemon_of", "idempotency_key", "route", "started"]

LIMIT, MOST = 100, 1000
HOLD_MOST = 30.0
KEY_LENGTH = 200
_CHOICES: Mapping[str, type[OperationType] | type[OperationStatus]] = {
    "type": OperationType,
    "status": OperationStatus,
}


def daemon_of(request: Request) -> Daemon:
    daemon: Daemon = request.state.daemon
    return daemon


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= KEY_LENGTH:
        raise VolumeError(400, "bad_key", f"an Idempotency-Key has 1 to {KEY_LENGTH} characters")
    return key


def started(operation: OperationRow) -> Response:
    headers = {"Location": f"/api/v1/operations/{operation.id}"}
    return answer(shown_operation(operation), status=201, headers=headers)


# --- volumes ----------------------------------------------------------------------------------------------------


async def list_volumes(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).views.volumes))


async def create_volume(request: Request) -> Response:
    daemon, wanted = daemon_of(request), await body(request, CreateVolume)
    key = idempotency_key(request)
    return started(await in_thread(orders.create, daemon.operations, daemon.house.record, wanted, key))


async def show_volume(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).views.volume, request.path_params["volume"]))


async def attach_volume(request: Request) -> Response:
    daemon, wanted = daemon_of(request), await body(request, AttachVolume)
    volume, key = request.path_params["volume"], idempotency_key(request)
    return started(await in_thread(orders.attach, daemon.operations, daemon.house.record, volume, wanted, key))


async def detach_volume(request: Request) -> Response:
    volume, key = request.path_params["volume"], idempotency_key(request)
    return started(await in_thread(orders.detach, daemon_of(request).operations, volume, key))


async def delete_volume(request: Request) -> Response:
    volume, key = request.path_params["volume"], idempotency_key(request)
    return started(await in_thread(orders.delete, daemon_of(request).operations, volume, key))


async def show_device(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).views.device, request.path_params["volume"]))


async def list_volumes_of_vm(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).views.volumes_of, request.path_params["vm"]))


# --- operations -------------------------------------------------------------------------------------------------


async def list_operations(request: Request) -> Response:
    filters = {name: value for name, value in request.query_params.items() if name in FILTERS and value}
    for name, choices in _CHOICES.items():
        if name in filters and filters[name] not in list(map(str, choices)):
            known = ", ".join(choices)
            raise VolumeError(400, "bad_filter", f"{name} must be one of {known}, not {filters[name]!r}")
    return answer(await in_thread(daemon_of(request).views.operations, filters, _limit(request)))


async def show_operation(request: Request) -> Response:
    """With `?wait=SECONDS` the answer is held until the operation is finished, at most HOLD_MOST seconds."""
    daemon, operation = daemon_of(request), request.path_params["operation"]
    hold = _number(request.query_params.get("wait", "0"), "wait", HOLD_MOST)
    shown = await in_thread(daemon.views.operation, operation)
    if hold and shown.status in UNFINISHED:
        await daemon.finishing.wait(
            operation, lambda: daemon.views.operation(operation).status in UNFINISHED, timeout=hold
        )
        shown = await in_thread(daemon.views.operation, operation)
    return answer(shown)


# --- exports, provider, health ----------------------------------------------------------------------------------


async def list_exports(request: Request) -> Response:
    filters = {name: value for name, value in request.query_params.items() if name in EXPORT_FILTERS and value}
    return answer(await in_thread(daemon_of(request).views.exports, filters, _limit(request)))


async def show_export(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).views.export, request.path_params["volume"]))


async def validate_exports(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).mender.run))


async def show_provider(request: Request) -> Response:
    """Without the values of its settings: they may be secrets."""
    provider = await in_thread(daemon_of(request).house.record.provider)
    hidden = dict.fromkeys(provider.settings, "")
    return answer(Provider(kind=provider.kind, appliance_vm_id=provider.appliance_vm_id, settings=hidden))


async def set_provider(request: Request) -> Response:
    daemon, provider = daemon_of(request), await body(request, Provider)
    await in_thread(provider_for, provider, daemon.house.state)  # refuses what cannot be used
    await in_thread(daemon.house.record.set_provider, provider)
    return await show_provider(request)


async def show_health(request: Request) -> Response:
    return answer(await in_thread(health, daemon_of(request)))


async def show_liveness(request: Request) -> Response:
    return answer(liveness())


def _limit(request: Request) -> int:
    return int(_number(request.query_params.get("limit", str(LIMIT)), "limit", MOST, least=1))


def _number(text: str, name: str, most: float, *, least: float = 0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not least <= value <= most:
        raise VolumeError(400, f"bad_{name}", f"{name} must be a number from {least:g} to {most:g}, not {text!r}")
    return value


def route(path: str, **methods: Any) -> Route:
    """One route a path, whatever its methods: two would answer 405 with half of `Allow`."""

    async def serve(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        response: Response = await methods[method](request)
        return response

    return Route(path, serve, methods=list(methods))


API = "/api/v1"
ROUTES: list[Route] = [
    route("/health", GET=show_liveness),
    route(f"{API}/health", GET=show_health),
    route(f"{API}/volumes", GET=list_volumes, POST=create_volume),
    route(f"{API}/volumes/{{volume}}", GET=show_volume, DELETE=delete_volume),
    route(f"{API}/volumes/{{volume}}/attach", POST=attach_volume),
    route(f"{API}/volumes/{{volume}}/detach", POST=detach_volume),
    route(f"{API}/volumes/{{volume}}/device", GET=show_device),
    route(f"{API}/vms/{{vm}}/volumes", GET=list_volumes_of_vm),
    route(f"{API}/operations", GET=list_operations),
    route(f"{API}/operations/{{operation}}", GET=show_operation),
    route(f"{API}/exports", GET=list_exports),
    route(f"{API}/exports/validate", POST=validate_exports),
    route(f"{API}/exports/{{volume}}", GET=show_export),
    route(f"{API}/provider", GET=show_provider, PUT=set_provider),
]
