"""A running machine: its disks are frozen at one instant while it goes on writing, and increments lose no change."""

from __future__ import annotations

import os
import threading
from random import Random

import pytest

from omavol.source.errors import FreezeFailed, MonitorUnreachable, NbdServerTaken
from omavol.source.points import Phase
from omavol.source.qmp import Monitor
from source_machines import KIB, MIB, write_into

FULL = {"disk-2000": None, "disk-2001": None}


def since(point):
    return dict.fromkeys(FULL, point.id)


def passed(source, view, machine, copies, base_points):
    """One whole pass: freeze, read what is to be read, complete, commit; the point and the bytes moved."""
    point = source.freeze(machine.machine, base_points)
    moved = 0
    for name, disk in point.disks.items():
        if disk.context is None:
            copies[name] = bytearray(view.content(disk))
            moved += disk.size
        else:
            moved += view.update(copies[name], disk)
    source.complete(point.id)
    source.commit(point.id)
    return point, moved


def test_the_view_is_the_instant_of_the_freeze_whatever_is_written_after(source, view, running):
    running.write("disk-2000", MIB, b"\x01" * MIB)
    running.write("disk-2001", 0, b"\x02" * (512 * KIB))
    before = {name: running.read(name) for name in FULL}
    point = source.freeze(running.machine, FULL)
    for name in FULL:
        running.write(name, MIB, os.urandom(300 * KIB))
        running.write(name, 0, os.urandom(4 * KIB))
    assert {name: view.content(disk) for name, disk in point.disks.items()} == before
    assert running.read("disk-2000") != before["disk-2000"]
    assert all(disk.context is None and disk.reason for disk in point.disks.values())


def test_the_view_holds_while_it_is_read_and_written_at_once(source, view, running):
    running.write("disk-2000", 0, os.urandom(12 * MIB))
    before = running.read("disk-2000")
    point = source.freeze(running.machine, {"disk-2000": None})
    stop, written = threading.Event(), threading.Event()

    def overwrite():
        random = Random(1)
        while not stop.is_set():
            running.write("disk-2000", random.randrange(12 * MIB), random.randbytes(random.randrange(1, 200 * KIB)))
            written.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        assert written.wait(10)
        for _ in range(2):
            assert view.content(point.disks["disk-2000"]) == before
    finally:
        stop.set()
        writer.join()
    assert running.read("disk-2000") != before


def test_all_disks_are_frozen_at_one_instant(source, view, running):
    """A writer bumps a counter on both disks in turn; a view where they differ by more than one write is torn."""
    stop, written = threading.Event(), threading.Event()

    def count():
        number = 0
        while not stop.is_set():
            number += 1
            for name in FULL:
                running.write(name, 0, number.to_bytes(8) * 512)
            written.set()

    writer = threading.Thread(target=count)
    writer.start()
    try:
        for _ in range(3):
            written.clear()
            assert written.wait(10)
            point = source.freeze(running.machine, FULL)
            first, second = (int.from_bytes(view.content(disk)[:8]) for disk in point.disks.values())
            assert first - second in (0, 1)
            source.abandon(point.id)
    finally:
        stop.set()
        writer.join()


def test_three_passes_give_equal_copies_and_move_only_changes(source, view, running):
    copies = {}
    running.write("disk-2000", 0, os.urandom(2 * MIB))
    point, _ = passed(source, view, running, copies, FULL)
    for number in range(2):
        running.write("disk-2000", (3 + number) * MIB, os.urandom(100 * KIB))
        running.write("disk-2001", 8 * MIB + number, os.urandom(60 * KIB))
        point, moved = passed(source, view, running, copies, since(point))
        assert moved <= 5 * 64 * KIB
        assert copies == {name: running.read(name) for name in FULL}


def test_an_abandoned_pass_loses_no_change(source, view, running):
    copies = {}
    base, _ = passed(source, view, running, copies, FULL)
    running.write("disk-2000", 0, b"\x01" * KIB)
    given_up = source.freeze(running.machine, since(base))
    running.write("disk-2000", MIB, b"\x02" * KIB)
    source.abandon(given_up.id)
    running.write("disk-2000", 2 * MIB, b"\x03" * KIB)
    _, moved = passed(source, view, running, copies, since(base))
    assert moved == 3 * 64 * KIB
    assert copies == {name: running.read(name) for name in FULL}


