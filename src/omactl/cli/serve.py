"""`omactl serve`: the control plane's process, from its options to its last line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
import structlog
import uvicorn

from omactl.access.keys import ADMIN_TOKEN
from omactl.api.app import build
from omactl.api.body import check_name
from omactl.api.world import World
from omactl.cli.options import cause_of, database, omavol, state
from omactl.rules.messages import Failure, explain
from omactl.settings import Settings, Timing
from omactl.store import sources
from omactl.work.control import Control, StateInUse

__all__ = ["command"]

GRACE = 5  # seconds that open requests have at the end


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8082, show_default=True, help="0: any free port.")
@state
@database
@omavol
@click.option("--source", "named", multiple=True, metavar="NAME=URL", help="A source of machines (repeatable).")
@click.option(
    "--source-token-file",
    "token_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="The token of each --source, in the same order; one file serves for all.",
)
@click.option(
    "--monitor-interval",
    type=click.FloatRange(min=1),
    default=Timing.monitor,
    show_default=True,
    metavar="SECONDS",
    help="Between two rounds of the health monitor.",
)
def command(
    host: str,
    port: int,
    state: Path,
    database: str | None,
    omavol: Path,
    named: tuple[str, ...],
    token_files: tuple[Path, ...],
    monitor_interval: float,
) -> None:
    """Run the control plane. Without options it keeps an SQLite database in its state directory."""
    _configure_log()
    wanted = _sources(named, token_files)
    settings = Settings(
        state=state,
        omavol=omavol,
        database=database,
        host=host,
        port=port,
        timing=Timing(monitor=monitor_interval),
    )
    try:
        with _listening(host, port) as listener:
            asyncio.run(_serve(settings, wanted, listener))
    except StateInUse as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or state}: {error.strerror or error}") from error
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise click.ClickException(f"the database cannot be used: {cause_of(error)}") from error


async def _serve(settings: Settings, wanted: list[tuple[str, str, Path]], listener: socket.socket) -> None:
    control = Control(settings)
    address = _address(listener)

    async def on_open(world: World, first: bool) -> None:
        for name, url, token_file in wanted:
            await world.control.database.write(sources.put, name, url, str(token_file.resolve()))
        click.echo(f"omactl: at {address}, its admin token in {settings.state / ADMIN_TOKEN} (mode 0600)")
        if first:
            click.echo(f"omactl: open once, within an hour: {address}/login?code={await world.keys.new_link('admin')}")
        sys.stdout.flush()

    config = uvicorn.Config(
        build(control, on_open),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE,
    )
    await control.open()
    server = _Server(config)
    await server.serve(sockets=[listener])
    if not server.started:
        raise click.ClickException("the control plane could not start; the lines above say why")


class _Server(uvicorn.Server):
    """Ends on SIGTERM and SIGINT by itself: the stock one raises the signal again and exits as if killed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=256)
    except OSError as error:
        cause = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise click.ClickException(f"cannot listen at {host}:{port}: {cause}") from error
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _sources(named: tuple[str, ...], token_files: tuple[Path, ...]) -> list[tuple[str, str, Path]]:
    """Names, addresses and token files of the sources given."""
    if named and len(token_files) not in (1, len(named)):
        raise click.UsageError("give one --source-token-file, or one for each --source")
    files = token_files if len(token_files) == len(named) else token_files * len(named)
    found = []
    for text, token_file in zip(named, files, strict=True):
        name, sign, url = text.partition("=")
        if not sign or not url.startswith(("http://", "https://")):
            raise click.UsageError(f"--source {text}: it must be NAME=URL, such as lab=http://127.0.0.1:8081")
        try:
            found.append((check_name("--source", name), url.rstrip("/"), token_file))
        except Failure as failure:
            raise click.UsageError(explain(failure.code, failure.facts).sentence) from failure
    return found


def _configure_log() -> None:
    """One line an event on stderr, in colours on a terminal; the libraries' own warnings beside it."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname).1s %(name)s: %(message)s", stream=sys.stderr)
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    structlog.configure(
        processors=processors,
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
