"""Who may write: the rule of epochs over every combination of its facts."""

from __future__ import annotations

import itertools

import pytest

from omavol.schema.volumes import SessionState
from omavol.volumes.fence import LIVE, RULES, Fence, FenceFacts, decide

S = SessionState
EVERY = [
    FenceFacts(epoch=epoch, highest=5, latest=latest, same_job=same, job_seen=seen)
    for epoch, latest, same, seen in itertools.product((4, 5, 6), (None, *SessionState), (False, True), (False, True))
]


@pytest.mark.parametrize("facts", EVERY, ids=str)
def test_the_table_is_total_and_keeps_its_laws(facts):
    decision = decide(facts).decision
    if facts.latest is None:
        assert decision is Fence.OPEN
        return
    if facts.epoch < facts.highest:
        assert decision is Fence.REFUSE_STALE
    if decision is Fence.OPEN:
        assert not facts.live
    if decision is Fence.TAKE_OVER:
        assert facts.live
        assert facts.epoch > facts.highest
    if decision is Fence.SAME:
        assert facts.same_job
        assert facts.epoch == facts.highest
    if facts.epoch > facts.highest:
        assert decision in (Fence.OPEN, Fence.TAKE_OVER, Fence.REFUSE_PROVING)


@pytest.mark.parametrize(
    ("epoch", "latest", "same_job", "job_seen", "wanted"),
    [
        (5, S.OPEN, True, False, Fence.SAME),
        (5, S.PROVING, True, False, Fence.SAME),
        (5, S.PROVED, True, False, Fence.SAME),
        (5, S.ENDED, True, False, Fence.OPEN),
        (5, S.OPEN, False, False, Fence.REFUSE_HELD),
        (5, S.ENDED, False, False, Fence.OPEN),
        (5, S.PROVED, False, True, Fence.REFUSE_STALE),
        (6, S.OPEN, True, False, Fence.TAKE_OVER),
        (6, S.OPEN, False, False, Fence.TAKE_OVER),
        (6, S.PROVING, False, False, Fence.REFUSE_PROVING),
        (6, S.ENDED, False, True, Fence.OPEN),
    ],
)
def test_the_cases_a_reader_asks_for(epoch, latest, same_job, job_seen, wanted):
    assert decide(FenceFacts(epoch, 5, latest, same_job, job_seen)).decision is wanted


def test_every_rule_decides_something():
    used = {id(decide(facts)) for facts in EVERY}
    assert used == {id(rule) for rule in RULES}
    assert frozenset({S.OPEN, S.PROVING}) == LIVE
