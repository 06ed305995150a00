"""Two boots of one machine, the power cut between them: what outlasts a reboot, and what does not."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from phases import STATE

SERIALS = ["aaaaaaaa000000000001", "bbbbbbbb000000000002", "cccccccc-0000-4000-8000-000000000003"]
NODE = "web01-disk0"
UNFINISHED = []  # is not closed before the power is cut


def letters() -> dict[str, str]:
    """The device of each of SERIALS, in the guest."""
    from hotplug import serial_of

    found = {serial_of(entry): entry.name for entry in Path("/sys/block").iterdir()}
    return {serial: found[serial] for serial in SERIALS}


def nodes() -> list[str]:
    return sorted(path.name for path in Path("/dev/mapper").iterdir() if path.name != "control")


def before() -> dict[str, Any]:
    from guest_world import run

    devices = letters()
    for serial, device in devices.items():
        with (Path("/dev") / device).open("r+b", buffering=0) as disk:
            disk.write(serial.encode())
            os.fsync(disk.fileno())
    run("dmsetup", "create", NODE, "--table", f"0 8192 linear /dev/{devices[SERIALS[0]]} 0")
    record = sqlite3.connect(STATE / "record", isolation_level=None)
    UNFINISHED.append(record)
    assert record.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    record.execute("PRAGMA synchronous=FULL")
    record.execute("CREATE TABLE said (word)")
    record.execute("INSERT INTO said VALUES ('committed')")
    record.execute("BEGIN")
    record.execute("INSERT INTO said VALUES ('begun')")
    return {"letters": devices, "nodes": nodes()}


def after() -> dict[str, Any]:
    devices = letters()
    contents = {serial: (Path("/dev") / devices[serial]).open("rb").read(len(serial)).decode() for serial in SERIALS}
    said = sqlite3.connect(STATE / "record").execute("SELECT word FROM said").fetchall()
    return {"letters": devices, "nodes": nodes(), "contents": contents, "said": said}


@pytest.fixture(scope="module")
def boots(machine) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was there in the first boot and in the second, to which the disks are given in another order."""
    disks = [machine.disk(serial, scsi=len(serial) > 20) for serial in SERIALS]
    first = machine.boot(before, disks=disks)
    return first, machine.boot(after, disks=[disks[1], disks[2], disks[0]])


def test_a_disk_is_known_by_its_serial_at_whatever_letter(boots):
    first, second = boots
    assert first["letters"] == dict(zip(SERIALS, ("vdb", "vdc", "sda"), strict=True))
    assert second["letters"] == dict(zip(SERIALS, ("vdc", "vdb", "sda"), strict=True))
    assert second["contents"] == {serial: serial for serial in SERIALS}


def test_a_record_has_what_was_committed_and_nothing_else(boots):
    assert boots[1]["said"] == [["committed"]]


def test_a_node_of_device_mapper_is_gone(boots):
    first, second = boots
    assert (first["nodes"], second["nodes"]) == ([NODE], [])


def fails() -> None:
    raise ValueError("what went wrong in the guest")


def test_a_phase_that_fails_says_why(machine):
    with pytest.raises(AssertionError, match="ValueError: what went wrong in the guest"):
        machine.boot(fails)
