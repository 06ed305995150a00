"""One replication from its start to its end: check, freeze, copy all disks at once, flush, keep the proof."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from omavol import failpoint
from omavol.agent.admission import Target
from omavol.agent.copying import Copier, DiskCopy, check_destination
from omavol.agent.errors import AgentError, as_agent_error
from omavol.agent.report import disk_frozen, disk_now, finished, summed
from omavol.agent.state import JobRecord, State
from omavol.copy.digests import Digests
from omavol.copy.errors import CopyError
from omavol.copy.progress import Progress as Meter
from omavol.nbd.errors import NbdError
from omavol.schema.common import now
from omavol.schema.source import DiskProgress, DiskProof, Progress, SourceStatus
from omavol.source.errors import SourceError
from omavol.source.machine import Point, Source, SourceMachine

__all__ = ["Run"]

TICK = 0.25  # seconds between two looks at the counters
WRITE_INTERVAL = 1.0  # seconds between two records of progress in the journal
CHECK_INTERVAL = 2.0  # seconds between two questions whether the frozen view still holds
DISKS_AT_ONCE = 8
log = logging.getLogger(__name__)


class Run:
    """The work of one job. Made and used in the event loop; what blocks goes to threads of its own.

    `changed` is called after each change of the record.
    """

    def __init__(
        self,
        record: JobRecord,
        machine: SourceMachine,
        targets: dict[str, Target],
        *,
        state: State,
        source: Source,
        copier: Copier,
        changed: Callable[[], None],
    ) -> None:
        self.record = record
        self.machine = machine
        self._targets = targets
        self._state = state
        self._source = source
        self._copier = copier
        self._changed = changed
        self._copies: dict[str, DiskCopy] = {}
        self._ended: set[str] = set()
        self._stopped: AgentError | None = None
        self._meter = Meter(0)
        self._meters: dict[str, Meter] = {}
        self._written = 0.0

    def stop(self, reason: AgentError) -> None:
        """End the job soon, with this reason; no effect when its end has begun."""
        self._stopped = self._stopped or reason
        for copy in self._copies.values():
            copy.cancel()

    def limit(self, rate: int | None) -> None:
        """Bytes a second over all disks that are still being copied."""
        self._update(rate_limit=rate)
        self._share_rate()

    async def run(self) -> None:
        """Do all of it; the record tells how it ended. Never raises but for a fault of this program."""
        point: Point | None = None
        try:
            await asyncio.to_thread(self._check_destinations)
            self._go_on("freezing", f"freezing {len(self._targets)} disks of {self.machine.name} at one instant")
            bases = {disk: target.base_point for disk, target in self._targets.items()}
            point = await asyncio.to_thread(self._source.freeze, self.machine, bases)
            self.record = msgspec.structs.replace(self.record, point_id=point.id)
            self._begin_copying(point)
            digests = await self._copy(point)
            await self._complete(point, digests)
        except (AgentError, SourceError, CopyError, NbdError, OSError) as error:
            await self._fail(as_agent_error(error), point)
        except Exception as error:
            log.exception("job %s ended by a fault of this program", self.record.id)
            await self._fail(as_agent_error(error), point)

    # --- the steps -----------------------------------------------------------------------------------------------

    def _check_destinations(self) -> None:
        sizes = self._source.facts(self.machine).disks
        for disk_id, target in self._targets.items():
            self._raise_if_stopped()
            check_destination(disk_id, target.uri, sizes[disk_id].size)

    def _begin_copying(self, point: Point) -> None:
        before = {disk.disk_id: disk for disk in self.record.progress.disk_progresses}
        disks = []
        for name, frozen in point.disks.items():
            if frozen.size != before[name].capacity_bytes:
                raise AgentError("size_mismatch", f"{name} was resized while the pass began: nothing was sent")
            disks.append(disk_frozen(before[name], frozen))
            connections = self.record.request.connections
            self._copies[name] = self._copier(frozen, self._targets[name].uri, connections)
            self._meters[name] = Meter(0)
        kinds = ", ".join(f"{disk.disk_id} {disk.mode}" for disk in disks)
        self._update(disk_progresses=disks, status=SourceStatus.RUNNING)
        self._go_on("transferring", f"copying {kinds}")
        self._share_rate()

    async def _copy(self, point: Point) -> dict[str, Digests]:
        """Run every copy to its end; the first failure ends the others."""
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(DISKS_AT_ONCE, thread_name_prefix=f"copy-{self.record.id}")
        try:
            tasks = {loop.run_in_executor(pool, self._copy_one, name): name for name in self._copies}
            pending, checked = set(tasks), time.monotonic()
            failure: Exception | None = None
            while pending:
                done, pending = await asyncio.wait(pending, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._end_disk(tasks[task], task.exception())
                    failure = failure or _failure(task)
                self._look()
                if failure is None and time.monotonic() - checked >= CHECK_INTERVAL:
                    failure, checked = await self._check(point), time.monotonic()
                if failure is not None:
                    for copy in self._copies.values():
                        copy.cancel()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self._raise_if_stopped()
        if failure is not None:
            raise failure
        return {name: task.result() for task, name in tasks.items()}

    def _copy_one(self, name: str) -> Digests:
        self._raise_if_stopped()
        return self._copies[name].run()

    async def _check(self, point: Point) -> Exception | None:
        try:
            await asyncio.to_thread(self._source.check, point.id)
        except SourceError as error:
            return error
        return None

    async def _complete(self, point: Point, digests: dict[str, Digests]) -> None:
        """Keep digests and figures, then the point; after this line the point stands whatever happens."""
        disks = []
        for disk in self.record.progress.disk_progresses:
            base = point.disks[disk.disk_id].base
            pieces = len(digests[disk.disk_id])
            disks.append(finished(disk, DiskProof(point=point.id, base_point=base, incarnation="", pieces=pieces)))
        files = {name: found.encode() for name, found in digests.items()}
        await asyncio.to_thread(self._state.keep_digests, self.record.id, files)
        self._update(disk_progresses=disks)
        self._go_on("finalizing", "every byte is flushed; keeping the point")
        failpoint.reach("agent.copied")
        await asyncio.to_thread(self._source.complete, point.id)
        self._end(SourceStatus.COMPLETED, "completed", f"all disks are at point {point.id}")

    async def _fail(self, error: AgentError, point: Point | None) -> None:
        error = self._stopped or error
        if point is not None:
            with contextlib.suppress(SourceError):  # what stays behind is ended before the machine's next pass
                await asyncio.to_thread(self._source.abandon, point.id)
        cancelled = error.code == "cancelled"
        status = SourceStatus.CANCELLED if cancelled else SourceStatus.FAILED
        disks = [_unfinished(disk, status) for disk in self.record.progress.disk_progresses]
        self._update(
            disk_progresses=disks, error_code=error.code, last_error=error.detail, errors=[error.detail, *error.advice]
        )
        await asyncio.to_thread(self._state.drop_digests, self.record.id)
        self._end(status, "cancelled" if cancelled else "failed", error.detail)

    # --- the record ----------------------------------------------------------------------------------------------

    def _go_on(self, phase: str, words: str) -> None:
        self._raise_if_stopped()
        self._update(phase=phase, current_operation=words)
        self._state.save_job(self.record, durable=True)

    def _end(self, status: SourceStatus, phase: str, words: str) -> None:
        self._update(status=status, phase=phase, current_operation=words)
        self._state.save_job(self.record, durable=True)

    def _update(self, **changes: object) -> None:
        progress: Progress = msgspec.structs.replace(self.record.progress, **changes)
        disks = progress.disk_progresses
        self._meter.total = sum(disk.total_bytes for disk in disks)
        progress = summed(progress, disks, self._meter, now(), sequence=self._state.next_sequence())
        self.record = msgspec.structs.replace(self.record, progress=progress)
        self._state.note_job(self.record)
        self._changed()

    def _look(self) -> None:
        """Take the counters of all disks, and write them down about once a second."""
        moment = time.monotonic()
        disks = []
        for disk in self.record.progress.disk_progresses:
            counters, meter = self._copies[disk.disk_id].counters(), self._meters[disk.disk_id]
            meter.sample(moment, counters.done)
            disks.append(disk_now(disk, counters, 0.0 if disk.disk_id in self._ended else meter.rate))
        self._meter.sample(moment, sum(disk.bytes_transferred for disk in disks))
        if disks != self.record.progress.disk_progresses:
            self._update(disk_progresses=disks)
        if moment - self._written >= WRITE_INTERVAL:
            self._written = moment
            self._state.save_job(self.record, durable=False)

    def _end_disk(self, name: str, error: BaseException | None) -> None:
        self._ended.add(name)
        if isinstance(error, Exception):
            words = as_agent_error(error).detail
            self._update(
                disk_progresses=[
                    msgspec.structs.replace(disk, error=words, status=SourceStatus.FAILED)
                    if disk.disk_id == name
                    else disk
                    for disk in self.record.progress.disk_progresses
                ]
            )
        self._share_rate()

    def _share_rate(self) -> None:
        """The job's limit, in equal parts over the disks that are still being copied."""
        rate = self.record.progress.rate_limit
        running = [copy for name, copy in self._copies.items() if name not in self._ended]
        for copy in running:
            copy.limit(None if rate is None else max(1, rate // len(running)))

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped


def _failure(task: asyncio.Future[Digests]) -> Exception | None:
    error = task.exception()
    return error if isinstance(error, Exception) else None


def _unfinished(disk: DiskProgress, status: SourceStatus) -> DiskProgress:
    if disk.status is SourceStatus.FAILED:
        return disk
    return msgspec.structs.replace(disk, status=status, throughput_mbps=0.0, proof=None)
