"""Killed at any boundary of a replication and started again, the control plane brings the job to a true end."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

import httpx2
import pytest
from processes import serve

from omavol.schema.volumes import SessionState

PLACES = [
    "omactl.job-created",
    "omactl.volumes-ready",
    "omactl.sessions-opened",
    "omactl.handed-over",
    "omactl.proved",
    "omactl.before-close",
]


async def start(served):
    async with served.client() as client:
        return await client.post("/api/v1/replications", json={"vm_name": "web01"})


@pytest.mark.parametrize("place", PLACES)
async def test_a_job_ends_as_it_should_though_omactl_died(world, tmp_path, place):
    await world.stop()
    log = tmp_path / "hit"
    async with serve(world, OMA_FAILPOINT=place, OMA_FAILPOINT_LOG=str(log)) as dying:
        with suppress(httpx2.TransportError):
            await start(dying)
        async with asyncio.timeout(30):
            assert await dying.process.wait() == -signal.SIGKILL
    assert log.read_text().split() == [place], "it died where it was meant to"

    async with serve(world) as served:
        async with served.client() as client:
            [job] = (await client.get("/api/v1/jobs")).json()["jobs"]
        ended = await served.ended(job["job_id"])
        assert ended["status"] == "completed", ended
        again = await served.ended((await start(served)).json()["job_id"])
        assert (again["status"], again["sync_type"]) == ("completed", "incremental")
        async with served.client() as client:
            page = (await client.get("/api/v1/vm-contexts/web01")).json()
    assert page["context"]["current_status"] == "ready_for_failover"
    assert page["context"]["successful_jobs"] == 2
    assert len(world.volumes.volumes) == 2, "no volume was made twice"
    assert {session.state for session in world.volumes.sessions.values()} <= {SessionState.PROVED, SessionState.ENDED}
    await world.start()
