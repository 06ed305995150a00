"""Legal moves of a job, and a machine's status from what is true."""

from __future__ import annotations

import pytest

from omactl.rules.context import DiskFacts, Holds, Verdict, after_job
from omactl.rules.steps import REPLICATION, first_unfinished, handed_over
from omactl.rules.transitions import FINAL, LIVE, MOVES, ContextStatus, JobStatus, StepStatus, is_legal


def test_every_status_says_where_it_may_go():
    assert MOVES.keys() == set(JobStatus)


def test_what_has_ended_stays_ended():
    assert all(not MOVES[status] for status in FINAL)


def test_every_live_job_may_fail_or_be_cancelled():
    for status in LIVE:
        assert is_legal(status, JobStatus.FAILED) and is_legal(status, JobStatus.CANCELLED)


def test_only_a_finalizing_job_may_complete():
    assert [status for status in JobStatus if is_legal(status, JobStatus.COMPLETED)] == [JobStatus.FINALIZING]


def test_steps_follow_each_other_legally():
    before = JobStatus.PENDING
    for step in REPLICATION:
        assert is_legal(before, step.status), step.name
        before = step.status


def test_a_job_goes_on_from_its_first_unfinished_step():
    done = dict.fromkeys(("validation", "provisioning"), StepStatus.COMPLETED)
    assert first_unfinished(done | {"attaching": StepStatus.RUNNING}).name == "attaching"
    assert first_unfinished({step.name: StepStatus.COMPLETED for step in REPLICATION}) is None
    assert not handed_over(done)
    assert handed_over({"handing-over": StepStatus.COMPLETED})


NOTHING, AT_1, AT_2 = (("a", Holds.NOTHING),), (("a", Holds.POINT, "1"),), (("b", Holds.POINT, "2"),)
TORN = (("b", Holds.TORN),)


@pytest.mark.parametrize(
    ("disks", "status", "named"),
    [
        ((), ContextStatus.DISCOVERED, ()),
        (NOTHING, ContextStatus.DISCOVERED, ()),
        (AT_1, ContextStatus.READY_FOR_FAILOVER, ()),
        ((*AT_1, ("b", Holds.POINT, "1")), ContextStatus.READY_FOR_FAILOVER, ()),
        (AT_1 + AT_2, ContextStatus.FAILED, ("a",)),
        (AT_1 + TORN, ContextStatus.FAILED, ("b",)),
        (NOTHING + TORN, ContextStatus.FAILED, ("b",)),
        (NOTHING + AT_2, ContextStatus.FAILED, ("a",)),
    ],
)
def test_a_machine_is_ready_only_with_all_disks_at_one_point(disks, status, named):
    for before in (ContextStatus.REPLICATING, ContextStatus.READY_FOR_FAILOVER):
        assert after_job(before, [DiskFacts(*disk) for disk in disks]) == Verdict(status, named)


@pytest.mark.parametrize("before", [ContextStatus.FAILED_OVER_TEST, ContextStatus.FAILED_OVER_LIVE])
def test_a_machine_that_is_failed_over_stays_so(before):
    assert after_job(before, [DiskFacts("a", Holds.TORN)]) == Verdict(before)
