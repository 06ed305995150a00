"""The daemon's socket: bound here, because uvicorn would make it open to all, and who may use it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import struct
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from omavol.daemon.answers import refusal
from omavol.schema.common import Problem
from omavol.volumes.errors import VolumeError

__all__ = ["OnlyAllowed", "PeerProtocol", "Server", "bind", "lock_state"]

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def lock_state(folder: Path) -> int:
    """Make the state directory if it is missing and keep every other daemon out of it; the lock's descriptor."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        (folder / "digests").mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VolumeError(
            500, "state_unusable", f"the state directory {folder} cannot be used: {error.strerror}", "Check its rights."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise VolumeError(409, "state_in_use", f"another omavol daemon runs in {folder}") from error
    return descriptor


def bind(path: Path, mode: int) -> socket.socket:
    """A listening socket at `path` with `mode`. A dead daemon's socket is replaced, a living one's never."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise VolumeError(409, "socket_unusable", f"{path} exists and is not a socket")
        if _answers(path):
            raise VolumeError(409, "socket_in_use", f"{path} is the socket of a living process")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise VolumeError(500, "socket_unusable", f"{path} cannot be bound: {error.strerror or error}") from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
        return True


class PeerProtocol(HttpToolsProtocol):
    """Puts the connected process's user id into the request's state, as `peer_uid`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.app_state: dict[str, Any] = {**self.app_state, "peer_uid": _UCRED.unpack(credentials)[1]}


class OnlyAllowed:
    """Answers 403 to every process whose user is not allowed: the check on a socket that others may open."""

    def __init__(self, app: ASGIApp, uids: frozenset[int]) -> None:
        self.app = app
        self.uids = uids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (uid := scope["state"].get("peer_uid")) not in self.uids:
            problem = Problem(
                status=403,
                code="not_allowed",
                title="Forbidden",
                detail=f"user {uid} may not use this daemon",
                advice=("Start the daemon with --allow-uid for this user.",),
            )
            await refusal(problem)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class Server(uvicorn.Server):
    """Ends at SIGTERM or SIGINT with exit code 0: uvicorn itself would raise the signal again (exit 143).

    `stopping` is set then, so that requests which wait for something answer at once.
    """

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()

        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)
            loop.call_soon_threadsafe(self._stopping.set)

        former = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
