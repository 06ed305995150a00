"""The running control plane: everything that works in the background, started and stopped together."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any

import structlog

from omactl.rules.messages import Failure
from omactl.settings import Settings
from omactl.store import jobs
from omactl.store.engine import Database
from omactl.store.jobs import NewJob
from omactl.store.migrations import migrate
from omactl.store.rows import Context, Job
from omactl.work.dispatch import LocalDispatch
from omactl.work.follow import Followers
from omactl.work.machines import Machines
from omactl.work.monitor import Monitor
from omactl.work.peers import Peers
from omactl.work.recovery import Recovery
from omactl.work.replication import Replication
from omavol import failpoint
from omavol.schema.common import new_id

__all__ = ["Control", "StateInUse"]

log = structlog.get_logger(__name__)


class StateInUse(Exception):
    """Another omactl works in this state directory."""


class Control:
    """One a process and event loop. `owner` names this instance in leases: the same at every start on one state."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url)
        self.peers = Peers(self.database, settings.omavol)
        self.followers = Followers(self.database, self.peers, settings.timing)
        self._flow = Replication(self.database, self.peers, self.followers, settings)
        self._lock, self.owner = _take_state(settings.state)
        self.dispatch = LocalDispatch(
            self.database, self.owner, self._flow.run, settings.timing.lease, self.followers.cancel
        )
        self.recovery = Recovery(self.database, self.peers, self.dispatch, settings.timing)
        self.monitor = Monitor(self.database, self.dispatch, self.recovery, self.followers, settings.timing)
        self.machines = Machines(self.database, self.peers)
        self._recovering: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Bring the database to the present schema."""
        for revision in await migrate(self.database):
            log.info("migrated", version=revision.version, description=revision.description)

    def start(self) -> None:
        """Take up what an earlier process left, in the background, and begin to watch."""
        self.dispatch.start()
        self._recovering = asyncio.create_task(self.recovery.at_start(), name="recovery")
        self.monitor.start()

    async def stop(self) -> None:
        """Let go of everything; jobs stay as they are in the database."""
        if self._recovering:
            self._recovering.cancel()
            await asyncio.gather(self._recovering, return_exceptions=True)
        await self.monitor.stop()
        await self.dispatch.stop()
        await self.peers.close()
        await self.database.close()
        os.close(self._lock)

    async def replicate(self, context: Context, by: str, options: dict[str, Any]) -> Job:
        """Make a job for the machine and have it worked on; the request is answered before its first step."""
        if context.source is None:
            raise Failure("no_source")
        job = await self.database.write(jobs.create, NewJob("replication", context.context_id, by, options))
        failpoint.reach("omactl.job-created")
        await self.dispatch.submit(job.id)
        return job


def _take_state(state: Path) -> tuple[int, str]:
    """Lock the state directory for this process, and read or make the name of this instance."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateInUse(f"another omactl works in {state}") from error
    name = os.pread(lock, 64, 0).decode().strip()
    if not name:
        name = new_id()
        os.pwrite(lock, name.encode(), 0)
        os.fsync(lock)
    return lock, name
