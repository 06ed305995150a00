"""A stopped machine: its images are opened under locks for the pass alone, and qcow2 keeps the record in itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from omavol.schema.source import PowerState
from omavol.source.errors import FreezeFailed, ImageBroken, ImageInUse
from omavol.source.points import Phase
from omavol.source.qemu import QemuSource
from source_machines import KIB, MIB, Disk, MachineFolder, run, write_into

BOTH = {"disk-2000": None, "disk-2001": None}


def since(point, *names):
    return dict.fromkeys(names or BOTH, point.id)


def test_both_disks_are_read_as_they_are(source, view, machine):
    write_into(machine.folder / "system.qcow2", "qcow2", MIB, KIB, 1)
    write_into(machine.folder / "data.raw", "raw", 8 * MIB, 64 * KIB, 2)
    point = source.freeze(machine.machine, BOTH)
    system, data = (view.content(disk) for disk in point.disks.values())
    assert (system[MIB : MIB + KIB], len(system)) == (b"\x01" * KIB, 16 * MIB)
    assert (data[8 * MIB :], len(data)) == (b"\x02" * 64 * KIB, 8 * MIB + 64 * KIB)


def test_three_passes_of_a_qcow2_move_only_what_changed(source, view, machine, ledger):
    point = source.freeze(machine.machine, {"disk-2000": None})
    copy = bytearray(view.content(point.disks["disk-2000"]))
    source.complete(point.id)
    source.commit(point.id)
    for number in range(2):
        write_into(machine.folder / "system.qcow2", "qcow2", number * MIB, KIB, 3 + number)
        point = source.freeze(machine.machine, since(point, "disk-2000"))
        assert view.update(copy, point.disks["disk-2000"]) == 64 * KIB
        assert copy == view.content(point.disks["disk-2000"])
        source.complete(point.id)
        source.commit(point.id)
    assert machine.bitmaps("disk-2000") == {f"oma-{point.id}"}


def test_an_abandoned_pass_loses_no_change(source, view, machine):
    base = source.freeze(machine.machine, {"disk-2000": None})
    copy = bytearray(view.content(base.disks["disk-2000"]))
    source.complete(base.id)
    write_into(machine.folder / "system.qcow2", "qcow2", 0, KIB, 3)
    given_up = source.freeze(machine.machine, since(base, "disk-2000"))
    source.abandon(given_up.id)
    assert machine.bitmaps("disk-2000") == {f"oma-{base.id}"}
    write_into(machine.folder / "system.qcow2", "qcow2", MIB, KIB, 4)
    point = source.freeze(machine.machine, since(base, "disk-2000"))
    assert view.update(copy, point.disks["disk-2000"]) == 2 * 64 * KIB
    assert copy == view.content(point.disks["disk-2000"])


def test_a_raw_image_has_no_record_while_stopped_and_the_pass_says_so(source, machine):
    point = source.freeze(machine.machine, BOTH)
    source.complete(point.id)
    source.commit(point.id)
    again = source.freeze(machine.machine, since(point))
    assert again.disks["disk-2000"].context is not None
    assert again.disks["disk-2001"].context is None
    assert "raw keeps one only while the machine runs" in again.disks["disk-2001"].reason


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk"])
def test_nobody_else_can_write_to_an_image_that_is_frozen(source, folder, format):
    machine = MachineFolder.create(folder / "vm", Disk("disk-2000", format, 4 * MIB, f"d.{format}"))
    point = source.freeze(machine.machine, {"disk-2000": None})
    with pytest.raises(AssertionError, match="lock"):
        write_into(machine.folder / f"d.{format}", format, 0, KIB, 1)
    source.abandon(point.id)
    write_into(machine.folder / f"d.{format}", format, 0, KIB, 1)


def test_a_vmdk_is_read(source, view, folder):
    machine = MachineFolder.create(folder / "vm", Disk("disk-2000", "vmdk", 4 * MIB, "d.vmdk"))
    write_into(machine.folder / "d.vmdk", "vmdk", MIB, KIB, 7)
    point = source.freeze(machine.machine, {"disk-2000": None})
    assert view.content(point.disks["disk-2000"])[MIB : MIB + KIB] == b"\x07" * KIB


def test_an_old_qcow2_without_room_for_bitmaps_is_read_in_full_each_time(source, folder):
    machine = MachineFolder.create(folder / "vm", Disk("disk-2000", "raw", 4 * MIB, "d.raw"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", machine.folder / "d.qcow2", "4M")
    machine.disks = [Disk("disk-2000", "qcow2", 4 * MIB, "d.qcow2")]
    machine.describe()
    assert not source.facts(machine.machine).disks["disk-2000"].tracks_changes
    point = source.freeze(machine.machine, {"disk-2000": None})
    source.complete(point.id)
    again = source.freeze(machine.machine, since(point, "disk-2000"))
    assert again.disks["disk-2000"].context is None


def test_an_image_that_another_program_writes_is_refused_and_named(source, machine, ledger):
    machine.start()
    moved = machine.machine.monitor
    moved.rename(moved.with_name("elsewhere.sock"))
    with pytest.raises(ImageInUse, match=r"(system\.qcow2|data\.raw) is in use"):
        source.freeze(machine.machine, BOTH)
    assert all(record.phase is Phase.ABANDONED and record.released for record in ledger.points())


def test_a_file_that_is_no_image_is_refused_and_named(source, machine):
    (machine.folder / "system.qcow2").write_bytes(b"not an image" * 100)
    with pytest.raises(FreezeFailed, match=r"system\.qcow2 cannot be opened as qcow2"):
        source.freeze(machine.machine, BOTH)
    with pytest.raises(ImageBroken, match="system"):
        source.facts(machine.machine)


def test_an_image_that_is_cut_short_is_refused_and_named(source, machine, ledger):
    """QEMU opens it, and reads zeroes where the rest was."""
    image = machine.folder / "system.qcow2"
    write_into(image, "qcow2", MIB, 4 * MIB, 1)
    os.truncate(image, image.stat().st_size - 3 * MIB)
    with pytest.raises(ImageBroken, match=r"system\.qcow2 is cut short"):
        source.freeze(machine.machine, BOTH)
    assert all(record.phase is Phase.ABANDONED and record.released for record in ledger.points())


def test_facts_tell_power_and_sizes(source, machine):
    stopped = source.facts(machine.machine)
    assert (stopped.power_state, stopped.disks["disk-2001"].size) == (PowerState.OFF, 8 * MIB + 64 * KIB)
    assert [disk.tracks_changes for disk in stopped.disks.values()] == [True, False]
    machine.start()
    running = source.facts(machine.machine)
    assert (running.power_state, running.disks["disk-2001"].size) == (PowerState.ON, 8 * MIB + 64 * KIB)
    assert [disk.tracks_changes for disk in running.disks.values()] == [True, True]


DIES_WITH_A_FROZEN_MACHINE = """
import os, signal, sys
from pathlib import Path
from omavol.source.inventory import read_machine
from omavol.source.points import MemoryLedger
from omavol.source.qemu import QemuSource
ledger = MemoryLedger()
source = QemuSource(Path(sys.argv[2]), ledger)
point = source.freeze(read_machine(Path(sys.argv[1])), {"disk-2000": sys.argv[3]})
sys.stdout.buffer.write(__import__("msgspec").json.encode(ledger.get(point.id)))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_images_are_closed_and_the_record_kept_when_the_agent_is_killed(source, view, machine, folder, ledger):
    import msgspec

    from omavol.source.points import PointRecord

    base = source.freeze(machine.machine, {"disk-2000": None})
    copy = bytearray(view.content(base.disks["disk-2000"]))
    source.complete(base.id)
    source.commit(base.id)
    write_into(machine.folder / "system.qcow2", "qcow2", 0, KIB, 3)
    died = subprocess.run(
        [sys.executable, "-c", DIES_WITH_A_FROZEN_MACHINE, machine.folder, folder / "run", base.id],
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ},
    )
    assert died.returncode == -signal.SIGKILL
    left = msgspec.json.decode(died.stdout, type=PointRecord)
    ledger.save(left)
    successor = QemuSource(folder / "run", ledger)
    successor.recover()
    assert machine.bitmaps("disk-2000") == {f"oma-{base.id}"}
    assert list((folder / "run").iterdir()) == []
    point = successor.freeze(machine.machine, since(base, "disk-2000"))
    assert view.update(copy, point.disks["disk-2000"]) == 64 * KIB
    assert copy == view.content(point.disks["disk-2000"])
    successor.abandon(point.id)
