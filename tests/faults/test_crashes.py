"""SIGKILL of any process at any named place of a replication leaves a state from which the next one is right.

The places lie where a crash hurts most: between a side effect and its record, between a record and its answer. Each
test proves by the fail-point log that the process died where it was meant to.
"""

from __future__ import annotations

import signal

import pytest

PLACES = {
    "omavol serve": (
        "serve.export-added",
        "serve.write-received",
        "serve.write-done",
        "serve.before-flush",
        "serve.export-removing",
    ),
    "omavol daemon": (
        "daemon.create-recorded",
        "daemon.volume-created",
        "daemon.session-recorded",
        "daemon.export-added",
        "daemon.prove-verified",
    ),
    "omavol agent": (
        "agent.job-recorded",
        "agent.point-frozen",
        "copy.half-sent",
        "agent.copied",
        "agent.before-commit",
        "agent.after-commit",
    ),
    "omactl serve": (
        "omactl.job-created",
        "omactl.volumes-ready",
        "omactl.sessions-opened",
        "omactl.handed-over",
        "omactl.proved",
        "omactl.before-close",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("process", "place"), [(process, place) for process, places in PLACES.items() for place in places]
)
def test_the_next_replication_is_right_after_a_crash(stack, process, place):
    log = stack.start_armed(process, place)
    stack.manage()
    first = stack.begin()
    assert stack.wait_for_death(process) == -signal.SIGKILL
    assert log.read_text().split() == [place]

    stack.start_again(process)
    job = stack.finish(first or stack.newest_job())
    if job["status"] != "completed":
        assert job["status"] == "failed"
        assert job["error_message"] and job["actionable_steps"], "a failure says what to do"
        job = stack.replicate()
        assert job["status"] == "completed", job
    assert stack.differing_disks(job) == []

    stack.change()
    increment = stack.replicate()
    assert increment["status"] == "completed", increment
    assert {disk["mode"] for disk in increment["disks"]} == {"incremental"}
    assert stack.differing_disks(increment) == []
