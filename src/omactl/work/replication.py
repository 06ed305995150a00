"""The flow of a replication: its declared steps from wherever they were left, and a true end whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure, classify
from omactl.rules.recovery import Action, JobFacts, Proof
from omactl.rules.steps import REPLICATION, Step, first_unfinished, handed_over
from omactl.rules.transitions import JobStatus, StepStatus
from omactl.settings import Settings
from omactl.store import closing, contexts, jobs, queries
from omactl.store.closing import Closing
from omactl.store.engine import Database
from omactl.store.rows import Hold, Job, JobDisk
from omactl.work.follow import Followers, Outcome
from omactl.work.parting import Parting
from omactl.work.peers import SOURCE_CODES, Peers, patiently
from omactl.work.progress import disk_after, progress_write
from omactl.work.proof import Proving
from omactl.work.setup import Plan, SetUp
from omavol import failpoint

__all__ = ["Replication", "facts_of"]

log = structlog.get_logger(__name__)

Work = Callable[[Plan], Awaitable[tuple[JobDisk, ...]]]

# A person's wish to end a job is noticed by the follower while it copies; what is proved is committed first.
_DEAF = frozenset({"replicating", "committing"})

# Reached once the step's work is done and before that is written down.
_PLACES = {
    "provisioning": "omactl.volumes-ready",
    "configuring": "omactl.sessions-opened",
    "handing-over": "omactl.handed-over",
    "proving": "omactl.proved",
    "committing": "omactl.before-close",
}


def facts_of(job: Job, recorded: dict[str, StepStatus], lost_after: float) -> JobFacts:
    """What the decision table needs to know of a job, from its rows."""
    proved = recorded.get("proving") is StepStatus.COMPLETED
    return JobFacts(
        status=job.status,
        handed_over=handed_over(recorded),
        proof=Proof.RECORDED if proved else Proof.OUTSTANDING,
        cancel_requested=job.cancel_requested_at is not None,
        unanswered=job.unanswered_seconds,
        lost_after=lost_after,
    )


class Replication:
    """Runs one replication under its hold. One task a job; everything it leaves is in the database."""

    def __init__(self, database: Database, peers: Peers, followers: Followers, settings: Settings) -> None:
        self._database, self._followers, self._settings = database, followers, settings
        self._setup = SetUp(database, peers, settings)
        self._proof = Proving(peers, settings)
        self._parting = Parting(peers, settings.timing.parting)
        self._works: dict[str, Work] = {
            "validation": self._setup.validation,
            "provisioning": self._setup.provisioning,
            "attaching": self._setup.attaching,
            "configuring": self._setup.configuring,
            "handing-over": self._setup.handing_over,
            "replicating": self._replicating,
            "proving": self._proof.proving,
            "committing": self._proof.committing,
        }
        assert self._works.keys() == {step.name for step in REPLICATION}

    async def run(self, hold: Hold, cancel: asyncio.Event) -> None:
        """Do what is left of the job and close it. Returns without closing only when another owner took it over."""
        try:
            plan = await self._advance(hold, cancel)
        except Failure as failure:
            if failure.code == "superseded":
                log.warning("the job has another owner now", job=hold.job_id, cause=failure.technical)
                return
            await self._give_up(hold, failure)
        except Exception as error:  # the outermost edge of the job's task: whatever it is, the job must end
            log.exception("a job failed of something unforeseen", job=hold.job_id)
            await self._give_up(hold, Failure("internal", f"{type(error).__name__}: {error}"))
        else:
            await self._close(Closing(hold, JobStatus.COMPLETED, disks=await self._parting.disk_states(plan)))

    async def _advance(self, hold: Hold, cancel: asyncio.Event) -> Plan:
        """Do every step that is not done; the end of one and the beginning of the next are written together."""
        begun: Step | None = None
        while True:
            plan, recorded = await self._database.read(_load, hold)
            step = first_unfinished(recorded)
            if step is None:
                return plan
            if step is not begun:
                if recorded[step.name] is StepStatus.RUNNING and step.name == "handing-over":
                    step = await self._sessions_first(plan, hold, step)
                await self._database.write(jobs.move, hold, step.name, step.status)
            disks = await self._interruptibly(step, plan, cancel)
            if step.name in _PLACES:
                failpoint.reach(_PLACES[step.name])
            begun = first_unfinished(recorded | {step.name: StepStatus.COMPLETED})
            await self._database.write(jobs.finish_step, hold, step.name, step.setup, disks, begun)

    async def _sessions_first(self, plan: Plan, hold: Hold, step: Step) -> Step:
        """Cut off while handing over: where the sessions ended meanwhile, they are opened anew before."""
        if await patiently(partial(self._setup.sessions_stand, plan), self._settings.timing.patience):
            return step
        again = ("configuring", "handing-over")
        await self._database.write(jobs.reset_steps, hold, again)
        return next(each for each in REPLICATION if each.name == again[0])

    async def _interruptibly(self, step: Step, plan: Plan, cancel: asyncio.Event) -> tuple[JobDisk, ...]:
        work = asyncio.ensure_future(self._works[step.name](plan))
        if step.name in _DEAF:
            return await work
        wish = asyncio.ensure_future(cancel.wait())
        try:
            await asyncio.wait((work, wish), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return await work
            raise Failure("cancelled")
        finally:
            wish.cancel()
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError, Failure):
                    await work

    async def _replicating(self, plan: Plan) -> tuple[JobDisk, ...]:
        """Follow the job at its source until that is done; what it claims of each disk is kept for the proof."""
        recorded = {step.name: step.status for step in await self._database.read(queries.steps_of, plan.job.id)}
        facts = facts_of(plan.job, recorded, self._settings.timing.lost_after)
        outcome = await self._followers.watch(plan.source, plan.job.hold, facts)
        last = progress_write(plan.job.hold, outcome.report, outcome.unanswered)
        await self._database.write(jobs.write_progress, [last])
        if outcome.decision.action in (Action.PROVE, Action.COMPLETE):
            return tuple(disk_after(disk, outcome.report) for disk in plan.disks)
        raise _failure(outcome, plan, facts)

    # --- ends ---

    async def _give_up(self, hold: Hold, failure: Failure) -> None:
        """End what was begun elsewhere, keep the volumes, and close the job with what is true of them."""
        log.warning("the job ends", job=hold.job_id, code=failure.code, cause=failure.technical)
        try:
            plan, recorded = await self._database.read(_load, hold)
        except Failure:
            return
        began = recorded.get("handing-over") in (StepStatus.RUNNING, StepStatus.COMPLETED)
        await self._parting.end(plan, at_source=began)
        status = JobStatus.CANCELLED if failure.code == "cancelled" else JobStatus.FAILED
        states = await self._parting.disk_states(plan)
        if failure.code == "digest_mismatch":
            states = tuple(replace(state, forget=True) for state in states)
        await self._close(
            Closing(hold, status, failure.code, dict(failure.facts), failure.technical or None, disks=states)
        )

    async def _close(self, ending: Closing) -> None:
        closed = await self._database.write(closing.close_jobs, [ending])
        log.info(
            "job closed", job=ending.hold.job_id, status=ending.status.value, code=ending.code, written=bool(closed)
        )


def _failure(outcome: Outcome, plan: Plan, facts: JobFacts) -> Failure:
    """What a decision that ends the job means to a person."""
    if outcome.decision.action is Action.CANCEL:
        return Failure("cancelled")
    code = outcome.decision.code or "unknown"
    text = outcome.report.error or outcome.decision.reason
    if code == "source_failed":
        code = SOURCE_CODES.get(outcome.report.error_code or "") or classify(text, code)
    if outcome.report.error_code:
        text = f"{outcome.report.error_code}: {text}"
    disks = ", ".join(disk.label for disk in plan.disks)
    return Failure(code, text, minutes=round(facts.lost_after / 60), disks=disks, source=plan.source)


async def _load(connection: AsyncConnection, hold: Hold) -> tuple[Plan, dict[str, StepStatus]]:
    """The job with its machine, disks and steps; Failure `superseded` when it is no longer ours."""
    job = await jobs.get(connection, hold.job_id)
    if job.epoch != hold.epoch or not job.live:
        raise Failure("superseded", f"epoch {hold.epoch} of {hold.job_id} is void")
    steps = await queries.steps_of(connection, job.id)
    context = await contexts.find(connection, job.context_id)
    disks = await queries.disks_of(connection, job.id)
    return Plan(job, context, tuple(disks)), {step.name: step.status for step in steps}
