"""Two faults of other clients, tried on our copy and our client; the rest of the clients' are in tests/nbd."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL, wait_for_socket

from omavol import _wire

MIB = 1 << 20
READ, STATUS = 0, 7


@pytest.fixture
def place():
    path = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("failing", ["pread", "pwrite"])
def test_a_copy_whose_reads_or_writes_failed_is_no_success(place, failing):
    """CVE-2022-0485, nbdcopy: asynchronous requests that failed were forgotten, and the copy said it was done."""
    path, disk = place / "s", place / "disk"
    disk.write_bytes(os.urandom(4 * MIB))
    argv = ["nbdkit", "-f", "-U", path, "--filter=error", "memory", "4M", f"error-{failing}=EIO", "error-rate=100%"]
    with subprocess.Popen([str(arg) for arg in argv]) as server:
        try:
            wait_for_socket(path, server)
            uri = f"nbd+unix:///?socket={path}"
            ends = (uri, place / "copy") if failing == "pread" else (disk, uri)
            done = subprocess.run(
                [OMAVOL, "copy", *map(str, ends)], capture_output=True, text=True, timeout=60, check=False
            )
        finally:
            server.terminate()
    assert done.returncode == 1, done
    assert "EIO" in done.stderr or "error" in done.stderr.lower()


def test_64_bit_status_flags_are_no_assertion():
    """CVE-2023-5871, libnbd: a server that sent 64-bit status flags, which nobody had asked for, ended the client.

    An extended status chunk answers only where extended headers were agreed; elsewhere its type is a breach (C1).
    """
    chunk = struct.pack(">IIQQ", 1, 1, MIB, 1 << 63)
    assert not _wire.judge_chunk_header(1, 6, len(chunk), STATUS, MIB)
    assert _wire.judge_chunk_header(1, 6, len(chunk), STATUS, MIB, begin=0)
    for length in (0, 8, 23, 25, 8 + 16 + 1, 2**63, 2**64 - 1):
        assert not _wire.judge_chunk_header(1, 6, length, STATUS, MIB, begin=0)
    assert not _wire.judge_chunk_header(1, 6, len(chunk), READ, MIB, begin=0)
