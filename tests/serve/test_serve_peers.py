"""The clients that people use work against `omavol serve`."""

import json
import subprocess

import pytest
from benchmarks.servers import OMAVOL


def run(*argv, **options):
    return subprocess.run([str(arg) for arg in argv], check=True, capture_output=True, timeout=60, **options).stdout


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def uri(request, command, place, image):
    where = {"unix": ("--unix", place / "s"), "tcp": ("--tcp", "127.0.0.1:0"), "tcp6": ("--tcp", "[::1]:0")}
    return command(*where[request.param], image).uris[0]


def test_nbdinfo_describes_the_export(uri, image):
    told = json.loads(run("nbdinfo", "--json", "--no-content", uri))
    (export,) = told["exports"]
    assert told["structured"] and export["export-size"] == image.stat().st_size
    assert export["can_multi_conn"] and export["can_flush"] and export["can_fua"] and export["can_df"]
    assert export["contexts"] == ["base:allocation"]


def test_nbdinfo_lists_every_export(command, place, image):
    uri = command("--unix", place / "s", image, f"web01={image}", lines=2).uris[0]
    told = json.loads(run("nbdinfo", "--list", "--json", "--no-content", uri))
    assert sorted(export["export-name"] for export in told["exports"]) == ["", "web01"]


def test_nbdcopy_reads_what_is_there(uri, image, place):
    run("nbdcopy", uri, place / "copy")
    assert (place / "copy").read_bytes() == image.read_bytes()


def test_nbdcopy_writes_and_flushes(uri, image, place):
    fresh = place / "fresh"
    fresh.write_bytes(bytes(reversed(image.read_bytes())))
    run("nbdcopy", "--flush", fresh, uri)
    assert image.read_bytes() == fresh.read_bytes()


def test_qemu_img_compares_and_converts(uri, image, place):
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, place / "copy.qcow2")
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", place / "copy.qcow2", uri)


def test_qemu_io_writes_zeroes_discards_and_reads_back(uri):
    commands = (
        "write -P 7 0 1M",
        "write -f -P 8 1M 64k",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 256k 64k",
        "flush",
        "read -P 7 0 64k",
        "read -P 0 64k 128k",
        "read -P 0 256k 64k",
        "read -P 8 1M 64k",
    )
    said = run("qemu-io", "-f", "raw", *(part for text in commands for part in ("-c", text)), uri).decode()
    assert "failed" not in said


LIBNBD = """
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
h.set_strict_mode(0)
def fails(call, *args, **more):
    try:
        call(*args, **more)
    except nbd.Error as error:
        return error.errno
    return None
h.pwrite(b"x" * 70000, 12345, nbd.CMD_FLAG_FUA)
assert h.pread(70000, 12345) == b"x" * 70000
chunks = []
h.pread_structured(200000, 0, lambda data, offset, status, error: chunks.append((offset, len(data), status)))
assert sum(length for _, length, _ in chunks) == 200000, chunks
assert fails(h.pread, 512, h.get_size()) == "EINVAL"
assert fails(h.pwrite, b"y", h.get_size()) == "ENOSPC"
h.trim(65536, 0)
h.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
h.cache(65536, 0)
h.flush()
extents = []
h.block_status(h.get_size(), 0, lambda name, offset, entries, error: extents.append((name, entries)))
assert extents[0][0] == "base:allocation" and extents[0][1][0] >= 65536 and extents[0][1][1] == 3, extents
cookies = [h.aio_pread(nbd.Buffer(4096), 4096 * i) for i in range(256)]
while cookies:
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
    if cookies:
        h.poll(-1)
h.shutdown()
"""


def test_a_libnbd_script_gets_what_it_asks_for(uri):
    run("/usr/bin/python3", "-c", LIBNBD, uri)


def test_our_own_info_and_copy_agree(uri, image, place):
    assert int(run(OMAVOL, "info", "--size", uri)) == image.stat().st_size
    run(OMAVOL, "copy", uri, place / "copy")
    assert (place / "copy").read_bytes() == image.read_bytes()
