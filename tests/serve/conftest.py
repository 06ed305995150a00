"""Servers for the tests: the table in this process, or `omavol serve` in its own; images; a short place for sockets."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from certificates import Pki
from omavol.serve.limits import Limits
from omavol.serve.listeners import listen_unix
from omavol.serve.table import ExportTable
from omavol.serve.tls import Mode, Tls
from raw_client import Raw, trusting

MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def memory() -> Iterator[Path]:
    """4 MiB of random bytes on tmpfs, whose data is always at hand."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(os.urandom(4 * MIB))
        file.flush()
        yield Path(file.name)


@pytest.fixture
def image(place: Path) -> Path:
    """4 MiB of random bytes."""
    path = place / "image"
    path.write_bytes(os.urandom(4 * MIB))
    return path


@dataclass
class Served:
    """A table in this process behind one unix socket."""

    table: ExportTable
    path: Path
    tls: ssl.SSLContext | None = None  # what its clients enter inside of
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def client(self, export: str = "", **options: bool) -> Raw:
        return self.stack.enter_context(Raw(self.path, export, tls=self.tls, **options))

    def export(self, name: str = ""):
        return next(row for row in self.table.list() if row.name == name)


@pytest.fixture
def serve(place: Path) -> Iterator[Callable[..., Served]]:
    """Serve paths by name from a table with the given limits; with `tls` every client has to enter inside it."""
    started: list[Served] = []

    def start(
        *,
        read_only: bool = False,
        limits: Limits | None = None,
        hidden: bool = False,
        filters: Sequence[str] = (),
        direct: bool = False,
        tls: Pki | None = None,
        **paths: Path,
    ) -> Served:
        demanded = Tls(Mode.REQUIRE, str(tls.server)) if tls else None
        table = ExportTable(limits or Limits(), hidden=hidden, filters=filters, tls=demanded)
        context = trusting(tls.trusting / "ca-cert.pem") if tls else None
        served = Served(table, place / f"nbd{len(started)}", context)
        for name, path in paths.items():
            served.table.add_path("" if name == "default" else name, str(path), read_only=read_only, direct=direct)
        served.table.listen(listen_unix(str(served.path)))
        served.table.start()
        started.append(served)
        return served

    yield start
    for served in started:
        served.stack.close()
        served.table.stop()


@pytest.fixture
def served(serve, image) -> Served:
    """The image as the default export, writable."""
    return serve(default=image)


@dataclass
class Command:
    """`omavol serve` as its own process; `uris` are the lines it printed."""

    process: subprocess.Popen[str]
    uris: list[str]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    """Start `omavol serve` and return once it has printed `lines` URIs."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, lines: int = 1, wrapper: tuple[str, ...] = ()) -> Command:
        argv = [*wrapper, OMAVOL, "serve", *map(str, arguments)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        uris = [process.stdout.readline().strip() for _ in range(lines)]
        assert all(uris), "it ended before it listened"
        return Command(process, uris)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
