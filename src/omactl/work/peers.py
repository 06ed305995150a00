"""The volume service and the sources, as clients; their errors become failures that the catalogue has words for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from omactl.rules.messages import Failure, classify
from omactl.store import sources
from omactl.store.engine import Database
from omactl.store.rows import Source
from omavol.client import ProblemError, SourceClient, Unreachable, VolumeClient

__all__ = ["SOURCE_CODES", "Peers", "asking_source", "asking_volumes", "patiently"]

T = TypeVar("T")

# Codes of the volume service that mean the same to a person as one of ours.
VOLUME_CODES: dict[str, str] = {
    "no_space": "storage_full",
    "digest_mismatch": "digest_mismatch",
    "digests_missing": "unproved",
    "unprovable": "session_lost",
    "session_ended": "session_lost",
    "session_held": "volume_busy",
    "session_proving": "volume_busy",
    "stale_epoch": "volume_busy",
    "volume_busy": "volume_busy",
    "server_away": "volumes_unreachable",
}

# Codes of our agent, likewise; its own text decides for others, as it does for an agent without codes.
SOURCE_CODES: dict[str, str] = {
    "agent_restarted": "source_interrupted",
    "cancelled": "source_cancelled",
    "destination_lost": "transfer_broken",
    "destination_refused": "export_refused",
    "disk_unknown": "source_refused",
    "freeze_failed": "source_snapshot",
    "image_broken": "disk_unreadable",
    "image_in_use": "source_snapshot",
    "machine_busy": "source_busy",
    "machine_unknown": "source_lacks_machine",
    "monitor_lost": "source_snapshot",
    "monitor_refused": "source_snapshot",
    "monitor_unreachable": "source_snapshot",
    "nbd_server_taken": "source_snapshot",
    "overlay_failed": "source_snapshot",
    "overlay_space_short": "source_snapshot",
    "size_mismatch": "source_refused",
    "source_read_failed": "disk_unreadable",
}

PASSING = frozenset({"volumes_unreachable", "source_unreachable", "source_busy"})
"""Failures that go away by themselves: the peer starts anew, or lets go of an earlier job."""


class Peers:
    """One client a peer, made when first needed. For one event loop; `close` closes what was opened."""

    def __init__(self, database: Database, omavol: Path) -> None:
        self._database = database
        self.volumes = VolumeClient(omavol)
        self._sources: dict[str, tuple[Source, str, SourceClient]] = {}

    async def source(self, name: str) -> SourceClient:
        """The client of a source with its present address and token; Failure `source_unknown`."""
        row = await self._database.read(sources.get, name)
        token = _token(row)
        known = self._sources.get(name)
        if known is not None and (known[0].url, known[1]) == (row.url, token):
            return known[2]
        client = SourceClient(row.url, token)
        self._sources[name] = (row, token, client)
        if known is not None:
            await known[2].close()
        return client

    async def close(self) -> None:
        await self.volumes.close()
        for _, _, client in self._sources.values():
            await client.close()


def _token(source: Source) -> str:
    try:
        token = Path(source.token_file).read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise Failure("source_unauthorized", f"token file: {error}", source=source.name) from error
    if not token or not token.isprintable():  # it could not stand in a header (RFC 6750)
        raise Failure("source_unauthorized", "token file: it holds no token", source=source.name)
    return token


@asynccontextmanager
async def asking_volumes(disk: str = "-", default: str = "volume_failed") -> AsyncIterator[None]:
    """Turn what the volume service answers badly into a failure; `disk` is the label a person knows."""
    try:
        yield
    except Unreachable as error:
        raise Failure("volumes_unreachable", str(error)) from error
    except ProblemError as error:
        code = VOLUME_CODES.get(error.code, default)
        raise Failure(code, f"{error.code}: {error.problem.detail}", disk=disk, disks=disk) from error


@asynccontextmanager
async def asking_source(name: str, default: str = "source_refused") -> AsyncIterator[None]:
    """Turn what a source answers badly into a failure."""
    try:
        yield
    except Unreachable as error:
        raise Failure("source_unreachable", str(error), source=name) from error
    except ProblemError as error:
        by_status = {401: "source_unauthorized", 403: "source_unauthorized", 503: "source_unreachable"}
        code = SOURCE_CODES.get(error.code) or by_status.get(error.problem.status)
        code = code or classify(error.problem.detail, default)
        raise Failure(code, f"{error.code}: {error.problem.detail}", source=name) from error


async def patiently(call: Callable[[], Awaitable[T]], patience: float, pause: float = 1.0) -> T:
    """Call again while the peer gives no answer, for at most `patience` seconds: it may be starting anew.

    Only for calls that may be made twice.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return await call()
        except Failure as failure:
            if failure.code not in PASSING or time.monotonic() > deadline:
                raise
        await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
