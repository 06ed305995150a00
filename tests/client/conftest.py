"""A real HTTP server on a unix socket that answers what a test tells it to, one answer after the other."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

Answer = bytes | None  # None: hang up without an answer


class Peer:
    """`requests` are the request lines seen; the last answer is repeated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self.hangs_up_after_answering = False
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.requests.append(line.decode().rsplit(" ", 1)[0])
                headers = {}
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(": ")
                    headers[name.lower()] = value
                self.headers.append(headers)
                self.bodies.append(await reader.readexactly(int(headers.get("content-length", 0))))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    return
                writer.write(answer)
                if self.hangs_up_after_answering:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def reply(status: int, body: bytes, kind: str = "application/json", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def peer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    monkeypatch.setattr("omavol.client.http.RETRY_WAIT", 0.001)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="oma-") as folder:
        peer = Peer(Path(folder) / "s")
        server = await asyncio.start_unix_server(peer.serve, peer.path)
        try:
            yield peer
        finally:
            server.close()


@pytest.fixture
def answer() -> Callable[..., bytes]:
    return reply
