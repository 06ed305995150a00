"""A copy that cannot work says so in one line with exit status 1; a flipped byte is found; a copy can be cancelled."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from copy_data import KIB, MIB, OMAVOL, content, make

from omavol.copy.engine import Job, Options, replicate
from omavol.copy.errors import CopyError
from omavol.copy.verify import verify
from raw_client import until


@pytest.fixture
def disk(tmp_path):
    return make(tmp_path / "disk", 8 * MIB, {0: content(8 * MIB)})


def one_line(said, side, *words):
    assert said["exit"] == 1
    (line,) = said["lines"]
    assert line.startswith(f"omavol copy: {side} ")
    for word in words:
        assert word in line
    return line


def test_a_missing_source_costs_the_destination_nothing(copy, disk, tmp_path):
    said = copy(tmp_path / "none", disk)
    one_line(said, "source", "cannot open", "No such file")
    assert disk.read_bytes() == content(8 * MIB)


def test_a_refused_connection(copy, disk, sockets):
    said = copy(disk, f"nbd+unix:///?socket={sockets / 'nobody'}")
    one_line(said, "destination", "cannot connect")


def test_an_unknown_export(copy, disk, start):
    uri = start(OMAVOL, "serve", "--unix", "SOCK", f"one={disk}", export="two")
    one_line(copy(uri, "null:"), "source", "two")


@pytest.mark.parametrize("kind", ["nbd", "block"])
def test_a_smaller_destination_is_refused_before_a_byte_moves(kind, copy, disk, serve, tmp_path):
    small = make(tmp_path / "small", 4 * MIB, {0: content(4 * MIB, 9)})
    if kind == "block":
        found = subprocess.run(["losetup", "--find", "--show", small], capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip("this machine has no loop devices")
        target = found.stdout.strip()
    else:
        target = serve("nbdkit", small)
    try:
        said = copy(disk, target)
    finally:
        if kind == "block":
            subprocess.run(["losetup", "--detach", target], check=True)
    one_line(said, "destination", "nothing was copied", str(4 * MIB), str(8 * MIB))
    assert small.read_bytes() == content(4 * MIB, 9)


def test_a_read_only_export_is_refused(copy, disk, start):
    uri = start("nbdkit", "-f", "-r", "-U", "SOCK", "file", disk)
    one_line(copy(disk, uri), "destination", "read-only")


def test_the_source_itself_is_refused_as_destination(copy, disk):
    one_line(copy(disk, disk), "destination", "is the source itself")
    assert disk.stat().st_size == 8 * MIB


def test_a_directory_is_refused(copy, disk, tmp_path):
    one_line(copy(disk, tmp_path), "destination", "directory")
    one_line(copy(tmp_path, "null:"), "source", "irectory")


def test_null_is_no_source_and_cannot_be_verified(copy, disk):
    one_line(copy("null:", disk), "source", "only be a destination")
    one_line(copy(disk, "null:", "--verify"), "destination", "read back")


@pytest.mark.parametrize("target", ["file", "nbd"])
def test_a_full_destination_is_named_with_the_offset(target, copy, disk, start, sockets):
    """A file system of 4 MiB, mounted for the test; without the right to mount, nbdkit says the same."""
    full = sockets / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", full], check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        place = full / "disk"
        if target == "file":
            said = copy(disk, place)
        else:
            make(place, 8 * MIB, {})
            said = copy(disk, start("nbdkit", "-f", "-U", "SOCK", "file", place))
    finally:
        subprocess.run(["umount", "--lazy", full], check=True)
    assert "offset" in one_line(said, "destination", "write", "o space left on device")
    if target == "file":
        assert said["offset"] >= 2 * MIB
    else:  # nbdkit's threads write in any order: which of the requests under way finds no room is theirs to say
        assert said["offset"] in range(0, 8 * MIB, 512 * KIB)


@pytest.mark.parametrize("filtered", ["pread", "pwrite", "extents", "zero"])
def test_an_error_of_a_peer_ends_the_copy(filtered, copy, disk, start, tmp_path):
    sparse = make(tmp_path / "sparse", 8 * MIB, {0: content(MIB)})
    place = make(tmp_path / "place", 8 * MIB, {})
    rate = (f"error-{filtered}=EIO", f"error-{filtered}-rate=100%")
    reads = filtered in ("pread", "extents")
    uri = start("nbdkit", "-f", "-U", "SOCK", "--filter=error", "file", disk if reads else place, *rate)
    said = copy(uri, "null:") if reads else copy(sparse, uri)
    one_line(said, "source" if reads else "destination", "EIO", "offset")


def test_slow_and_unordered_answers_are_waited_for(copy, disk, start, tmp_path):
    place = make(tmp_path / "place", 8 * MIB, {})
    delays = ("delay-read=20ms", "delay-write=30ms")
    source = start("nbdkit", "-f", "-U", "SOCK", "--filter=delay", "file", disk, *delays)
    target = start("nbdkit", "-f", "-U", "SOCK", "--filter=delay", "file", place, *delays)
    said = copy(source, target, "--verify")
    assert (said["exit"], said["lines"]) == (0, [])
    assert place.read_bytes() == content(8 * MIB)


def test_a_source_cut_short_while_it_is_copied(disk):
    """The size was taken, then the file shrank: the copy fails at that offset, it does not hang or pad."""
    job = Job(str(disk), "null:", Options(rate=16 * MIB))
    errors = []

    def run() -> None:
        try:
            job.run()
        except CopyError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: job.counters().done > 0)
    os.truncate(disk, 5 * MIB)
    thread.join(20)
    (error,) = errors
    assert (error.code, error.side) == ("copy.short", "source")


def test_a_copy_can_be_cancelled_and_its_rate_changed_while_it_runs(disk, serve, tmp_path):
    job = Job(serve("nbdkit", disk), str(tmp_path / "there"), Options(rate=MIB, digests=True))
    errors = []

    def run() -> None:
        try:
            job.run()
        except CopyError as error:
            errors.append(error.code)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: job.counters().done > 0)
    before = job.counters()
    assert before.planned == 8 * MIB
    assert before.done < 4 * MIB
    job.rate = 100 * MIB
    until(lambda: job.counters().done > before.done + MIB or not thread.is_alive())
    job.rate = 1
    job.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert errors in (["copy.cancelled"], [])


def test_a_cancel_before_the_start_is_heard(disk):
    job = Job(str(disk), "null:")
    job.cancel()
    with pytest.raises(CopyError, match="cancelled"):
        job.run()


def test_the_rate_is_kept(disk):
    begun = time.monotonic()
    Job(str(disk), "null:", Options(rate=16 * MIB)).run()
    assert 0.3 < time.monotonic() - begun < 3


def test_a_byte_flipped_in_flight_is_found_by_the_digests(disk, serve, sockets, tmp_path):
    """Between the copy and the server stands a relay that changes one byte of the stream."""
    place = make(tmp_path / "place", 8 * MIB, {})
    path = serve("nbdkit", place).partition("socket=")[2]
    relay = sockets / "relay"
    flipped = threading.Event()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(relay))
    listener.listen()

    def pump(source, target, at):
        seen = 0
        while data := source.recv(1 << 16):
            if at is not None and seen <= at < seen + len(data) and not flipped.is_set():
                data = bytearray(data)
                data[at - seen] ^= 1
                flipped.set()
            seen += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def accept():
        here, _ = listener.accept()
        there = socket.socket(socket.AF_UNIX)
        there.connect(path)
        with here, there:
            back = threading.Thread(target=pump, args=(there, here, None))
            back.start()
            pump(here, there, 3 * MIB)
            back.join()

    thread = threading.Thread(target=accept)
    thread.start()
    result = replicate(str(disk), f"nbd+unix:///?socket={relay}", connections=1)
    thread.join(10)
    listener.close()
    assert flipped.is_set()
    assert result.digests is not None
    differing = verify(place, result.digests).differing
    assert len(differing) == 1
    (offset, length) = differing[0]
    assert place.read_bytes()[offset : offset + length] != content(8 * MIB)[offset : offset + length]


@pytest.mark.parametrize("place", ["copy.first-sent", "copy.half-sent", "copy.before-flush"])
def test_each_named_place_is_reached(place, disk, serve, sockets, tmp_path):
    uri = serve("omavol", make(tmp_path / "place", 8 * MIB, {}))
    log = sockets / "log"
    done = subprocess.run(
        [OMAVOL, "copy", disk, uri],
        env={**os.environ, "OMA_FAILPOINT": place, "OMA_FAILPOINT_LOG": str(log)},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert log.read_text().split() == [place]


def test_an_interrupt_ends_the_copy_at_once(disk, start):
    uri = start("nbdkit", "-f", "-U", "SOCK", "--filter=delay", "file", disk, "delay-read=60")
    process = subprocess.Popen([OMAVOL, "copy", uri, "null:", "-p"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.read(1)  # the progress bar has begun
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT


def test_a_timeout_of_a_silent_peer_is_the_tool_s_too(disk, start, tmp_path):
    """A server that delays longer than the limit, seen by the engine with a short one."""
    uri = start("nbdkit", "-f", "-U", "SOCK", "--filter=delay", "file", disk, "delay-read=3")
    with pytest.raises(CopyError, match=r"source .*: no answer for 0.3 s, at offset 0") as caught:
        Job(uri, str(tmp_path / "there"), Options(timeout=0.3)).run()
    assert caught.value.code == "copy.silent"


@pytest.mark.parametrize("size", [64 * KIB])
def test_digests_of_an_export_equal_those_of_the_file(size, disk, serve):
    assert replicate(serve("qemu-nbd", disk), "null:").digests == replicate(str(disk), "null:").digests
