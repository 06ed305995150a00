"""Routes of write sessions: open, look, store digests, prove, end (BEHAVIOUR.md 2.7, decided)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from omavol.daemon.answers import MIB, answer, body, in_thread
from omavol.daemon.routes import API, daemon_of, idempotency_key, route, started
from omavol.schema.volumes import OpenSession, ProveSession
from omavol.volumes.compare import digests_limit
from omavol.volumes.errors import VolumeError
from omavol.volumes.orders import LARGEST
from omavol.volumes.proof import prove

__all__ = ["SESSION_ROUTES"]


async def list_sessions(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).sessions.all, request.path_params["volume"]))


async def open_session(request: Request) -> Response:
    daemon, wanted = daemon_of(request), await body(request, OpenSession)
    if not 0 <= wanted.epoch <= LARGEST:
        raise VolumeError(400, "bad_epoch", f"an epoch is from 0 to {LARGEST}, not {wanted.epoch}")
    session = await in_thread(daemon.sessions.open, request.path_params["volume"], wanted)
    location = f"{API}/volumes/{session.volume_id}/sessions/{session.session_id}"
    return answer(session, status=201, headers={"Location": location})


async def show_session(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).sessions.get, *_ids(request)))


async def end_session(request: Request) -> Response:
    return answer(await in_thread(daemon_of(request).sessions.end, *_ids(request)))


async def put_digests(request: Request) -> Response:
    """Stream the body to a file; it takes the session's name only when all of it is on disk."""
    daemon, (volume_id, session_id) = daemon_of(request), _ids(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/octet-stream":
        raise VolumeError(415, "octets_wanted", "digests must be application/octet-stream")
    await in_thread(daemon.sessions.may_take_digests, volume_id, session_id)
    limit = digests_limit((await in_thread(daemon.views.volume, volume_id)).size)
    target = daemon.house.digests_of(session_id)
    part = target.with_suffix(f".{secrets.token_hex(4)}.part")
    file = await in_thread(_create, part)
    try:
        size = await _receive(request, file, limit)
        await in_thread(_keep, file, part, target)
    finally:
        await in_thread(_drop, file, part)
    return answer({"session_id": session_id, "bytes": size})


async def prove_session(request: Request) -> Response:
    daemon, claim = daemon_of(request), await body(request, ProveSession)
    session = await in_thread(daemon.sessions.find, *_ids(request))
    key = idempotency_key(request)
    return started(await in_thread(prove, daemon.house, daemon.operations, session, claim, key))


def _ids(request: Request) -> tuple[str, str]:
    return request.path_params["volume"], request.path_params["session"]


async def _receive(request: Request, file: IO[bytes], limit: int) -> int:
    size, pending = 0, bytearray()
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise VolumeError(413, "body_too_large", f"digests of this volume have at most {limit} bytes")
            pending += piece
            if len(pending) >= MIB:
                await in_thread(file.write, bytes(pending))
                pending.clear()
    except ClientDisconnect:
        raise VolumeError(400, "body_cut_short", "the client hung up before the end of the digests") from None
    await in_thread(file.write, bytes(pending))
    return size


def _create(part: Path) -> IO[bytes]:
    return part.open("wb")


def _keep(file: IO[bytes], part: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.rename(target)


def _drop(file: IO[bytes], part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)


_SESSION = f"{API}/volumes/{{volume}}/sessions/{{session}}"
SESSION_ROUTES: list[Route] = [
    route(f"{API}/volumes/{{volume}}/sessions", GET=list_sessions, POST=open_session),
    route(_SESSION, GET=show_session, DELETE=end_session),
    route(f"{_SESSION}/digests", PUT=put_digests),
    route(f"{_SESSION}/prove", POST=prove_session),
]
