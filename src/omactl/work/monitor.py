"""The health monitor: every two minutes it looks for live jobs that nobody works on, and has them taken up."""

from __future__ import annotations

import asyncio
from datetime import datetime

import sqlalchemy as sa
import structlog

from omactl.settings import Timing
from omactl.store import contexts
from omactl.store.engine import Database
from omactl.work.dispatch import Dispatch
from omactl.work.follow import Followers
from omactl.work.recovery import Judged, Recovery
from omavol.schema.common import now

__all__ = ["Monitor"]

log = structlog.get_logger(__name__)


class Monitor:
    """One task, started once; a check that fails is logged and made again at the next turn."""

    def __init__(
        self, database: Database, dispatch: Dispatch, recovery: Recovery, followers: Followers, timing: Timing
    ) -> None:
        self._database, self._dispatch, self._recovery = database, dispatch, recovery
        self._followers, self._timing = followers, timing
        self._task: asyncio.Task[None] | None = None
        self.checked_at: datetime | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        if self.running:
            raise RuntimeError("the health monitor is running already")
        self._task = asyncio.create_task(self._run(), name="health monitor")
        log.info("Health monitor started", check_interval=self._timing.monitor, stale_threshold=self._timing.stale)

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def check(self) -> list[Judged]:
        """One round: machines freed from jobs that ended, jobs nobody works on taken up, slow sources named."""
        for context_id in await self._database.write(contexts.release_finished):
            log.warning("a machine pointed at a job that had ended", machine=context_id)
        for job_id, age in self._followers.followed.items():
            if age > self._timing.stale:
                log.warning("a followed job's source is slow to answer", job=job_id, seconds=round(age))
        judged = await self._recovery.take_up(await self._dispatch.claimable())
        self.checked_at = now()
        return judged

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._timing.monitor)
            try:
                await self.check()
            except (sa.exc.SQLAlchemyError, OSError) as error:
                log.error("a health check failed; made again", cause=str(error))
