"""One follower a source carries all its jobs: one request asks for all, one transaction a second writes what changed.

A young job is asked about more often than an old one. Time without an answer is counted as time spent asking, on the
monotonic clock, and kept with the job: a control plane that was down meanwhile has asked nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.rules.recovery import Action, Answer, Decision, JobFacts, decide
from omactl.settings import Timing
from omactl.sources.normalise import Report, of_progress
from omactl.store import jobs
from omactl.store.engine import Database
from omactl.store.jobs import ProgressWrite
from omactl.store.rows import Hold
from omactl.store.schema import jobs as jobs_table
from omactl.work.peers import Peers
from omactl.work.progress import progress_write
from omavol.client import ProblemError, Unreachable

__all__ = ["Follower", "Followers", "Outcome"]

log = structlog.get_logger(__name__)

_STAY = (Action.FOLLOW, Action.WAIT)
SOON = 0.1  # seconds until a source is asked again about a job that was just handed over
PATIENT = 8  # a job is asked about again after an eighth of the time that it has run
WHOLE_LISTING_EVERY = 20  # rounds: a job that the source has forgotten shows only in a whole listing


@dataclass(frozen=True)
class Outcome:
    """Why a job is no longer followed, and the last that its source said of it."""

    decision: Decision
    report: Report
    unanswered: float = 0.0


@dataclass
class _Followed:
    hold: Hold
    facts: JobFacts
    outcome: asyncio.Future[Outcome]
    report: Report = field(default_factory=lambda: Report(Answer.NOT_ASKED))
    written: Report | None = None
    asked: bool = False
    since: float = field(default_factory=time.monotonic)


class Followers:
    """The followers by source; one is made when its first job comes and goes with its last."""

    def __init__(self, database: Database, peers: Peers, timing: Timing) -> None:
        self._make: Callable[[str], Follower] = lambda name: Follower(name, database, peers, timing)
        self._followers: dict[str, Follower] = {}

    async def watch(self, source: str, hold: Hold, facts: JobFacts) -> Outcome:
        """Follow the job until something is to be done about it."""
        follower = self._followers.setdefault(source, self._make(source))
        return await follower.watch(hold, facts)

    def cancel(self, job_id: str) -> None:
        """A person wants the job to end: its follower decides with that at once."""
        for follower in self._followers.values():
            follower.cancel(job_id)

    @property
    def followed(self) -> dict[str, float]:
        """Of each followed job, seconds since its source last answered."""
        return {job: age for follower in self._followers.values() for job, age in follower.followed.items()}


class Follower:
    """Asks one source about its jobs. All methods are for the one event loop; the loop task lives while jobs do."""

    def __init__(self, source: str, database: Database, peers: Peers, timing: Timing) -> None:
        self.source = source
        self._database, self._peers, self._timing = database, peers, timing
        self._jobs: dict[str, _Followed] = {}
        self._task: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._agent: str | None = None
        self._cursor = 0
        self._round = 0
        self._misses = 0
        self._answered = time.monotonic()
        self._wrote = 0.0

    async def watch(self, hold: Hold, facts: JobFacts) -> Outcome:
        followed = _Followed(hold, facts, asyncio.get_running_loop().create_future())
        self._jobs[hold.job_id] = followed
        self._nudged.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"follower of {self.source}")
        try:
            return await followed.outcome
        finally:
            if self._jobs.get(hold.job_id) is followed:
                del self._jobs[hold.job_id]

    def cancel(self, job_id: str) -> None:
        if job_id in self._jobs:
            self._jobs[job_id].facts = replace(self._jobs[job_id].facts, cancel_requested=True)
            self._nudged.set()

    @property
    def followed(self) -> dict[str, float]:
        age = time.monotonic() - self._answered
        return dict.fromkeys(self._jobs, age)

    async def _run(self) -> None:
        while self._jobs:
            self._nudged.clear()
            await self._ask()
            if time.monotonic() - self._wrote >= self._timing.write:
                await self._write()
            await self._pause()

    async def _pause(self) -> None:
        """Until the next round, or until a job comes or is to be cancelled; longer the longer no answer comes."""
        started = time.monotonic()
        wait = min(self._timing.follow * 2 ** min(self._misses, 6), self._timing.follow_limit)
        if not self._misses and self._jobs:
            youngest = started - max(each.since for each in self._jobs.values())
            wait = min(wait, max(SOON, youngest / PATIENT))
        try:
            async with asyncio.timeout(wait):
                await self._nudged.wait()
        except TimeoutError:
            pass
        if self._misses:
            self._count_silence(min(time.monotonic() - started, wait))

    # --- asking ---

    async def _ask(self) -> None:
        started = time.monotonic()
        try:
            client = await self._peers.source(self.source)
            whole = self._round % WHOLE_LISTING_EVERY == 0 or any(not each.asked for each in self._jobs.values())
            asked = list(self._jobs.values())
            listed = await client.replications(0 if whole else self._cursor)
            if not whole and (listed.agent_id != self._agent or listed.cursor < self._cursor):
                listed, whole = await client.replications(0), True
        except (ProblemError, Failure) as error:
            self._missed(error, time.monotonic() - started)
            return
        self._agent, self._cursor = listed.agent_id, listed.cursor
        self._round += 1
        self._misses = 0
        self._answered = time.monotonic()
        reports = {progress.job_id: of_progress(progress) for progress in listed.replications}
        for followed in asked:
            report = reports.get(followed.hold.job_id)
            if report is None and whole:
                report = Report(Answer.NOT_FOUND)
            if report is not None:
                followed.report, followed.asked = report, True
            followed.facts = replace(followed.facts, unanswered=0.0)
            self._judge(followed, followed.report.answer)

    def _missed(self, error: Exception, spent: float) -> None:
        """No answer: everybody waits, and the time of asking is counted."""
        answer = Answer.UNREACHABLE if isinstance(error, Unreachable) else Answer.ERROR
        if not self._misses:
            log.warning("source does not answer", source=self.source, cause=str(error))
        self._misses += 1
        self._count_silence(spent)
        for followed in list(self._jobs.values()):
            self._judge(followed, answer)

    def _count_silence(self, seconds: float) -> None:
        for followed in self._jobs.values():
            followed.facts = replace(followed.facts, unanswered=followed.facts.unanswered + seconds)

    def _judge(self, followed: _Followed, answer: Answer) -> None:
        decision = decide(followed.facts, answer)
        if decision.action not in _STAY and decision.action is not Action.ASK and not followed.outcome.done():
            followed.outcome.set_result(Outcome(decision, followed.report, followed.facts.unanswered))

    # --- writing ---

    async def _write(self) -> None:
        """Write what changed since the last time; jobs that are no longer ours are let go."""
        self._wrote = time.monotonic()
        changed = [each for each in self._jobs.values() if self._misses or each.report != each.written]
        writes = [progress_write(each.hold, each.report, each.facts.unanswered) for each in changed]
        watched = list(self._jobs)
        try:
            lost, cancelled = await self._database.write(_write_and_look, writes, watched)
        except sa.exc.SQLAlchemyError as error:
            log.error("progress was not written; tried again", source=self.source, cause=str(error))
            return
        for each in changed:
            each.written = each.report
        for job_id in cancelled:
            self.cancel(job_id)
        for job_id in lost & self._jobs.keys():
            followed = self._jobs[job_id]
            if not followed.outcome.done():
                followed.outcome.set_exception(Failure("superseded", "progress was refused"))


async def _write_and_look(
    connection: AsyncConnection, writes: list[ProgressWrite], watched: list[str]
) -> tuple[set[str], list[str]]:
    """Write progress; the jobs that are no longer ours, and those that a person wants to end."""
    lost = await jobs.write_progress(connection, writes) if writes else set()
    wanted = sa.select(jobs_table.c.id).where(
        jobs_table.c.id.in_(watched), jobs_table.c.cancel_requested_at.is_not(None)
    )
    return lost, list((await connection.execute(wanted)).scalars())
