"""What the agent keeps: jobs and points survive, old ones go, one process at a time, newer files are refused."""

from __future__ import annotations

import msgspec
import pytest

from omavol.agent import admission, state
from omavol.agent.errors import AgentError
from omavol.agent.state import State, StateInUse
from omavol.journal import Journal, JournalTooNew
from omavol.schema.common import now
from omavol.schema.source import NbdTarget, PowerState, Replicate, SourceStatus
from omavol.source.machine import DiskFacts, MachineFacts, SourceDisk, SourceMachine
from omavol.source.points import Phase, PointRecord
from source_machines import MIB


@pytest.fixture
def machine(tmp_path):
    disks = (SourceDisk("disk-2000", tmp_path / "a", "raw", "a"), SourceDisk("disk-2001", tmp_path / "b", "raw", "b"))
    return SourceMachine(id="m-1", name="web", folder=tmp_path / "web", disks=disks)


@pytest.fixture
def make_job(machine):
    def make(job_id, status=SourceStatus.RUNNING, sequence=1, point_id=None):
        target = NbdTarget(device_path="nbd://localhost/x", vmware_disk_key="disk-2000")
        wanted = Replicate(job_id=job_id, vm_paths=["/web"], nbd_targets=[target])
        facts = MachineFacts(PowerState.ON, {"disk-2000": DiskFacts(MIB, True), "disk-2001": DiskFacts(MIB, True)})
        targets = admission.targets_of(machine, wanted)
        record = admission.first_record(wanted, machine, facts, targets, now(), sequence)
        progress = msgspec.structs.replace(record.progress, status=status)
        return msgspec.structs.replace(record, progress=progress, point_id=point_id)

    return make


def point(point_id, phase, released=True):
    return PointRecord(id=point_id, machine_id="m-1", phase=phase, disks=(), released=released)


def reopened(kept, folder):
    kept.close()
    return State(folder)


def test_identity_jobs_and_points_survive(tmp_path, make_job):
    first = State(tmp_path / "s")
    first.save_job(make_job("j-1", sequence=7), durable=True)
    first.save(point("p-1", Phase.COMPLETED))
    identity = first.agent_id
    second = reopened(first, tmp_path / "s")
    assert second.agent_id == identity
    assert (second.job("j-1").machine_id, second.job("j-1").progress.sequence) == ("m-1", 7)
    assert second.get("p-1").phase is Phase.COMPLETED
    assert second.job("j-2") is None
    second.close()


def test_sequences_grow_over_restarts(tmp_path, make_job):
    kept = State(tmp_path / "s")
    ahead = kept.next_sequence() + 10**9  # as if the clock had been set back since
    kept.save_job(make_job("j-1", sequence=ahead), durable=False)
    kept = reopened(kept, tmp_path / "s")
    assert kept.next_sequence() > ahead
    kept.close()


def test_one_process_at_a_time(tmp_path):
    kept = State(tmp_path / "s")
    with pytest.raises(StateInUse, match="another agent"):
        State(tmp_path / "s")
    kept.close()
    State(tmp_path / "s").close()


def test_a_newer_releases_state_is_refused_and_the_lock_let_go(tmp_path):
    State(tmp_path / "s").close()
    with Journal(tmp_path / "s/agent.journal", tag="omavol agent", versions={1: 9, 2: 9, 3: 9}) as journal:
        journal.append(2, b"?")
    for _ in range(2):
        with pytest.raises(JournalTooNew):
            State(tmp_path / "s")


def test_old_finished_jobs_go_and_what_still_needs_a_decision_stays(tmp_path, make_job, monkeypatch):
    monkeypatch.setattr(state, "JOBS_KEPT", 2)
    kept = State(tmp_path / "s")
    kept.save(point("p-undecided", Phase.COMPLETED))
    kept.save(point("p-old", Phase.COMMITTED))
    kept.save_job(make_job("undecided", SourceStatus.COMPLETED, point_id="p-undecided"), durable=False)
    kept.save_job(make_job("old", SourceStatus.COMPLETED, point_id="p-old"), durable=False)
    for number in range(2):
        kept.save_job(make_job(f"new-{number}", SourceStatus.FAILED), durable=False)
    kept.keep_digests("undecided", {"disk-2000": b"digests"})
    kept.keep_digests("old", {"disk-2000": b"digests"})
    kept = reopened(kept, tmp_path / "s")
    assert [job.id for job in kept.jobs()] == ["undecided", "new-0", "new-1"]
    assert [record.id for record in kept.points()] == ["p-undecided"]
    assert kept.digests("undecided", "disk-2000").exists()
    assert not kept.digests("old", "disk-2000").exists()
    kept.close()


def test_the_file_stays_small(tmp_path, make_job, monkeypatch):
    monkeypatch.setattr(state, "COMPACT_ABOVE", 20_000)
    kept = State(tmp_path / "s")
    for number in range(200):
        kept.save_job(make_job("j-1", sequence=number), durable=False)
    assert (tmp_path / "s/agent.journal").stat().st_size < 25_000
    assert len(kept.jobs()) == 1
    kept = reopened(kept, tmp_path / "s")
    assert kept.job("j-1").progress.sequence == 199
    kept.close()


# What a job that was unfinished becomes, by what is known of its point.
RESTARTS = [
    (None, SourceStatus.FAILED, False),
    (Phase.FREEZING, SourceStatus.FAILED, False),
    (Phase.FROZEN, SourceStatus.FAILED, False),
    (Phase.ABANDONED, SourceStatus.FAILED, False),
    (Phase.COMPLETED, SourceStatus.COMPLETED, False),
    (Phase.COMMITTED, SourceStatus.COMPLETED, True),
]


@pytest.mark.parametrize(("phase", "status", "committed"), RESTARTS)
def test_an_unfinished_job_is_closed_by_what_its_point_says(make_job, phase, status, committed):
    known = None if phase is None else point("p-1", phase)
    closed = admission.after_restart(make_job("j-1", point_id="p-1"), known, now(), 9)
    assert (closed.progress.status, closed.progress.committed) == (status, committed)
    assert closed.progress.sequence == 9
    assert (closed.progress.error_code == "agent_restarted") is (status is SourceStatus.FAILED)


def test_the_table_of_phases_is_whole():
    assert {phase for phase, _, _ in RESTARTS if phase is not None} == set(Phase)


def test_a_taken_id_is_refused_for_another_request(make_job):
    known = make_job("j-1")
    assert admission.answer_for_known(known, known.request) == admission.replicating(known)
    with pytest.raises(AgentError, match="another request"):
        admission.answer_for_known(known, make_job("j-2").request)
