"""What the load generator counts is what the server did, whoever the server is."""

import subprocess
import time
from pathlib import Path

import pytest

from omavol.load import Load, LoadFailed, run
from omavol.nbd.errors import ConnectFailed, Disconnected, NotAllowed, NotOffered, TimedOut
from raw_client import until

MIB = 1 << 20
SHORT = 0.1  # seconds


def told(table, name="disk"):
    """What the server counted, once its clients are gone."""
    until(lambda: not any(row.connections for row in table.list()))
    return next(row for row in table.list() if row.name == name)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("depth", [1, 16])
@pytest.mark.parametrize(
    ("operation", "size"),
    [("randread", 4096), ("randwrite", 4096), ("randrw", 512), ("read", 65536), ("write", 131072)],
)
def test_client_and_server_count_the_same(table, uri, operation, size, depth, connections):
    result = run(Load(uri, operation, size, depth, connections, seconds=SHORT))
    row = told(table)
    assert result.errors == 0
    assert result.times.count > depth
    assert row.requests == result.times.count + connections  # each says DISC
    assert (row.bytes_read, row.bytes_written) == (result.read.bytes, result.write.bytes)
    assert result.times.bytes == result.times.count * size


@pytest.mark.parametrize("operation", ["read", "write"])
@pytest.mark.parametrize("size", [4096, 3 * 4096, 3 * MIB])
def test_once_goes_through_every_byte_of_the_export(table, uri, image, operation, size):
    result = run(Load(uri, operation, size, depth=3, connections=2, once=True))
    row = told(table)
    assert result.times.bytes == image.stat().st_size
    assert max(row.bytes_read, row.bytes_written) == image.stat().st_size
    if operation == "write":
        assert b"\0" not in image.read_bytes()  # so that no server takes it for a hole


def test_status_tells_the_extents_of_the_whole_export_once(table, uri, image):
    result = run(Load(uri, "status", once=True))
    assert (result.extents, result.times.bytes) == (2, image.stat().st_size)


def test_status_in_many_stretches_covers_the_export_too(table, uri, image):
    assert run(Load(uri, "status", depth=5, connections=3, once=True)).times.bytes == image.stat().st_size


def test_a_mix_has_about_the_share_of_reads_that_was_asked(table, uri):
    result = run(Load(uri, "randrw", depth=16, reads=70, seconds=0.5))
    assert result.read.count / result.times.count == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("by", ["uri", "tcp"])
@pytest.mark.parametrize("connections", [1, 4])
def test_connect_counts_whole_connections(table, request, by, connections):
    result = run(Load(request.getfixturevalue(by), "connect", connections=connections, seconds=SHORT))
    row = told(table)
    assert result.times.count >= connections
    assert row.requests == 2 * result.times.count + 1  # READ and DISC of each, and DISC of the client that looked
    assert row.bytes_read == result.times.bytes


def test_warm_up_does_not_count(table, uri):
    result = run(Load(uri, seconds=SHORT, warmup=SHORT))
    assert SHORT <= result.seconds < 2 * SHORT + 0.1
    assert told(table).requests > result.times.count + 2


def test_flush_ends_a_load_once(table, uri):
    result = run(Load(uri, "write", 65536, depth=4, connections=2, once=True, flush=True))
    assert told(table).flushes == 1
    assert result.flush_seconds > 0


def test_the_whole_load_is_timed_and_so_is_its_processor(table, uri):
    began = time.perf_counter()
    result = run(Load(uri, depth=8, seconds=SHORT))
    assert SHORT <= result.seconds <= time.perf_counter() - began
    assert 0 < result.user + result.system <= result.seconds * 1.1


