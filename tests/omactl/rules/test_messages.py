"""Nothing internal reaches a person, and every failure comes with what to do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omactl.rules.catalogue import CATALOGUE
from omactl.rules.messages import FOREIGN, TITLES, Failure, classify, explain, step_title
from omactl.rules.scrub import forbidden_in, scrub

# A recorded text for each line of FOREIGN, in its order.
SAMPLES = [
    ("Failed to start NBD copy: Export unknown", "export_refused"),
    ("server replied: Access denied by server configuration", "export_refused"),
    ("write /dev/vdc at 1073741824: No space left on device", "storage_full"),
    ("Insufficient primary storage capacity", "storage_full"),
    ("ServerFaultCode: Cannot complete login due to an incorrect user name or password.", "source_credentials"),
    ("InvalidLogin: invalid login name", "source_credentials"),
    ("change tracking is not enabled on disk 2000", "no_change_record"),
    ("QueryChangedDiskAreas: changeId 52 de c0 is not valid", "no_change_record"),
    ("An error occurred while taking a snapshot: msg.snapshot.error-QUIESCINGERROR", "source_snapshot"),
    ("job not found", "job_lost"),
    ("dial tcp 127.0.0.1:9081: connect: connection refused", "source_unreachable"),
    ("lookup vcenter.example.com: no such host", "source_unreachable"),
    ("context deadline exceeded (Client.Timeout exceeded)", "source_unreachable"),
    ("read tcp: operation timed out", "source_unreachable"),
    ("migratekit exited: signal: killed", "source_interrupted"),
    ("write tcp: broken pipe", "transfer_broken"),
    ("recv: Connection reset by peer", "transfer_broken"),
    ("pread: Input/output error", "disk_unreadable"),
]


def test_every_rule_for_foreign_text_has_a_recorded_sample():
    assert [code for _, code in FOREIGN] == [code for _, code in SAMPLES]
    for (words, code), (text, _) in zip(FOREIGN, SAMPLES, strict=True):
        assert all(word in text.lower() for word in words)
        assert classify(text, "unknown") == code


def test_foreign_text_that_no_rule_knows_gets_the_default():
    assert classify("flux capacitor", "source_failed") == "source_failed"


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_entry_has_a_clean_sentence_and_advice(code):
    message = explain(code, {})
    assert message.advice
    for text in (message.sentence, message.title, *message.advice):
        text = text.replace("omactl", "the program")
        assert forbidden_in(text) is None, text
    assert re.match(r"[A-Z]", message.sentence)
    assert 400 <= message.status < 600


def test_parameters_are_filled_in_after_the_scrub():
    assert "web01.example.com" in explain("machine_busy", {"machine": "web01.example.com"}).sentence


def test_a_missing_parameter_does_not_lose_the_message():
    assert explain("disk_resized", {}).sentence.startswith("The disk - has another size")


def test_a_code_of_a_newer_peer_reads_as_unknown():
    assert explain("from_the_future").code == "unknown"


def test_a_failure_without_words_cannot_be_raised():
    with pytest.raises(LookupError):
        Failure("no_such_code")


@pytest.mark.parametrize("name", [*TITLES, "legacy-cloudstack-snapshot-rollback", "virtio-x", "reset-vm-state"])
def test_step_names_are_words_for_people(name):
    assert forbidden_in(step_title(name)) is None


@pytest.mark.parametrize(
    "text",
    [
        "open /var/lib/oma/daemon/volumes/a.img: denied",
        "dial tcp 10.0.0.12:10809: refused",
        "[fe80::1%eth0]:8081 does not answer",
        "http://agent.lan:8081/api/v1/replicate says no",
        "volume b3bb9310-1b59-4f62-97e8-cefffdfe3804 is gone",
        "virt-v2v-in-place exit code 1",
        "serial b3bb93101b594f6297e8 not seen",
        "/dev/vdc1 is busy, vdc too, and dm-3",
        "nbdkit: error: C:\\temp\\x.vmdk",
        "sqlite3.OperationalError: database is locked",
        "job-20261124-112345.123-a1b2c3 failed",
        "see ../state/admin-token",
    ],
)
def test_the_scrub_takes_out_everything_internal(text):
    assert forbidden_in(scrub(text)) is None, scrub(text)


PIECES = st.sampled_from(
    ["/dev/sda", "10.1.2.3", "qemu-img", "fe80::1", "web01", "failed", ":", "=", "'", "/", "(", "b3bb93101b594f6297e8",
     "nbd://h/x", "job-20261124-112345.123-a1b2c3", "virtio", "localhost:80", "timeout", ".", ",", " "]
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(PIECES | st.text(max_size=6), max_size=12))
def test_the_scrub_leaves_nothing_forbidden_in_any_mixture(pieces):
    cleaned = scrub(" ".join(pieces))
    assert forbidden_in(cleaned) is None, cleaned
    assert scrub(cleaned) == cleaned
