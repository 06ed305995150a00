"""WRITE_ZEROES on file systems that can and cannot zero without writing (X38 to X43)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omavol.nbd.wire import Command, CommandFlag, Error, TransmissionFlag
from raw_client import Raw

MIB = 1 << 20
FAST, NO_HOLE = CommandFlag.FAST_ZERO, CommandFlag.NO_HOLE


@pytest.fixture
def mounted(command, place):
    """`omavol serve` over a disk of 4 MiB on a file system of its own, mounted where nobody else sees it."""

    def start(kind: str) -> Raw:
        disk = place / kind
        disk.mkdir()
        inside = (
            f'mount -t {kind} none "$1" && head -c {4 * MIB} /dev/zero | tr "\\0" d > "$1/disk" && shift && exec "$@"'
        )
        become_root = () if os.geteuid() == 0 else ("--map-root-user",)
        wrapper = ("unshare", *become_root, "--mount", "sh", "-c", inside, "sh", str(disk))
        command("--unix", place / "s", Path(disk) / "disk", wrapper=wrapper)
        return Raw(place / "s")

    return start


def test_X40_X41_where_holes_are_punched_fast_zero_is_offered_and_done(served, image):
    client = served.client()
    assert client.flags & TransmissionFlag.SEND_FAST_ZERO
    assert client.ask(Command.WRITE_ZEROES, MIB, MIB, flags=FAST) == 0
    assert client.read(MIB, MIB) == bytes(MIB)
    assert client.ask(Command.WRITE_ZEROES, 2 * MIB, MIB) == 0


def test_X40_X43_what_would_have_to_be_written_is_enotsup_and_leaves_the_data(mounted):
    """tmpfs punches holes and zeroes no range that is to stay allocated."""
    with mounted("tmpfs") as client:
        assert client.flags & TransmissionFlag.SEND_FAST_ZERO
        assert client.ask(Command.WRITE_ZEROES, 0, MIB, flags=FAST | NO_HOLE) == Error.ENOTSUP
        assert client.read(0, MIB) == b"d" * MIB
        assert client.ask(Command.WRITE_ZEROES, 0, MIB, flags=FAST) == 0
        assert client.read(0, MIB) == bytes(MIB)


def test_X41_without_the_flag_it_is_never_enotsup(mounted):
    with mounted("tmpfs") as client:
        assert client.ask(Command.WRITE_ZEROES, 0, MIB, flags=NO_HOLE) == 0
        assert client.read(0, 4 * MIB) == bytes(MIB) + b"d" * 3 * MIB


def test_X42_H43_where_zeroing_is_writing_fast_zero_is_not_offered(mounted):
    """ramfs has no fallocate at all."""
    with mounted("ramfs") as client:
        assert client.flags & TransmissionFlag.SEND_WRITE_ZEROES
        assert not client.flags & TransmissionFlag.SEND_FAST_ZERO
        assert client.ask(Command.WRITE_ZEROES, 0, MIB, flags=FAST) == Error.EINVAL
        assert client.read(0, MIB) == b"d" * MIB
        assert client.ask(Command.WRITE_ZEROES, 0, MIB) == 0
        assert client.ask(Command.TRIM, MIB, MIB) == 0
        assert client.read(0, MIB) == bytes(MIB)


def test_H45_a_read_only_export_offers_neither(serve, image):
    client = serve(default=image, read_only=True).client()
    assert not client.flags & (TransmissionFlag.SEND_FAST_ZERO | TransmissionFlag.SEND_WRITE_ZEROES)


def test_asking_whether_holes_are_punched_changes_nothing(serve, image):
    before = image.read_bytes()
    blocks = image.stat().st_blocks
    serve(default=image)
    assert (image.read_bytes(), image.stat().st_size, image.stat().st_blocks) == (before, 4 * MIB, blocks)
