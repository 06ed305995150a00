"""Three generations of agents in one language."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omactl.rules.recovery import Answer
from omactl.sources.normalise import WORDS, normalise, word_of
from omavol.schema.source import SourceStatus

# (what an agent answers, what it means): recorded from each generation.
SAID = [
    ({"status": "running", "phase": "Copying Data", "percentage": 40}, Answer.RUNNING),
    ({"status": "running", "phase": "Initializing", "percentage": 0}, Answer.RUNNING),
    ({"status": "running", "phase": "Completed", "percentage": 99}, Answer.COMPLETED),
    ({"status": "", "phase": "Error", "percentage": 12}, Answer.FAILED),
    ({"status": "Succeeded", "phase": "PersistChangeIDs"}, Answer.COMPLETED),
    ({"status": "Streaming", "phase": "Transfer", "percentage": 3}, Answer.RUNNING),
    ({"status": "Queued", "phase": "Discover"}, Answer.RUNNING),
    ({"status": "Failed", "phase": "QueryCBT", "last_error": "no CBT"}, Answer.FAILED),
    ({"status": "in_progress", "phase": "Transfer"}, Answer.RUNNING),
    ({"status": "COMPLETED", "phase": "TRANSFER"}, Answer.COMPLETED),
    ({"status": "running", "errors": ["disk gone"], "percentage": 50}, Answer.FAILED),
    ({"status": "canceled"}, Answer.CANCELLED),
    ({"status": "something new", "percentage": 0}, Answer.UNKNOWN),
    ({"status": "something new", "percentage": 55}, Answer.RUNNING),
    ({"error": "job not found"}, Answer.NOT_FOUND),
    ({"message": "Job Not Found: job-1"}, Answer.NOT_FOUND),
    ({}, Answer.UNKNOWN),
]


@pytest.mark.parametrize(("raw", "answer"), SAID)
def test_what_an_agent_says_is_understood(raw, answer):
    assert normalise(raw).answer is answer


def test_case_does_not_matter():
    assert all(word_of(word.upper()) is status for word, status in WORDS.items())


def test_every_status_of_our_own_agent_is_a_word():
    assert all(word_of(status.value) is status for status in SourceStatus)


def test_the_first_disk_that_is_done_does_not_close_the_job():
    disks = [{"disk_id": "a", "status": "completed"}, {"disk_id": "b", "status": "in_progress"}]
    assert normalise({"status": "completed", "disk_progresses": disks}).answer is Answer.RUNNING
    disks[1]["status"] = "completed"
    assert normalise({"status": "completed", "disk_progresses": disks}).answer is Answer.COMPLETED


def test_figures_are_bytes():
    report = normalise({"status": "running", "throughput": {"current_mbps": 1.5}, "timing": {"eta_seconds": 9}})
    assert (report.bytes_per_second, report.eta_seconds) == (3 << 19, 9)


SCALARS = st.none() | st.booleans() | st.text(max_size=8) | st.sampled_from(sorted(WORDS))


@settings(max_examples=100)
@given(status=SCALARS, phase=SCALARS, percentage=st.floats(0, 100), errors=st.lists(st.text(max_size=5), max_size=2))
def test_any_words_have_some_meaning(status, phase, percentage, errors):
    raw = {"status": status, "phase": phase, "percentage": percentage, "errors": errors}
    assert normalise(msgspec.json.decode(msgspec.json.encode(raw))).answer in Answer
