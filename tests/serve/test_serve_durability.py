"""What FLUSH and FUA promise, on a disk whose syncs are counted and made to fail (X20 to X23)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from omavol.nbd.wire import Command, CommandFlag, Error
from raw_client import Raw

MIB = 1 << 20


@dataclass
class Disk:
    """`omavol serve` over an image, with fdatasync(2) in the hands of the test."""

    socket: Path
    counted: Path
    failing: Path

    @property
    def syncs(self) -> int:
        return self.counted.stat().st_size

    def client(self, **options: bool) -> Raw:
        return Raw(self.socket, **options)

    def fail(self) -> None:
        self.failing.touch()

    def mend(self) -> None:
        self.failing.unlink()


@pytest.fixture
def disk(command, place, image) -> Disk:
    shim, disk = place / "shim.so", Disk(place / "s", place / "syncs", place / "fails")
    source = Path(__file__).with_name("sync_shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, source], check=True)
    disk.counted.touch()
    preload = (f"LD_PRELOAD={shim}", f"SYNCS={disk.counted}", f"SYNC_FAILS={disk.failing}")
    command("--unix", disk.socket, image, wrapper=("env", *preload))
    return disk


@pytest.fixture(params=[False, True], ids=["compact", "extended"])
def client(disk, request):
    with disk.client(extended=request.param) as client:
        yield client


CHANGES = [(Command.WRITE, 4096), (Command.WRITE, 3 * MIB), (Command.TRIM, MIB), (Command.WRITE_ZEROES, MIB)]


@pytest.mark.parametrize("command_, length", CHANGES)
def test_X21_with_fua_a_change_is_synced_before_it_is_answered(disk, client, command_, length):
    payload = b"f" * length if command_ == Command.WRITE else b""
    assert client.ask(command_, 0, length, payload) == 0
    assert disk.syncs == 0
    assert client.ask(command_, 0, length, payload, flags=CommandFlag.FUA) == 0
    assert disk.syncs == 1


@pytest.mark.parametrize("command_", [Command.READ, Command.CACHE])
def test_X12_fua_on_what_changes_nothing_syncs_nothing(disk, client, command_):
    assert client.ask(command_, 0, 4096, flags=CommandFlag.FUA) == 0
    assert disk.syncs == 0


def test_X20_a_flush_syncs_before_it_is_answered(disk, client):
    assert client.ask(Command.WRITE, 0, 4096, bytes(4096)) == 0
    assert client.ask(Command.FLUSH) == 0
    assert disk.syncs == 1


def test_X23_a_sync_that_failed_once_fails_for_everybody_until_the_export_is_opened_anew(disk, client):
    """The kernel tells the error once and drops the pages: a second fdatasync(2) that succeeds is a lie."""
    assert client.ask(Command.WRITE, 0, 4096, b"a" * 4096) == 0
    disk.fail()
    assert client.ask(Command.FLUSH) == Error.EIO
    disk.mend()
    with disk.client() as other:
        for one in (client, other):
            assert one.ask(Command.FLUSH) == Error.EIO
            assert one.ask(Command.WRITE, 0, 4096, b"b" * 4096, flags=CommandFlag.FUA) == Error.EIO
            assert one.ask(Command.TRIM, 0, 4096, flags=CommandFlag.FUA) == Error.EIO
            assert one.ask(Command.READ, 0, 4096) == 0
    assert disk.syncs == 1


def test_X21_X23_so_does_the_sync_of_a_fua(disk, client):
    disk.fail()
    assert client.ask(Command.WRITE, 0, 4096, b"a" * 4096, flags=CommandFlag.FUA) == Error.EIO
    disk.mend()
    assert client.ask(Command.FLUSH) == Error.EIO
