"""The client of the source API (BEHAVIOUR.md section 8) that an agent serves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from types import NoneType
from urllib.parse import quote

from omavol.client.http import HttpClient
from omavol.schema.source import (
    AgentHealth,
    AgentVersion,
    ChangeRate,
    Discover,
    Discovered,
    Progress,
    Replicate,
    Replicating,
    Replications,
    Status,
)

__all__ = ["SourceClient"]

API = "/api/v1"


class SourceClient(HttpClient):
    """Every route of the source API, typed. `base_url` is the agent's, such as http://127.0.0.1:8081.

    `unix`: connect through this socket instead of the address in `base_url`.
    """

    def __init__(
        self, base_url: str, token: str, *, unix: str | os.PathLike[str] | None = None, timeout: float = 30.0
    ) -> None:
        socket = None if unix is None else os.fspath(unix)
        peer = f"the agent at {socket or base_url}"
        super().__init__(base_url.rstrip("/"), peer=peer, unix=socket, token=token, timeout=timeout)

    async def discover(self, wanted: Discover | None = None) -> Discovered:
        """The machines of the source; slow sources take long, so the time limit is 60 s."""
        return await self.act("POST", f"{API}/discover", Discovered, body=wanted or Discover(), timeout=60)

    async def replicate(self, wanted: Replicate) -> Replicating:
        """Start the copy. The job's id is the caller's: asking again with it starts nothing new."""
        return await self.act("POST", f"{API}/replicate", Replicating, body=wanted)

    async def replications(self, since: int = 0) -> Replications:
        """Every job that changed after `since` (a cursor of an earlier answer)."""
        return await self.read(f"{API}/replications", Replications, params={"since": since})

    async def progress(self, job_id: str) -> Progress:
        return await self.read(f"{API}/progress/{quote(job_id, safe='')}", Progress)

    async def status(self, job_id: str) -> Status:
        return await self.read(f"{API}/status/{quote(job_id, safe='')}", Status)

    async def digests(self, job_id: str, disk_id: str) -> AsyncIterator[bytes]:
        """The digest file of a finished disk, as it streams; raises when it breaks off."""
        async for piece in self.download(f"{_job(job_id)}/disks/{quote(disk_id, safe='')}/digests"):
            yield piece

    async def commit(self, job_id: str) -> None:
        """The points of this job are now the base of the next; asking twice is no error."""
        await self.act("POST", f"{_job(job_id)}/commit", NoneType)

    async def abandon(self, job_id: str) -> None:
        """The points of this job are given up; the base before it stays, with all that changed since."""
        await self.act("POST", f"{_job(job_id)}/abandon", NoneType)

    async def cancel(self, job_id: str) -> None:
        await self.act("DELETE", _job(job_id), NoneType)

    async def set_rate(self, job_id: str, rate_limit: int | None) -> None:
        """Limit the job to `rate_limit` bytes a second from now on; None lifts the limit."""
        await self.act("PATCH", _job(job_id), NoneType, body=ChangeRate(rate_limit=rate_limit))

    async def version(self) -> AgentVersion:
        return await self.read(f"{API}/version", AgentVersion)

    async def health(self) -> AgentHealth:
        return await self.read(f"{API}/health", AgentHealth)


def _job(job_id: str) -> str:
    return f"{API}/replications/{quote(job_id, safe='')}"
