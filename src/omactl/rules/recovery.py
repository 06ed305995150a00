"""What becomes of a live job: one table from (job, answer of its source) to a decision (BEHAVIOUR.md section 4).

Recovery at start, the followers and the health monitor all call `decide`; there is no other judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from omactl.rules.transitions import FINAL, JobStatus

__all__ = ["LOST_AFTER", "RULES", "Action", "Answer", "Decision", "JobFacts", "Proof", "Rule", "decide"]

LOST_AFTER = 30 * 60.0
"""Seconds of asking without an answer after which a source counts as lost."""


class Answer(StrEnum):
    """What a source says of a job, whatever its dialect (omactl.sources.normalise)."""

    NOT_ASKED = "not_asked"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"
    ERROR = "error"
    UNKNOWN = "unknown"


class Proof(StrEnum):
    """What the volumes say: nothing yet but it can still be had, it was refused, or one point recorded by all."""

    OUTSTANDING = "outstanding"
    REFUSED = "refused"
    RECORDED = "recorded"


class Action(StrEnum):
    """What to do. `WAIT` and `FOLLOW` leave the job as it is; the rest move it."""

    NOTHING = "nothing"
    RESUME = "resume"
    ASK = "ask"
    FOLLOW = "follow"
    WAIT = "wait"
    PROVE = "prove"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


@dataclass(frozen=True)
class JobFacts:
    """All that the decision may rest on. `unanswered` is seconds spent asking in vain, on a monotonic clock."""

    status: JobStatus
    handed_over: bool
    proof: Proof = Proof.OUTSTANDING
    cancel_requested: bool = False
    unanswered: float = 0.0
    lost_after: float = LOST_AFTER


@dataclass(frozen=True)
class Decision:
    """`code` names the failure in the message catalogue when the action is FAIL."""

    action: Action
    reason: str
    code: str | None = None


@dataclass(frozen=True)
class Rule:
    """Matches when the answer is one of `answers` (empty: any) and the condition holds."""

    answers: frozenset[Answer]
    condition: Callable[[JobFacts], bool]
    decision: Decision


def _rule(
    answers: tuple[Answer, ...], condition: Callable[[JobFacts], bool], action: Action, reason: str, code: str = ""
) -> Rule:
    return Rule(frozenset(answers), condition, Decision(action, reason, code or None))


def _always(_: JobFacts) -> bool:
    return True


def _final(job: JobFacts) -> bool:
    return job.status in FINAL


def _setting_up(job: JobFacts) -> bool:
    return not job.handed_over


def _proved(job: JobFacts) -> bool:
    return job.proof is Proof.RECORDED


def _provable(job: JobFacts) -> bool:
    return job.proof is Proof.OUTSTANDING


def _to_be_cancelled(job: JobFacts) -> bool:
    return job.cancel_requested and job.proof is not Proof.RECORDED


def _lost(job: JobFacts) -> bool:
    return job.unanswered > job.lost_after


def _proved_and_lost(job: JobFacts) -> bool:
    return _proved(job) and _lost(job)


ANY: tuple[Answer, ...] = ()
SILENT = (Answer.UNREACHABLE, Answer.ERROR)

RULES: tuple[Rule, ...] = (
    _rule(ANY, _final, Action.NOTHING, "it has ended"),
    _rule(ANY, _to_be_cancelled, Action.CANCEL, "a person asked for it"),
    _rule(ANY, _setting_up, Action.RESUME, "never handed over: it goes on from its recorded step"),
    _rule((Answer.NOT_ASKED,), _always, Action.ASK, "handed over: the source is asked first"),
    _rule((Answer.RUNNING,), _always, Action.FOLLOW, "the source is copying"),
    _rule((Answer.COMPLETED,), _proved, Action.COMPLETE, "every disk is proved"),
    _rule((Answer.COMPLETED,), _provable, Action.PROVE, "the source is done, its digests are to be compared"),
    _rule((Answer.COMPLETED,), _always, Action.FAIL, "the source says done, but there is no proof", "unproved"),
    _rule((Answer.FAILED,), _proved, Action.COMPLETE, "every disk was proved before the source failed"),
    _rule((Answer.FAILED,), _always, Action.FAIL, "the source says that it failed", "source_failed"),
    _rule((Answer.CANCELLED,), _proved, Action.COMPLETE, "every disk was proved before the source let go of it"),
    _rule((Answer.CANCELLED,), _always, Action.FAIL, "it was cancelled at the source", "source_cancelled"),
    _rule((Answer.NOT_FOUND,), _proved, Action.COMPLETE, "it was proved before the source forgot it"),
    _rule((Answer.NOT_FOUND,), _always, Action.FAIL, "the source does not know it", "job_lost"),
    _rule(SILENT, _proved_and_lost, Action.COMPLETE, "every disk is proved; the source is gone"),
    _rule(SILENT, _lost, Action.FAIL, "asked for too long without an answer", "source_unreachable_timeout"),
    _rule(SILENT, _always, Action.WAIT, "no answer yet: asked again"),
    _rule((Answer.UNKNOWN,), _always, Action.WAIT, "an answer without a meaning: left unchanged"),
)


def decide(job: JobFacts, answer: Answer) -> Decision:
    """The first rule that matches; the table is total (a test walks every status with every answer)."""
    return next(rule.decision for rule in RULES if (not rule.answers or answer in rule.answers) and rule.condition(job))
