"""The agent's process: its socket, its signals, and the order in which it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM

import uvicorn

from omavol.agent.access import load_token
from omavol.agent.api import create_app
from omavol.agent.copying import Copier
from omavol.agent.jobs import Jobs
from omavol.agent.state import State
from omavol.source.inventory import Inventory
from omavol.source.qemu import QemuSource

__all__ = ["CannotListen", "Settings", "serve"]

GRACE = 10  # seconds that open requests have at the end


class CannotListen(Exception):
    """The address cannot be listened at; the message says which and why."""


@dataclass(frozen=True)
class Settings:
    inventory: Path
    state: Path
    host: str
    port: int
    token_file: Path | None = None

    @property
    def token_path(self) -> Path:
        return self.token_file or self.state / "token"


def serve(settings: Settings, copier: Copier, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; jobs that run then are recorded as failed, their points given up.

    Raises CannotListen, StateInUse, JournalError, TokenError, SourceError before anything is served.
    """
    with listening(settings.host, settings.port) as listener:
        state = State(settings.state)
        try:
            token, is_new = load_token(settings.token_path)
            inventory = Inventory(settings.inventory)
            source = QemuSource(settings.state / "run", state)
            jobs = Jobs(state, source, inventory, copier)
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            count = len(inventory.list().machines)
            found = "1 machine" if count == 1 else f"{count} machines"
            lines = [f"omavol agent: {found} in {settings.inventory}, source API at http://{shown}:{port}"]
            if is_new:
                lines.append(f"omavol agent: a new token is in {settings.token_path} (mode 0600)")
            config = uvicorn.Config(
                create_app(jobs, state, source, inventory, token),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=GRACE,
            )
            asyncio.run(_Server(config, jobs, lambda: announce("\n".join(lines))).serve(sockets=[listener]))
        finally:
            state.close()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket that listens; port 0 lets the kernel choose."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        cause = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise CannotListen(f"cannot listen at {host} port {port}: {cause}") from error
    with listener:
        yield listener


class _Server(uvicorn.Server):
    """uvicorn, whose signals first end our streams and jobs, so that nothing holds the end up."""

    def __init__(self, config: uvicorn.Config, jobs: Jobs, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._jobs = jobs
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (SIGINT, SIGTERM):
            loop.add_signal_handler(number, self._leave, number)
        try:
            yield
        finally:
            for number in (SIGINT, SIGTERM):
                loop.remove_signal_handler(number)

    def _leave(self, number: int) -> None:
        self._jobs.stop()
        self.handle_exit(number, None)