PEERS = {
    "nbdkit": ("nbdkit", "-f", "-U", "SOCK", "file"),
    "qemu-nbd": ("qemu-nbd", "--persistent", "-e", "8", "-k", "SOCK", "-f", "raw"),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("operation", ["randread", "randwrite", "randrw", "read", "write", "status", "connect"])
def test_peers_are_measured_by_the_same_load(start, image, peer, operation):
    server = start(*PEERS[peer], image)
    depth = 1 if operation == "connect" else 8
    result = run(Load(server, operation, depth=depth, connections=2, seconds=SHORT))
    assert result.times.count > 1
    assert (result.errors, result.export.structured) == (0, True)


def test_simple_replies_are_measured_too(start, image):
    result = run(Load(start("nbdkit", "-f", "--no-sr", "-U", "SOCK", "file", image), depth=8, seconds=SHORT))
    assert not result.export.structured
    assert result.times.bytes == result.times.count * 4096 > 0


def test_latency_is_the_servers(start, image):
    slow = start("nbdkit", "-f", "-U", "SOCK", "--filter=delay", "file", image, "rdelay=20ms")
    times = run(Load(slow, seconds=0.3)).times
    assert 20_000_000 <= times.least <= times.percentile(50) <= times.most


@pytest.mark.parametrize("depth", [1, 8])
def test_errors_are_counted_and_the_first_is_told(start, image, depth):
    broken = start(
        "nbdkit", "-f", "-U", "SOCK", "--filter=error", "file", image, "error=ENOSPC", "error-pread-rate=100%"
    )
    result = run(Load(broken, depth=depth, seconds=SHORT))
    assert result.times.count == 0
    assert result.errors > depth
    assert result.first_error.startswith("READ at offset ")
    assert result.first_error.endswith("was answered by ENOSPC")


def test_a_server_that_falls_silent_ends_the_load(start, image):
    """C25."""
    silent = start("nbdkit", "-f", "-U", "SOCK", "--filter=delay", "file", image, "rdelay=3600")
    with pytest.raises(TimedOut, match=r"no answer for 0\.3 s"):
        run(Load(silent, depth=4, connections=2, timeout=0.3))


def test_a_server_that_dies_ends_the_load(start, image):
    server = start("nbdkit", "-f", "-U", "SOCK", "file", image)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {start.running[0].pid}"])
    with pytest.raises((Disconnected, LoadFailed)):
        run(Load(server, depth=4, seconds=20))
    killer.wait()


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(ConnectFailed):
        run(Load("nbd://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"operation": "dance"}, "no operation"),
        ({"size": 8 << 20}, "too few for requests"),
        ({"size": 64 << 20}, "at most 33554432"),
        ({"operation": "randread", "once": True}, "has no end"),
        ({"operation": "read", "once": True, "warmup": 1}, "no warm-up"),
        ({"operation": "connect", "depth": 2}, "one request of each"),
        ({"depth": 0}, "depth is 1"),
    ],
)
def test_what_an_export_cannot_take_is_refused_before_a_request(table, uri, load, words):
    """C14, C15, C16."""
    with pytest.raises(NotAllowed, match=words):
        run(Load(uri, **load))
    assert told(table).requests <= 1  # DISC


def test_a_read_only_export_is_not_written(table, uri):
    with pytest.raises(NotAllowed, match="read-only"):
        run(Load(uri.replace("disk", "fixed"), "randwrite"))


def test_block_status_needs_the_context(start, image):
    """C17."""
    with pytest.raises(NotOffered, match="base:allocation"):
        run(Load(start("nbdkit", "-f", "--no-sr", "-U", "SOCK", "file", image), "status"))


def test_no_descriptor_is_left_behind(table, uri):
    def held():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    run(Load(uri, connections=4, seconds=0.05))
    run(Load(uri, "connect", connections=4, seconds=0.05))
    until(lambda: held() == before)


@pytest.mark.parametrize("operation", ["randread", "randwrite", "read", "status"])
def test_a_server_inside_tls_is_measured(start, image, place, operation):
    key = place / "keys.psk"
    key.write_text("bench:" + "5a" * 32 + "\n")
    server = start("nbdkit", "-f", "-U", "SOCK", "--tls=require", f"--tls-psk={key}", "file", image)
    secured = f"nbds+unix://bench@/?socket={server.partition('socket=')[2]}&tls-psk-file={key}"
    result = run(Load(secured, operation, depth=16, connections=2, seconds=SHORT))
    assert (result.errors, result.times.count > 16) == (0, True)
