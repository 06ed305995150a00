"""Live jobs that nobody works on: found at start and by the monitor, judged by the one table, and taken up again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.rules.recovery import Action, Answer, Decision, JobFacts, decide
from omactl.settings import Timing
from omactl.sources.normalise import of_progress
from omactl.store import contexts, queries
from omactl.store.engine import Database
from omactl.store.rows import Job
from omactl.work.dispatch import Dispatch
from omactl.work.peers import Peers
from omactl.work.replication import facts_of
from omavol.client import ProblemError, Unreachable
from omavol.schema.common import now

__all__ = ["Judged", "Recovery", "RecoveryState"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Judged:
    """One job, what its source said, and what was decided."""

    job_id: str
    machine: str
    status: str
    answer: Answer
    decision: Decision
    at: datetime


@dataclass
class RecoveryState:
    """`state` is `pending`, `recovering`, `completed` or `failed`; the last pass's decisions with their reasons."""

    state: str = "pending"
    started_at: datetime | None = None
    completed_at: datetime | None = None
    judged: list[Judged] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(each.decision.action.value for each in self.judged))


class Recovery:
    """Runs in the background: a source that answers slowly delays nobody."""

    def __init__(self, database: Database, peers: Peers, dispatch: Dispatch, timing: Timing) -> None:
        self._database, self._peers, self._dispatch, self._timing = database, peers, dispatch, timing
        self.state = RecoveryState()

    async def at_start(self) -> None:
        """Judge every live job once; says what came of it."""
        self.state = RecoveryState("recovering", started_at=now())
        try:
            await self._recover_all()
        except (sa.exc.SQLAlchemyError, OSError) as error:
            self.state.state = "failed"
            log.error("Job recovery failed; the monitor goes on with it", cause=str(error))
            return
        self.state.state, self.state.completed_at = "completed", now()
        log.info("Job recovery completed", total=len(self.state.judged), **self.state.counts)

    async def _recover_all(self) -> None:
        freed = await self._database.write(contexts.release_finished)
        if freed:
            log.warning("machines pointed at jobs that had ended", machines=freed)
        self.state.judged = await self.take_up(await self._dispatch.claimable())

    async def take_up(self, jobs: Sequence[Job]) -> list[Judged]:
        """Ask the sources, decide, and have every job that is not at its end worked on again.

        The flow of a job comes to the same decision, for it asks the same table: a job to be failed is failed there,
        with its sessions ended, and one whose source is silent goes on being asked.
        """
        known = [await self._database.read(_facts, job, self._timing.lost_after) for job in jobs]
        asked = {source for _, source, facts in known if source and facts.handed_over}
        answers = dict(zip(asked, await asyncio.gather(*(self._ask(source) for source in asked)), strict=True))
        judged = []
        for job, (machine, source, facts) in zip(jobs, known, strict=True):
            answer = Answer.NOT_ASKED
            if source in answers and facts.handed_over:
                answer = _answer_for(job, answers[source])
            decision = decide(facts, answer)
            judged.append(Judged(job.id, machine, job.status.value, answer, decision, now()))
            log.info(
                "job taken up", job=job.id, answer=answer.value, action=decision.action.value, reason=decision.reason
            )
            if decision.action is not Action.NOTHING:
                await self._dispatch.submit(job.id)
        return judged

    async def _ask(self, source: str) -> dict[str, Answer] | Answer:
        """What a source says of all its jobs, with one request; or why it said nothing."""
        try:
            client = await self._peers.source(source)
            listed = await client.replications(0)
        except Unreachable:
            return Answer.UNREACHABLE
        except (ProblemError, Failure):
            return Answer.ERROR
        return {progress.job_id: of_progress(progress).answer for progress in listed.replications}


def _answer_for(job: Job, told: dict[str, Answer] | Answer) -> Answer:
    return told if isinstance(told, Answer) else told.get(job.id, Answer.NOT_FOUND)


async def _facts(connection: AsyncConnection, job: Job, lost_after: float) -> tuple[str, str | None, JobFacts]:
    context = await contexts.find(connection, job.context_id)
    recorded = {step.name: step.status for step in await queries.steps_of(connection, job.id)}
    return context.vm_name, context.source, facts_of(job, recorded, lost_after)
