"""What a job that ends owes to others: its source told, its sessions ended, and the truth about its volumes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

import structlog

from omactl.rules.context import Holds
from omactl.rules.messages import Failure
from omactl.store.closing import DiskState
from omactl.store.rows import JobDisk
from omactl.work.peers import Peers
from omactl.work.setup import Plan
from omavol.client import ProblemError
from omavol.schema.volumes import AtPoint, Torn, Volume

__all__ = ["Parting"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Parting:
    """Nothing here keeps a job from ending: a peer that is away is left alone after `limit` seconds.

    Safe, because the next job's epoch ends whatever is still open, and a source that writes to an ended session fails.
    """

    peers: Peers
    limit: float

    async def end(self, plan: Plan, *, at_source: bool) -> None:
        """Stop the source, end the sessions, give the source's point up: in this order, so that nothing writes on."""
        if at_source and plan.context.source is not None:
            await self._try("cancel at the source", plan, self._cancel(plan))
        for disk in plan.disks:
            if disk.volume_id and disk.session_id:
                await self._try(
                    "end the session", plan, self.peers.volumes.end_session(disk.volume_id, disk.session_id)
                )
        if at_source and plan.context.source is not None:
            await self._try("abandon at the source", plan, self._abandon(plan))

    async def _cancel(self, plan: Plan) -> None:
        client = await self.peers.source(plan.source)
        await client.cancel(plan.job.id)

    async def _abandon(self, plan: Plan) -> None:
        client = await self.peers.source(plan.source)
        await client.abandon(plan.job.id)

    async def _try(self, what: str, plan: Plan, call: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(self.limit):
                await call
        except (ProblemError, Failure, TimeoutError) as error:
            log.info("left undone", what=what, job=plan.job.id, cause=str(error) or type(error).__name__)

    async def disk_states(self, plan: Plan) -> tuple[DiskState, ...]:
        """What each volume of the job holds now, as the volume service says; without its word the worst is assumed."""
        states = [await self._state(plan, disk) for disk in plan.disks if disk.volume_id]
        return tuple(state for state in states if state is not None)

    async def _state(self, plan: Plan, disk: JobDisk) -> DiskState | None:
        try:
            async with asyncio.timeout(self.limit):
                volume = await self.peers.volumes.volume(disk.volume_id or "")
        except (ProblemError, TimeoutError) as error:
            log.warning("a volume's content is not known", job=plan.job.id, disk=disk.disk_id, cause=str(error))
            if disk.proof is not None:
                return DiskState(disk.disk_id, Holds.POINT, disk.point)
            return DiskState(disk.disk_id, Holds.TORN) if disk.session_id else None
        return _of_volume(disk.disk_id, volume)


def _of_volume(disk_id: str, volume: Volume) -> DiskState:
    match volume.content:
        case AtPoint(point=point):
            return DiskState(disk_id, Holds.POINT, point, volume.generation)
        case Torn():
            return DiskState(disk_id, Holds.TORN, generation=volume.generation)
        case _:
            return DiskState(disk_id, Holds.NOTHING, generation=volume.generation)
