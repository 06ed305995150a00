"""The monitor's client: typed errors with QEMU's own words, a limit on every wait, nothing believed unseen."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest

from omavol.source.errors import MonitorLost, MonitorRefused, MonitorUnreachable
from omavol.source.qmp import Monitor

GREETING = '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 1}}, "capabilities": []}}\n'
OK = '{"return": {}}\n'
EVENT = '{"event": "JOB_STATUS_CHANGE", "data": {"id": "j"}, "timestamp": {"seconds": 1, "microseconds": 2}}\n'


@contextlib.contextmanager
def peer(*answers, greeting=GREETING):
    """A monitor's other end that greets, then gives one answer for each command; None hangs up."""
    ours, theirs = socket.socketpair()

    def speak():
        with theirs, theirs.makefile("r") as commands:
            theirs.sendall(greeting.encode())
            for answer in answers:
                if not commands.readline() or answer is None:
                    return
                theirs.sendall(answer.encode())
            commands.readline()

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


def test_a_command_gives_what_qemu_returned_and_keeps_the_events_between():
    with peer(OK, EVENT + '{"return": [1, 2]}\n') as ours, Monitor(ours, "it") as monitor:
        assert monitor.version == (7, 2, 1)
        assert monitor.execute("query-jobs") == [1, 2]
        assert [(event.name, event.data) for event in monitor.events] == [("JOB_STATUS_CHANGE", {"id": "j"})]


def test_a_refusal_carries_qemus_class_and_description():
    refusal = json.dumps({"error": {"class": "DeviceNotFound", "desc": "no such node"}}) + "\n"
    with peer(OK, refusal) as ours, Monitor(ours, "it") as monitor, pytest.raises(MonitorRefused) as caught:
        monitor.execute("blockdev-del", {"node-name": "x"})
    assert (caught.value.command, caught.value.qemu_class, caught.value.qemu_desc) == (
        "blockdev-del",
        "DeviceNotFound",
        "no such node",
    )


def test_the_late_answer_to_a_command_that_was_given_up_is_not_taken_for_another():
    with (
        peer(OK, "", '{"return": "late", "id": 2}\n{"return": "mine", "id": 3}\n') as ours,
        Monitor(ours, "it") as monitor,
    ):
        with pytest.raises(MonitorLost, match="silent"):
            monitor.execute("slow", timeout=0.05)
        assert monitor.execute("quick") == "mine"


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "ended"), ("not json\n", "not JSON"), ("[1]\n", "not JSON"), (EVENT, "silent")],
)
def test_what_is_no_answer_is_a_lost_monitor(answer, words):
    with peer(OK, answer) as ours, Monitor(ours, "it") as monitor, pytest.raises(MonitorLost, match=words):
        monitor.execute("query-jobs", timeout=0.2)


@pytest.mark.parametrize("greeting", ["", "hello\n", "{}\n", '{"QMP": 1}\n'])
def test_what_does_not_greet_is_no_monitor(greeting):
    with peer(greeting=greeting) as ours, pytest.raises(MonitorUnreachable):
        Monitor(ours, "it", timeout=0.1)


def test_waiting_ends_with_the_event_that_makes_it_true():
    states = iter([False, False, True])
    with peer(OK, EVENT + EVENT) as ours, Monitor(ours, "it") as monitor:
        ours.sendall(b'{"execute": "go"}\n')
        monitor.wait(lambda: next(states), timeout=5, what="the job")


def test_waiting_has_a_limit():
    with peer(OK) as ours, Monitor(ours, "it") as monitor, pytest.raises(MonitorLost, match="the job"):
        monitor.wait(lambda: False, timeout=0.05, what="the job")


def test_nobody_listening_looks_like_a_machine_that_does_not_run(tmp_path):
    with pytest.raises(FileNotFoundError):
        Monitor.connect(tmp_path / "qmp.sock")