@pytest.mark.parametrize("stands_on", ["completed", "committed"])
def test_a_completed_point_serves_as_base_and_so_does_the_one_before(source, view, running, ledger, stands_on):
    copies = {}
    committed, _ = passed(source, view, running, copies, FULL)
    older = {name: bytearray(copy) for name, copy in copies.items()}
    running.write("disk-2000", 0, b"\x01" * KIB)
    completed = source.freeze(running.machine, since(committed))
    for name, disk in completed.disks.items():
        view.update(copies[name], disk)
    source.complete(completed.id)
    running.write("disk-2000", MIB, b"\x02" * KIB)
    if stands_on == "completed":
        _, moved = passed(source, view, running, copies, since(completed))
        assert ledger.get(completed.id).phase is Phase.COMMITTED
        assert (moved, copies) == (64 * KIB, {name: running.read(name) for name in FULL})
    else:
        _, moved = passed(source, view, running, older, since(committed))
        assert ledger.get(completed.id).phase is Phase.ABANDONED
        assert (moved, older) == (2 * 64 * KIB, {name: running.read(name) for name in FULL})


def test_a_full_pass_that_fails_leaves_the_older_record_complete(source, view, running):
    copies = {}
    base, _ = passed(source, view, running, copies, FULL)
    running.write("disk-2001", 0, b"\x07" * KIB)
    source.abandon(source.freeze(running.machine, FULL).id)
    _, moved = passed(source, view, running, copies, since(base))
    assert moved == 64 * KIB
    assert copies == {name: running.read(name) for name in FULL}


def test_an_unknown_base_makes_it_full_and_says_why(source, running):
    point = source.freeze(running.machine, {"disk-2000": "no-such-point"})
    disk = point.disks["disk-2000"]
    assert (disk.context, disk.base) == (None, None)
    assert "no record of changes since no-such-point" in disk.reason


def test_a_machine_that_was_killed_has_lost_its_record_and_says_why(source, view, running):
    point, _ = passed(source, view, running, {}, FULL)
    running.stop()  # stores the record in the qcow2
    running.start()
    running.stop(kill=True)
    running.start()
    again = source.freeze(running.machine, since(point))
    assert "inconsistent" in again.disks["disk-2000"].reason
    assert "no record" in again.disks["disk-2001"].reason
    assert [disk.context for disk in again.disks.values()] == [None, None]
    source.complete(again.id)
    source.commit(again.id)
    third = source.freeze(running.machine, since(again))
    assert None not in [disk.context for disk in third.disks.values()]


def test_a_qcow2_keeps_its_record_while_the_machine_is_stopped_and_written(source, view, running):
    copies = {}
    point, _ = passed(source, view, running, copies, FULL)
    running.stop()
    write_into(running.folder / "system.qcow2", "qcow2", 5 * MIB, KIB, 9)
    stopped = source.freeze(running.machine, since(point))
    assert stopped.disks["disk-2001"].context is None
    assert view.update(copies["disk-2000"], stopped.disks["disk-2000"]) == 64 * KIB
    assert copies["disk-2000"] == view.content(stopped.disks["disk-2000"])


def test_a_released_point_leaves_nothing_in_the_machine(source, view, running, folder):
    with Monitor.connect(running.machine.monitor) as monitor:
        nodes = len(monitor.execute("query-named-block-nodes"))
    for _ in range(2):
        passed(source, view, running, {}, FULL)
    with Monitor.connect(running.machine.monitor) as monitor:
        assert len(monitor.execute("query-named-block-nodes")) == nodes
        assert monitor.execute("query-jobs") == []
        assert {export["type"] for export in monitor.execute("query-block-exports")} == {"fuse"}
        bitmaps = [node.get("dirty-bitmaps") or [] for node in monitor.execute("query-named-block-nodes")]
        assert sorted(len(one) for one in bitmaps)[-2:] == [1, 1]
    assert list((folder / "run").iterdir()) == []


