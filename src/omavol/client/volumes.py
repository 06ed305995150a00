"""The client of the daemon's volume API (BEHAVIOUR.md section 2), over its unix socket."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from urllib.parse import quote

from omavol.client.http import HttpClient
from omavol.client.problem import ProblemError, WaitedTooLong
from omavol.schema.common import Problem, new_id
from omavol.schema.volumes import (
    AttachVolume,
    CreateVolume,
    DeviceMapping,
    Export,
    Exports,
    Health,
    OpenSession,
    Operation,
    OperationStatus,
    OperationType,
    ProveSession,
    Provider,
    Session,
    Validation,
    Volume,
)

__all__ = ["VolumeClient"]

API = "/api/v1"
FINAL = frozenset({OperationStatus.COMPLETED, OperationStatus.FAILED, OperationStatus.CANCELLED})
POLL = 0.5  # seconds between two questions where the daemon does not hold them
LONG_POLL = 20.0  # seconds the daemon holds a GET of an unfinished operation


class VolumeClient(HttpClient):
    """Every route of the volume API, typed. Operations are returned as recorded; `wait` follows one to its end.

    `key` (Idempotency-Key) makes a repeated request return the first one's operation; one is made up when absent.
    """

    def __init__(self, socket_path: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        path = os.fspath(socket_path)
        super().__init__("http://omavol", peer=f"omavol daemon at {path}", unix=path, timeout=timeout)

    # --- volumes and their operations ---

    async def create_volume(self, volume: CreateVolume, *, key: str | None = None) -> Operation:
        return await self._operate("POST", f"{API}/volumes", volume, key)

    async def attach(self, volume_id: str, vm_id: str, *, key: str | None = None) -> Operation:
        return await self._operate("POST", f"{_volume(volume_id)}/attach", AttachVolume(vm_id=vm_id), key)

    async def detach(self, volume_id: str, *, key: str | None = None) -> Operation:
        return await self._operate("POST", f"{_volume(volume_id)}/detach", None, key)

    async def delete_volume(self, volume_id: str, *, key: str | None = None) -> Operation:
        return await self._operate("DELETE", _volume(volume_id), None, key)

    async def volumes(self) -> list[Volume]:
        return await self.read(f"{API}/volumes", list[Volume])

    async def volume(self, volume_id: str) -> Volume:
        return await self.read(_volume(volume_id), Volume)

    async def device(self, volume_id: str) -> DeviceMapping:
        return await self.read(f"{_volume(volume_id)}/device", DeviceMapping)

    async def volumes_of(self, vm_id: str) -> list[DeviceMapping]:
        return await self.read(f"{API}/vms/{quote(vm_id, safe='')}/volumes", list[DeviceMapping])

    async def operations(
        self,
        *,
        type: OperationType | None = None,
        status: OperationStatus | None = None,
        volume_id: str | None = None,
        vm_id: str | None = None,
        limit: int = 100,
    ) -> list[Operation]:
        """The newest `limit` operations that match, newest first."""
        asked = {"type": type, "status": status, "volume_id": volume_id, "vm_id": vm_id}
        params: dict[str, str | int] = {name: str(value) for name, value in asked.items() if value is not None}
        return await self.read(f"{API}/operations", list[Operation], params=params | {"limit": limit})

    async def operation(self, operation_id: str, *, hold: float = 0) -> Operation:
        """The operation as it stands; with `hold`, the answer waits up to that many seconds for it to finish."""
        path = f"{API}/operations/{quote(operation_id, safe='')}"
        return await self.read(path, Operation, params={"wait": f"{hold:g}"} if hold else None, timeout=30 + hold)

    async def wait(self, operation: Operation, timeout: float) -> Operation:
        """The operation once it is completed. Raises its own problem when it failed, WaitedTooLong after `timeout`.

        A daemon that is restarted meanwhile is waited for: it drives the operation to an end.
        """
        deadline = time.monotonic() + timeout
        while operation.status not in FINAL:
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitedTooLong(_unfinished(operation, timeout))
            asked = time.monotonic()
            try:
                operation = await self.operation(operation.id, hold=min(left, LONG_POLL))
            except ProblemError as error:
                if error.problem.status not in (502, 503):
                    raise
            if time.monotonic() - asked < POLL and operation.status not in FINAL:  # answered without holding
                await asyncio.sleep(min(POLL, max(left, 0)))
        if operation.status is not OperationStatus.COMPLETED:
            raise ProblemError(operation.error or _ended(operation))
        return operation

    # --- write sessions ---

    async def open_session(self, volume_id: str, wanted: OpenSession) -> Session:
        return await self.act("POST", f"{_volume(volume_id)}/sessions", Session, body=wanted)

    async def sessions(self, volume_id: str) -> list[Session]:
        return await self.read(f"{_volume(volume_id)}/sessions", list[Session])

    async def session(self, volume_id: str, session_id: str) -> Session:
        """The session with the server's live counters."""
        return await self.read(_session(volume_id, session_id), Session)

    async def end_session(self, volume_id: str, session_id: str) -> Session:
        """End it without proof; ending an ended one is no error."""
        return await self.act("DELETE", _session(volume_id, session_id), Session)

    async def put_digests(self, volume_id: str, session_id: str, digests: AsyncIterator[bytes] | bytes) -> None:
        """Store the source's digest file for `prove`, as it streams in."""
        await self.upload(f"{_session(volume_id, session_id)}/digests", digests)

    async def prove(self, volume_id: str, session_id: str, claim: ProveSession, *, key: str | None = None) -> Operation:
        return await self._operate("POST", f"{_session(volume_id, session_id)}/prove", claim, key)

    # --- exports, provider, health ---

    async def exports(self) -> Exports:
        return await self.read(f"{API}/exports", Exports)

    async def export(self, volume_id: str) -> Export:
        return await self.read(f"{API}/exports/{quote(volume_id, safe='')}", Export)

    async def validate_exports(self) -> Validation:
        """Compare record, files and served table now, mend, and say what was found."""
        return await self.act("POST", f"{API}/exports/validate", Validation)

    async def provider(self) -> Provider:
        return await self.read(f"{API}/provider", Provider)

    async def set_provider(self, provider: Provider) -> Provider:
        return await self.act("PUT", f"{API}/provider", Provider, body=provider)

    async def health(self) -> Health:
        return await self.read(f"{API}/health", Health)

    async def _operate(
        self, method: str, path: str, body: CreateVolume | AttachVolume | ProveSession | None, key: str | None
    ) -> Operation:
        """Send with an idempotency key, which makes trying once more after a lost answer safe."""
        headers = {"Idempotency-Key": key or new_id()}
        try:
            return await self.act(method, path, Operation, body=body, headers=headers)
        except ProblemError as error:
            if error.code != "unreachable":
                raise
        return await self.act(method, path, Operation, body=body, headers=headers)


def _volume(volume_id: str) -> str:
    return f"{API}/volumes/{quote(volume_id, safe='')}"


def _session(volume_id: str, session_id: str) -> str:
    return f"{_volume(volume_id)}/sessions/{quote(session_id, safe='')}"


def _unfinished(operation: Operation, timeout: float) -> Problem:
    return Problem(
        status=504,
        code="operation_unfinished",
        title="Still running",
        detail=f"{operation.type} of volume {operation.volume_id} is not finished after {timeout:g} s"
        f" (step {operation.step or operation.status})",
        advice=(f"It goes on: ask for operation {operation.id} again.",),
    )


def _ended(operation: Operation) -> Problem:
    return Problem(
        status=409,
        code=f"operation_{operation.status}",
        title="Operation ended",
        detail=f"{operation.type} of volume {operation.volume_id} ended as {operation.status}",
    )
