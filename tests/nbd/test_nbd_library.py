"""`from omavol import nbd` as its users meet it: cheap to import, examples that run, holes told, buffers filled."""

import doctest
import subprocess
import sys
from array import array

import pytest

from omavol import nbd
from omavol.nbd import aio, answers, coverage, extents, requests

MIB = 1 << 20


@pytest.mark.parametrize("module", [nbd, aio, answers, coverage, extents, requests], ids=lambda module: module.__name__)
def test_the_examples_of_the_documentation_run(module, nbdkit):
    uri = nbdkit("memory", "1M")
    outcome = doctest.testmod(module, extraglobs={"uri": uri})
    assert outcome.attempted
    assert not outcome.failed


def test_importing_costs_nothing_and_names_come_when_used():
    script = """
import sys
from omavol import nbd
assert not [name for name in sys.modules if name.startswith(("omavol.", "asyncio", "socket"))
            and name != "omavol.nbd"], sys.modules
nbd.connect
assert "omavol.nbd.client" in sys.modules and "asyncio" not in sys.modules
nbd.aio.connect
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


def test_every_public_name_is_there_and_documented():
    assert set(nbd.__all__) <= set(dir(nbd))
    for name in nbd.__all__:
        found = getattr(nbd, name)
        assert getattr(found, "__doc__", None), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        nbd.conect  # noqa: B018 (the spelling is the test)


def test_reads_fill_a_buffer_of_the_callers(nbdkit, image):
    numbers = array("I", bytes(8192))
    with nbd.connect(nbdkit("file", str(image)), timeout=10) as disk:
        disk.read_into(MIB - 4096, numbers)
    assert numbers.tobytes() == bytes(4096) + b"\xa5" * 4096


def test_holes_are_told_as_holes(nbdkit):
    """nbdkit's sparse memory; qemu-nbd sends holes inside one READ, which needs structured replies."""
    with nbd.connect(nbdkit("memory", "4M"), timeout=10) as disk:
        disk.write(MIB, b"x" * 4096)
        assert [(run.length, run.hole, len(content)) for run, content in disk.read_chunks(MIB, 4096)] == [
            (4096, False, 4096)
        ]


def test_qemu_nbd_tells_holes_inside_a_read(qemu_nbd, image):
    with nbd.connect(qemu_nbd("-f", "raw", str(image), export="web01"), timeout=10) as disk:
        chunks = disk.read_chunks(MIB - 65536, 3 * MIB)
    assert [(run.offset, run.length, run.hole) for run, _ in chunks if not run.hole] == [(MIB, MIB, False)]
    assert sum(run.length for run, _ in chunks) == 3 * MIB
    assert {content for run, content in chunks if run.hole} == {b""}
    assert next(content for run, content in chunks if not run.hole) == b"\xa5" * MIB


def test_several_contexts_are_mapped_together(qemu_nbd, folder):
    disk = str(folder / "disk.qcow2")
    for command in (
        ["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"],
        ["qemu-img", "bitmap", "--add", disk, "today"],
        ["qemu-io", "-f", "qcow2", "-c", "write 1M 64k", disk],
    ):
        subprocess.run(command, check=True, capture_output=True)
    bitmap = "qemu:dirty-bitmap:today"
    uri = qemu_nbd("-r", "-f", "qcow2", "-B", "today", disk, export="web01")
    with nbd.connect(uri, timeout=10, contexts=("base:allocation", bitmap)) as connection:
        assert connection.maps() == {
            "base:allocation": [(0, MIB, 3), (MIB, 65536, 0), (MIB + 65536, 7 * MIB - 65536, 3)],
            bitmap: [(0, MIB, 0), (MIB, 65536, 1), (MIB + 65536, 7 * MIB - 65536, 0)],
        }
        assert connection.maps(MIB, 4096) == {"base:allocation": [(MIB, 4096, 0)], bitmap: [(MIB, 4096, 1)]}


def test_a_range_of_more_than_4_gib_is_zeroed_and_trimmed(nbdkit):
    with nbd.connect(nbdkit("memory", "10G"), timeout=10) as disk:
        disk.write(5 << 30, b"x")
        disk.zero(0, 10 << 30)
        assert disk.read(5 << 30, 1) == b"\0"
        disk.trim(0, 10 << 30)