def test_a_new_source_process_ends_what_the_old_one_left(source, view, running, ledger, folder):
    from omavol.source.qemu import QemuSource

    copies = {}
    base, _ = passed(source, view, running, copies, FULL)
    running.write("disk-2000", 0, b"\x01" * KIB)
    left = source.freeze(running.machine, since(base))
    successor = QemuSource(folder / "run", ledger)
    successor.recover()
    assert ledger.get(left.id).phase is Phase.ABANDONED
    assert list((folder / "run").iterdir()) == []
    _, moved = passed(successor, view, running, copies, since(base))
    assert moved == 64 * KIB
    assert copies == {name: running.read(name) for name in FULL}


def test_ending_a_point_twice_is_no_error(source, running):
    point = source.freeze(running.machine, FULL)
    source.complete(point.id)
    source.complete(point.id)
    source.commit(point.id)
    source.commit(point.id)
    other = source.freeze(running.machine, FULL)
    source.abandon(other.id)
    source.abandon(other.id)


def test_a_taken_nbd_server_is_said_clearly_and_nothing_stays(source, machine, folder, ledger):
    machine.start("--nbd-server", f"addr.type=unix,addr.path={machine.folder}/theirs.nbd")
    with pytest.raises(NbdServerTaken, match="taken"):
        source.freeze(machine.machine, FULL)
    with Monitor.connect(machine.machine.monitor) as monitor:
        assert monitor.execute("query-jobs") == []
        monitor.execute("nbd-server-stop")  # it still stands: another program's server was not stopped
    source.abandon(source.freeze(machine.machine, FULL).id)


def test_a_busy_monitor_is_said_clearly(source, running, monkeypatch):
    monkeypatch.setattr("omavol.source.qmp.Monitor.connect.__func__.__kwdefaults__", {"timeout": 0.3})
    with Monitor.connect(running.machine.monitor), pytest.raises(MonitorUnreachable, match="busy with another client"):
        source.freeze(running.machine, FULL)


def test_a_node_that_does_not_exist_is_named(source, running):
    toml = running.folder / "machine.toml"
    toml.write_text(toml.read_text().replace("node-disk-2001", "gone"))
    with pytest.raises(Exception, match="no node 'gone' for disk-2001"):
        source.freeze(running.machine, FULL)


def test_a_disk_without_a_node_name_is_found_by_its_file(source, view, running):
    toml = running.folder / "machine.toml"
    lines = [line for line in toml.read_text().splitlines() if not line.startswith("node")]
    toml.write_text("\n".join(lines))
    running.write("disk-2001", 0, b"\x05" * KIB)
    point = source.freeze(running.machine, FULL)
    assert view.content(point.disks["disk-2001"]) == running.read("disk-2001")


def test_what_another_program_does_in_the_same_process_is_left_alone(source, view, running):
    with Monitor.connect(running.machine.monitor) as monitor:
        monitor.execute("blockdev-add", {"driver": "null-co", "node-name": "t", "size": running.disks[1].size})
        job = {"job-id": "theirs", "device": "node-disk-2001", "target": "t", "sync": "none"}
        monitor.execute("blockdev-backup", job)
        monitor.execute("block-dirty-bitmap-add", {"node": "node-disk-2001", "name": "theirs"})
    passed(source, view, running, {}, FULL)
    with Monitor.connect(running.machine.monitor) as monitor:
        assert [job["id"] for job in monitor.execute("query-jobs")] == ["theirs"]
        monitor.execute("block-dirty-bitmap-remove", {"node": "node-disk-2001", "name": "theirs"})


def test_a_refused_transaction_freezes_nothing(source, running, ledger, monkeypatch):
    """The second disk already has a bitmap of the new point's name, so the transaction is refused as a whole."""
    monkeypatch.setattr("omavol.source.qemu.new_id", lambda: "01a20d5d-0582-793b-90dd-a188896a2abc")
    with Monitor.connect(running.machine.monitor) as monitor:
        taken = {"node": "node-disk-2001", "name": "oma-01a20d5d-0582-793b-90dd-a188896a2abc"}
        monitor.execute("block-dirty-bitmap-add", taken)
        nodes = len(monitor.execute("query-named-block-nodes"))
    with pytest.raises(FreezeFailed, match="could not freeze the disks together"):
        source.freeze(running.machine, FULL)
    assert [record.phase for record in ledger.points()] == [Phase.ABANDONED]
    with Monitor.connect(running.machine.monitor) as monitor:
        assert len(monitor.execute("query-named-block-nodes")) == nodes
        assert monitor.execute("query-jobs") == []
