"""What a machine overwrites during a pass must have room; the pass is given up before the machine would suffer."""

from __future__ import annotations

import pytest

from omavol.source import overlay
from omavol.source.errors import OverlayFailed, OverlaySpaceShort, SourceError
from omavol.source.qmp import Monitor
from source_machines import MIB

FULL = {"disk-2000": None, "disk-2001": None}


def test_a_pass_does_not_begin_without_room(source, running, monkeypatch, ledger):
    monkeypatch.setattr(overlay, "SPACE_FLOOR", 1 << 62)
    with pytest.raises(OverlaySpaceShort, match="MiB are free"):
        source.freeze(running.machine, FULL)
    assert all(record.released for record in ledger.points())


def test_a_stopped_machine_overwrites_nothing_and_needs_no_room(source, machine, monkeypatch):
    monkeypatch.setattr(overlay, "SPACE_FLOOR", 1 << 62)
    point = source.freeze(machine.machine, FULL)
    source.complete(point.id)


def test_a_pass_is_given_up_when_room_gets_short_and_the_machine_writes_on(source, running, monkeypatch):
    point = source.freeze(running.machine, FULL)
    source.check(point.id)
    monkeypatch.setattr(overlay, "SPACE_FLOOR", 1 << 62)
    with pytest.raises(OverlaySpaceShort):
        source.check(point.id)
    with pytest.raises(OverlaySpaceShort):
        source.complete(point.id)
    source.abandon(point.id)
    running.write("disk-2000", 0, b"\x01" * MIB)
    assert running.read("disk-2000", 0, MIB) == b"\x01" * MIB


def test_a_view_whose_job_ended_is_not_trusted(source, running):
    point = source.freeze(running.machine, FULL)
    with Monitor.connect(running.machine.monitor) as monitor:
        (job, *_) = monitor.execute("query-jobs")
        monitor.execute("job-cancel", {"id": job["id"]})
    with pytest.raises(OverlayFailed, match="no longer kept"):
        source.complete(point.id)
    source.abandon(point.id)


def test_a_machine_that_stops_during_a_pass_is_noticed_and_the_next_pass_works(source, running):
    point = source.freeze(running.machine, FULL)
    running.stop()
    with pytest.raises(SourceError, match="stopped"):
        source.check(point.id)
    source.abandon(point.id)
    source.abandon(source.freeze(running.machine, FULL).id)
