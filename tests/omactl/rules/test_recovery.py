"""The table of BEHAVIOUR.md section 4, held against the text and walked whole."""

from __future__ import annotations

from itertools import product

import pytest

from omactl.rules.catalogue import CATALOGUE
from omactl.rules.recovery import LOST_AFTER, RULES, Action, Answer, JobFacts, Proof, decide
from omactl.rules.transitions import FINAL, LIVE, JobStatus


def copying(**facts):
    return JobFacts(**{"status": JobStatus.REPLICATING, "handed_over": True} | facts)


# The rows of the text, in its order.
TEXT = [
    ("in set-up it is resumed, whatever the source says", JobFacts(JobStatus.ATTACHING, False), Answer.NOT_FOUND,
     Action.RESUME, None),
    ("running is followed", copying(), Answer.RUNNING, Action.FOLLOW, None),
    ("completed with proof", copying(proof=Proof.RECORDED), Answer.COMPLETED, Action.COMPLETE, None),
    ("completed, proof still to be had", copying(), Answer.COMPLETED, Action.PROVE, None),
    ("completed, proof lacking", copying(proof=Proof.REFUSED), Answer.COMPLETED, Action.FAIL, "unproved"),
    ("failed", copying(), Answer.FAILED, Action.FAIL, "source_failed"),
    ("not found, proved", copying(proof=Proof.RECORDED), Answer.NOT_FOUND, Action.COMPLETE, None),
    ("not found", copying(), Answer.NOT_FOUND, Action.FAIL, "job_lost"),
    ("silent too long", copying(unanswered=LOST_AFTER + 1), Answer.UNREACHABLE, Action.FAIL,
     "source_unreachable_timeout"),
    ("silent", copying(unanswered=LOST_AFTER), Answer.UNREACHABLE, Action.WAIT, None),
    ("an error too long", copying(unanswered=LOST_AFTER + 1), Answer.ERROR, Action.FAIL, "source_unreachable_timeout"),
    ("an error", copying(), Answer.ERROR, Action.WAIT, None),
    ("an answer without meaning", copying(unanswered=LOST_AFTER + 1), Answer.UNKNOWN, Action.WAIT, None),
    ("a person cancels", copying(cancel_requested=True), Answer.RUNNING, Action.CANCEL, None),
    ("a person cancels what is proved", copying(cancel_requested=True, proof=Proof.RECORDED), Answer.COMPLETED,
     Action.COMPLETE, None),
]  # fmt: skip


@pytest.mark.parametrize(("job", "answer", "action", "code"), [row[1:] for row in TEXT], ids=[row[0] for row in TEXT])
def test_the_decision_is_that_of_the_text(job, answer, action, code):
    decision = decide(job, answer)
    assert (decision.action, decision.code) == (action, code)


def all_facts():
    for status, handed_over, proof, cancel, unanswered in product(
        JobStatus, (False, True), Proof, (False, True), (0.0, LOST_AFTER * 2)
    ):
        yield JobFacts(status, handed_over, proof, cancel, unanswered)


def test_every_status_with_every_answer_has_a_decision():
    used = set()
    for job, answer in product(all_facts(), Answer):
        decision = decide(job, answer)
        used.add(decision)
        assert (decision.action is Action.NOTHING) == (job.status in FINAL)
        assert (decision.action is Action.FAIL) == (decision.code is not None)
        if decision.action is Action.COMPLETE:
            assert job.proof is Proof.RECORDED, "nothing completes without proof"
        if decision.action is Action.FAIL:
            assert job.handed_over, "what was never handed over is resumed, not failed"
            assert job.proof is not Proof.RECORDED, "what is proved does not fail"
    assert used == {rule.decision for rule in RULES}, "every rule of the table can be reached"


def test_every_failure_of_the_table_has_words():
    assert {rule.decision.code for rule in RULES if rule.decision.code} <= CATALOGUE.keys()


def test_age_counts_time_of_asking_only():
    """A source that was not asked is never lost, however long the control plane was down."""
    for status in LIVE:
        job = JobFacts(status, True, unanswered=LOST_AFTER * 100)
        assert decide(job, Answer.NOT_ASKED).action is Action.ASK
