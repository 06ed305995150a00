"""The daemon's application and its one way to run: state directory, socket, server, all ended in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from omavol import __version__
from omavol.daemon.answers import HANDLERS
from omavol.daemon.house import Daemon, run_daemon
from omavol.daemon.listen import OnlyAllowed, PeerProtocol, Server, bind, lock_state
from omavol.daemon.routes import ROUTES
from omavol.daemon.session_routes import SESSION_ROUTES
from omavol.volumes.record import Record

__all__ = ["serve"]

log = logging.getLogger("omavol.daemon")
GRACE = 5


def serve(state: Path, unix: Path | None, control: Path | None, allowed: frozenset[int]) -> bool:
    """Run until SIGTERM or SIGINT. False: an operation was still at work; its row says so, the next start resumes it.

    Raises VolumeError before anything is served when the state directory, the record or the socket cannot be used.
    """
    lock = lock_state(state)
    try:
        Record(state / "record.sqlite").close()  # refused now, in one line, not from inside the server
        others = allowed - {0, os.geteuid()}
        socket_path = unix or state / "omavol.sock"
        listener = bind(socket_path, 0o666 if others else 0o600)
        try:
            log.info("omavol daemon %s: volumes in %s, API on %s", __version__, state, socket_path)
            return asyncio.run(_serve(state, control or state / "control.sock", listener, allowed), debug=False)
        finally:
            listener.close()
            socket_path.unlink(missing_ok=True)
    finally:
        os.close(lock)


async def _serve(state: Path, control: Path, listener: socket.socket, allowed: frozenset[int]) -> bool:
    stopping = asyncio.Event()
    in_time = True

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Daemon]]:
        nonlocal in_time
        async with run_daemon(state, control, stopping) as daemon:
            yield {"daemon": daemon}
        in_time = daemon.stopped_in_time

    app = Starlette(routes=[*ROUTES, *SESSION_ROUTES], lifespan=lifespan, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False  # a path with a slash too many is not found, and says so
    config = uvicorn.Config(
        OnlyAllowed(app, allowed | {0, os.geteuid()}),
        http=PeerProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    await Server(config, stopping).serve(sockets=[listener])
    return in_time
