"""The sums and rates of a job are those of its disks, whatever the order in which they are counted."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from omavol.agent.errors import KINDS, AgentError
from omavol.agent.report import Counters, disk_before_freeze, disk_frozen, disk_now, summed
from omavol.copy.progress import Progress as Meter
from omavol.schema.common import now
from omavol.schema.source import Progress, SourceStatus, Throughput, Timing, VmInfo
from omavol.source.machine import FrozenDisk

START = now()
BEFORE = Progress(
    job_id="j",
    status=SourceStatus.RUNNING,
    sync_type="full",
    phase="transferring",
    percentage=0.0,
    current_operation="",
    bytes_transferred=0,
    total_bytes=0,
    throughput=Throughput(current_mbps=0, average_mbps=0, peak_mbps=0, last_update=START),
    timing=Timing(start_time=START, last_update=START, elapsed_ms=0, eta_seconds=None),
    vm_info=VmInfo(name="web", path="/web", disk_size_bytes=0, cbt_enabled=True),
    disk_progresses=[],
)
COUNTERS = st.integers(0, 1 << 40).flatmap(
    lambda planned: st.integers(0, planned).map(lambda done: Counters(planned=planned, done=done))
)


def disk(number, counters, context=None):
    frozen = FrozenDisk(f"disk-{number}", "nbd://x/", 1 << 40, context, None, "why")
    return disk_now(disk_frozen(disk_before_freeze(frozen.disk_id, "", 0), frozen), counters, 0.0)


def total(disks):
    meter = Meter(sum(one.total_bytes for one in disks))
    return summed(BEFORE, disks, meter, START + timedelta(seconds=3), sequence=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(COUNTERS, min_size=1, max_size=5))
def test_a_job_is_the_sum_of_its_disks(counters):
    progress = total([disk(number, one) for number, one in enumerate(counters)])
    assert progress.bytes_transferred == sum(one.done for one in counters)
    assert progress.total_bytes == sum(one.planned for one in counters)
    assert 0 <= progress.percentage <= 100
    assert (progress.timing.elapsed_ms, progress.sequence) == (3000, 5)


def test_a_job_is_incremental_only_if_all_its_disks_are():
    one, other = disk(0, Counters(), "qemu:dirty-bitmap:x"), disk(1, Counters())
    assert total([one]).sync_type == "incremental"
    assert total([one, other]).sync_type == "full"


def test_every_code_has_a_status_a_title_and_advice():
    for code, kind in KINDS.items():
        problem = AgentError(code, "what happened").problem("/api/v1/x")
        assert 400 <= problem.status < 600 and problem.title and problem.advice, code
        assert (problem.error, problem.message, problem.success) == ("what happened", "what happened", False)
        assert kind.title[0].isupper()
