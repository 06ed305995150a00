"""The jobs of this agent: one a machine at a time, each known by its caller's id, through restarts too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from omavol import failpoint
from omavol.agent import admission
from omavol.agent.copying import Copier
from omavol.agent.errors import AgentError, as_agent_error
from omavol.agent.run import Run
from omavol.agent.state import JobRecord, State
from omavol.schema.common import now
from omavol.schema.source import Progress, Replicate, Replicating, Replications, SourceStatus
from omavol.source.errors import SourceError
from omavol.source.inventory import Inventory
from omavol.source.machine import Source

__all__ = ["Jobs"]

_STOPPED = "the agent was stopped while it copied"


class Jobs:
    """All of it lives in one event loop; what blocks goes to threads."""

    def __init__(self, state: State, source: Source, inventory: Inventory, copier: Copier) -> None:
        self._state = state
        self._source = source
        self._inventory = inventory
        self._copier = copier
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._admission = asyncio.Lock()
        self._deciding: dict[str, asyncio.Lock] = {}
        self._news = asyncio.Event()
        self.closing = False

    async def open(self) -> None:
        """After a start: end what an earlier process left unfinished. A point whose copy completed is kept."""
        for job in self._state.jobs():
            if not job.is_final:
                point = self._state.get(job.point_id or "")
                closed = admission.after_restart(job, point, now(), self._state.next_sequence())
                self._state.save_job(closed, durable=True)
        await asyncio.to_thread(self._source.recover)

    def stop(self) -> None:
        """Begin to end: waiting requests are answered, running jobs stop."""
        self.closing = True
        self._tell()
        for run in self._runs.values():
            run.stop(AgentError("agent_restarted", _STOPPED))

    async def close(self) -> None:
        """Stop every job and wait until each has recorded its end."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- starting ------------------------------------------------------------------------------------------------

    async def replicate(self, wanted: Replicate) -> Replicating:
        """Start a job, or answer for the one of this id. Raises AgentError."""
        wanted = msgspec.structs.replace(wanted, username="", password="")
        async with self._admission:
            if (known := self._state.job(wanted.job_id)) is not None:
                return admission.answer_for_known(known, wanted)
            admission.check(wanted)
            try:
                record = await self._admit(wanted)
            except SourceError as error:
                raise as_agent_error(error) from error
        return admission.replicating(record)

    async def _admit(self, wanted: Replicate) -> JobRecord:
        machine = await asyncio.to_thread(self._inventory.find, wanted.vm_paths[0])
        targets = admission.targets_of(machine, wanted)
        if (run := self._runs.get(machine.id)) is not None:
            holder = run.record.id
            raise AgentError("machine_busy", f"{machine.name} is being replicated by job {holder}", job_id=holder)
        facts = await asyncio.to_thread(self._source.facts, machine)
        record = admission.first_record(wanted, machine, facts, targets, now(), self._state.next_sequence())
        await asyncio.to_thread(self._state.save_job, record, durable=True)
        failpoint.reach("agent.job-recorded")
        run = Run(
            record,
            machine,
            targets,
            state=self._state,
            source=self._source,
            copier=self._copier,
            changed=self._tell,
        )
        self._start(run)
        return record

    def _start(self, run: Run) -> None:
        self._runs[run.machine.id] = run
        task = asyncio.create_task(self._drive(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.closing:
            run.stop(AgentError("agent_restarted", _STOPPED))

    async def _drive(self, run: Run) -> None:
        try:
            await run.run()
        finally:
            del self._runs[run.machine.id]
            self._tell()

    # --- looking -------------------------------------------------------------------------------------------------

    def progress(self, job_id: str) -> Progress:
        """Raises AgentError for an unknown job."""
        return self._record(job_id).progress

    def since(self, cursor: int) -> Replications:
        """Every job that changed after `cursor`; all of them for a cursor that this agent never gave."""
        newest = self._state.sequence
        after = cursor if cursor <= newest else 0
        changed = [job.progress for job in self._state.jobs() if job.progress.sequence > after]
        changed.sort(key=lambda progress: progress.sequence)
        return Replications(replications=changed, cursor=newest, agent_id=self._state.agent_id)

    async def news_since(self, cursor: int, wait: float) -> Replications:
        """Like `since`, but waits up to `wait` seconds for something to tell."""
        deadline = asyncio.get_running_loop().time() + wait
        while not (found := self.since(cursor)).replications and not self.closing:
            news = self._news
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            try:
                await asyncio.wait_for(news.wait(), remaining)
            except TimeoutError:
                break
        return found

    # --- deciding ------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        """End a running job; a finished one stays as it is."""
        record = self._record(job_id)
        if (run := self._run_of(record)) is not None:
            run.stop(AgentError("cancelled", "the replication was cancelled on request"))

    async def ended(self, job_id: str) -> None:
        """Wait until a job has recorded its end."""
        while self._run_of(self._record(job_id)) is not None:
            await self._news.wait()

    def set_rate(self, job_id: str, rate: int | None) -> None:
        """Limit a running job; a finished one has nothing to limit."""
        if rate is not None and rate < 1:
            raise AgentError("bad_request", f"rate_limit is bytes a second, at least 1: {rate}")
        if (run := self._run_of(self._record(job_id))) is not None:
            run.limit(rate)

    async def commit(self, job_id: str) -> None:
        """The destination proved the job's point: it is the base of the next pass."""
        async with self._deciding.setdefault(job_id, asyncio.Lock()):
            record = self._finished(job_id)
            if record.progress.committed:
                return
            await self._decide(record, self._source.commit)
            self._note_decision(job_id, committed=True, words=f"point {record.point_id} is the base of the next pass")

    async def abandon(self, job_id: str) -> None:
        """The destination does not hold the job's point: the base before it stays."""
        async with self._deciding.setdefault(job_id, asyncio.Lock()):
            if self._record(job_id).progress.status in (SourceStatus.FAILED, SourceStatus.CANCELLED):
                return
            record = self._finished(job_id)
            if record.progress.committed:
                raise AgentError(
                    "point_unknown", f"job {job_id} is committed: its point is the base now", job_id=job_id
                )
            await self._decide(record, self._source.abandon)
            self._note_decision(job_id, committed=False, words=f"point {record.point_id} was given up")

    async def _decide(self, record: JobRecord, decision: Callable[[str], None]) -> None:
        assert record.point_id is not None, "a completed job has a point"
        try:
            await asyncio.to_thread(decision, record.point_id)
        except SourceError as error:
            refused = as_agent_error(error)
            refused.job_id = record.id
            raise refused from error

    def _note_decision(self, job_id: str, *, committed: bool, words: str) -> None:
        record = self._record(job_id)
        progress = msgspec.structs.replace(
            record.progress,
            committed=committed,
            phase="committed" if committed else "abandoned",
            current_operation=words,
            sequence=self._state.next_sequence(),
        )
        self._state.save_job(msgspec.structs.replace(record, progress=progress), durable=True)
        self._state.drop_digests(job_id)
        self._tell()

    # --- inner ---------------------------------------------------------------------------------------------------

    def _record(self, job_id: str) -> JobRecord:
        record = self._state.job(job_id)
        if record is None:
            raise AgentError("job_unknown", f"there is no job {job_id}", job_id=job_id)
        return record

    def _finished(self, job_id: str) -> JobRecord:
        record = self._record(job_id)
        if record.progress.status is not SourceStatus.COMPLETED:
            raise AgentError("job_unfinished", f"job {job_id} is {record.progress.status}", job_id=job_id)
        return record

    def _run_of(self, record: JobRecord) -> Run | None:
        run = self._runs.get(record.machine_id)
        return run if run is not None and run.record.id == record.id else None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
