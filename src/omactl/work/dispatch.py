"""Who runs which job: submitted, claimed, renewed, finished or cancelled through one small interface.

All state is in the database. On one machine the work is done in this process; the interface is what a fleet would put
a queue behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa
import structlog

from omactl.store import jobs
from omactl.store.engine import Database
from omactl.store.rows import Hold, Job

__all__ = ["Dispatch", "LocalDispatch", "Runner"]

log = structlog.get_logger(__name__)

Runner = Callable[[Hold, asyncio.Event], Awaitable[None]]


class Dispatch(Protocol):
    """What the rest of omactl asks of a dispatcher."""

    async def submit(self, job_id: str) -> bool:
        """Have the job worked on; False when it has ended or another owner holds it."""

    async def cancel(self, job_id: str, by: str) -> Job:
        """Note that a person wants the job to end, and wake whoever works on it."""

    async def claimable(self) -> list[Job]:
        """Live jobs that nobody works on and that may be taken."""


@dataclass
class _Running:
    hold: Hold
    cancel: asyncio.Event
    task: asyncio.Task[None] | None = field(default=None)


class LocalDispatch:
    """Works on jobs in tasks of this event loop, and renews their leases while they run."""

    def __init__(
        self, database: Database, owner: str, runner: Runner, lease: float, on_cancel: Callable[[str], None]
    ) -> None:
        self._database, self._owner, self._runner, self._lease = database, owner, runner, lease
        self._on_cancel = on_cancel
        self._running: dict[str, _Running] = {}
        self._claiming = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._running)

    def start(self) -> None:
        self._renewal = asyncio.create_task(self._renew(), name="leases")

    async def stop(self) -> None:
        """Stop working; the jobs stay as they are, and the next start goes on with them."""
        tasks = [each.task for each in self._running.values() if each.task]
        if self._renewal:
            tasks.append(self._renewal)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, job_id: str) -> bool:
        """One claim at a time: a request and recovery may submit the same job in the same moment."""
        async with self._claiming:
            if job_id in self._running:
                return True
            hold = await self._database.write(jobs.claim, job_id, self._owner, self._lease)
            if hold is None:
                return False
            job = await self._database.read(jobs.get, job_id)
            running = self._running[job_id] = _Running(hold, asyncio.Event())
            if job.cancel_requested_at is not None:
                running.cancel.set()
            running.task = asyncio.create_task(self._work(running), name=f"job {job_id}")
            return True

    async def cancel(self, job_id: str, by: str) -> Job:
        job = await self._database.write(jobs.request_cancel, job_id, by)
        if running := self._running.get(job_id):
            running.cancel.set()
        self._on_cancel(job_id)
        return job

    async def claimable(self) -> list[Job]:
        return [job for job in await self._database.read(jobs.claimable, self._owner) if job.id not in self._running]

    async def finished(self, job_id: str) -> None:
        """Wait until nobody here works on the job any more."""
        running = self._running.get(job_id)
        if running and running.task:
            await asyncio.wait((running.task,))

    async def _work(self, running: _Running) -> None:
        try:
            await self._runner(running.hold, running.cancel)
        except Exception:  # the outermost edge of a task: the monitor finds the job again
            log.exception("working on a job broke off", job=running.hold.job_id)
        finally:
            if self._running.get(running.hold.job_id) is running:
                del self._running[running.hold.job_id]

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            holds = [each.hold for each in self._running.values()]
            try:
                kept = await self._database.write(jobs.renew, holds, self._lease)
            except sa.exc.SQLAlchemyError as error:
                log.error("leases were not renewed; tried again", cause=str(error))
                continue
            for hold in holds:
                if hold not in kept and hold.job_id in self._running:
                    log.warning("a lease was lost", job=hold.job_id)
