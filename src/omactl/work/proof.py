"""The steps after the copy: every disk proved at one point by the volume service, then committed at the source."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import structlog

from omactl.rules.messages import Failure
from omactl.rules.recovery import Action, Answer, JobFacts, Proof, decide
from omactl.rules.transitions import JobStatus
from omactl.settings import Settings
from omactl.store.rows import JobDisk
from omactl.work.peers import Peers, asking_source, asking_volumes, patiently
from omactl.work.setup import Plan
from omavol.client import ProblemError, SourceClient, Unreachable
from omavol.schema.volumes import ProofLevel, ProveSession, Session, SessionState

__all__ = ["Proving"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Proving:
    """Both steps may be done again: a proved session is left alone, committing twice is no error.

    A proof has no key: the service finds the one under way by its session and point, and a key would find one that has
    failed, for as long as it is asked.
    """

    peers: Peers
    settings: Settings

    async def proving(self, plan: Plan) -> tuple[JobDisk, ...]:
        """Prove every disk, all at once; fails naming those that could not be."""
        points = {disk.point for disk in plan.disks}
        if None in points:
            unclaimed = ", ".join(disk.label for disk in plan.disks if disk.point is None)
            raise Failure("unproved", "the source claims no point", disks=unclaimed)
        if len(points) > 1:
            raise Failure("points_differ", f"points {sorted(map(str, points))}")
        client = await self.peers.source(plan.source)
        proofs = [self._prove(plan, client, disk) for disk in plan.disks]
        results = await asyncio.gather(*proofs, return_exceptions=True)
        if any(isinstance(each, BaseException) for each in results):
            raise _worst(plan.disks, results)
        return tuple(each for each in results if isinstance(each, JobDisk))

    async def _prove(self, plan: Plan, client: SourceClient, disk: JobDisk) -> JobDisk:
        return await patiently(lambda: self._prove_once(plan, client, disk), self.settings.timing.patience)

    async def _prove_once(self, plan: Plan, client: SourceClient, disk: JobDisk) -> JobDisk:
        volumes, level = self.peers.volumes, self.settings.proof
        volume_id, session_id = disk.volume_id or "", disk.session_id or ""
        claim = ProveSession(point=disk.point or "", incarnation=disk.incarnation or "", level=level)
        async with asking_volumes(disk.label, "unproved"):
            session = await volumes.session(volume_id, session_id)
            if session.state is SessionState.ENDED:
                raise Failure("session_lost", session.ended_because or "ended", disk=disk.label)
            if session.state is SessionState.OPEN and level is ProofLevel.DIGEST:
                await self._carry_digests(plan, client, disk, session)
            if session.state is not SessionState.PROVED:
                operation = await volumes.prove(volume_id, session_id, claim)
                await volumes.wait(operation, self.settings.timing.prove)
        return replace(disk, proof=level.value)

    async def _carry_digests(self, plan: Plan, client: SourceClient, disk: JobDisk, session: Session) -> None:
        """Stream the disk's digests from the source to the volume service; they are never held here."""

        async def digests() -> AsyncIterator[bytes]:
            async with asking_source(plan.source, "unproved"):
                async for piece in client.digests(plan.job.id, disk.disk_id):
                    yield piece

        await self.peers.volumes.put_digests(session.volume_id, session.session_id, digests())

    async def committing(self, plan: Plan) -> tuple[JobDisk, ...]:
        """Make the proved point the source's base. Whatever it answers, the proof stands; silence is waited for."""
        facts = JobFacts(JobStatus.FINALIZING, True, Proof.RECORDED, lost_after=self.settings.timing.lost_after)
        client = await self.peers.source(plan.source)
        while True:
            asked = time.monotonic()
            answer = await self._commit(client, plan)
            if answer is None:
                return plan.disks
            decision = decide(facts, answer)
            if decision.action is Action.COMPLETE:
                log.warning("the source was not told of the proof", job=plan.job.id, because=decision.reason)
                return plan.disks
            await asyncio.sleep(self.settings.timing.follow)
            facts = replace(facts, unanswered=facts.unanswered + time.monotonic() - asked)

    async def _commit(self, client: SourceClient, plan: Plan) -> Answer | None:
        """None once committed; otherwise what the source's refusal or silence means."""
        try:
            await client.commit(plan.job.id)
        except Unreachable:
            return Answer.UNREACHABLE
        except ProblemError as error:
            log.warning("the source refused to commit", job=plan.job.id, code=error.code, cause=str(error))
            if error.problem.status in (502, 503, 504):
                return Answer.UNREACHABLE
            return Answer.NOT_FOUND if error.problem.status == 404 else Answer.FAILED
        return None


def _worst(disks: tuple[JobDisk, ...], results: list[JobDisk | BaseException]) -> Failure:
    """One failure for all disks: anything unforeseen first, a difference found before a proof not had."""
    failed = [each for each in results if isinstance(each, BaseException)]
    for error in failed:
        if not isinstance(error, Failure):
            raise error
    failures = [error for error in failed if isinstance(error, Failure)]
    for code in ("superseded", "digest_mismatch", "session_lost", "volumes_unreachable", "source_unreachable"):
        for failure in failures:
            if failure.code == code:
                return failure
    pairs = zip(disks, results, strict=True)
    named = ", ".join(disk.label for disk, result in pairs if not isinstance(result, JobDisk))
    return Failure("unproved", "; ".join(failure.technical for failure in failures), disks=named)
