"""A connection lost in a copy is made anew, and what no FLUSH covers is sent again: rule C5, and C11 on the way."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from copy_cutter import Cutter
from copy_data import KIB, MIB, OMAVOL, content, make
from copy_hostile import DISC, FLAGS, FLUSH, READ, SIZE, WRITE, ZERO, negotiate, requests

from omavol import _wire
from omavol.copy.engine import Job, Options, replicate
from omavol.copy.errors import CopyError
from omavol.copy.reconnect import Attempts, without
from omavol.copy.verify import verify
from raw_client import until

DISK = content(SIZE)
PIECE = 512 * KIB


class Volatile:
    """A server whose writes are on stable storage only after FLUSH: what was not flushed is gone when it dies.

    `dies` gives for each life (connection) how many requests it answers before it drops everything and closes.
    """

    def __init__(self, dies: list[int | None], *, flags: int = FLAGS, size: int = SIZE, disk: bytes = b"") -> None:
        self.dies = dies
        self.flags = [flags] * len(dies)
        self.sizes = [size] * len(dies)
        self.stable = bytearray(disk or bytes(size))
        self.lives = 0
        self.log: list[list[tuple[int, int, int]]] = []

    def __call__(self, connection: socket.socket) -> None:
        life, self.lives = self.lives, self.lives + 1
        most = self.dies[life]
        cache: dict[int, bytes] = {}
        self.log.append([])
        data = negotiate(connection, size=self.sizes[life], flags=self.flags[life])
        for number, asked in enumerate(requests(connection, data)):
            if asked.type == DISC:
                return
            if asked.type == 7:
                descriptor = asked.length.to_bytes(4, "big") + bytes(4)
                connection.sendall(_wire.make_status_chunk(1, asked.cookie, 1, 1) + descriptor)
                continue
            if number == most:
                return
            self.log[life].append((asked.type, asked.offset, asked.length))
            if asked.type == READ:
                connection.sendall(asked.data(bytes(self.stable[asked.offset : asked.offset + asked.length])))
                continue
            if asked.type == FLUSH:
                for offset, data in cache.items():
                    self.stable[offset : offset + len(data)] = data
                cache.clear()
            else:
                cache[asked.offset] = asked.payload if asked.type == WRITE else bytes(asked.length)
            connection.sendall(asked.done())

    def written(self, life: int) -> set[int]:
        return {offset for kind, offset, _ in self.log[life] if kind in (WRITE, ZERO)}


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(DISK)
    return str(path)


def options(**more) -> Options:
    return Options(**({"retries": 3, "retry_delay": 0.0, "timeout": 10.0} | more))


@pytest.mark.parametrize("digests", [False, True])
def test_C5_what_was_acknowledged_and_not_flushed_is_sent_again_to_a_server_that_died(digests, fake, disk):
    server = Volatile([3, None])
    result = Job(disk, fake(server), options(digests=digests)).run()
    assert bytes(server.stable) == DISK
    assert result.flushed
    assert server.written(0) <= server.written(1)  # none of it was flushed
    assert result.counters.reconnects == 1
    assert result.counters.done == result.counters.planned == SIZE
    if digests:
        assert verify(disk, result.digests).matches
        assert sum(record.length for record in result.digests) == SIZE


def test_C5_only_what_no_flush_covers_is_sent_again(fake, tmp_path):
    """A FLUSH every 4 MiB on the way: what is due again is bounded by that and by what is in flight."""
    size = 32 * MIB
    path = tmp_path / "disk"
    path.write_bytes(content(size))
    server = Volatile([50, None], size=size)
    result = Job(str(path), fake(server), options(flush_every=4 * MIB, digests=True)).run()
    assert bytes(server.stable) == content(size)
    flushes = [number for number, (kind, _, _) in enumerate(server.log[0]) if kind == FLUSH]
    behind = {offset for kind, offset, _ in server.log[0][flushes[-1] :] if kind == WRITE}
    assert behind <= server.written(1)  # acknowledged or not, it is gone
    again = server.written(0) & server.written(1)
    bound = 4 * MIB + 3 * MIB  # flush_every, and what is in flight between two ends on one machine
    assert len(again) * PIECE <= bound
    assert result.counters.bytes_again <= bound + 3 * MIB  # of it, what was begun and not even sent


def test_C5_dying_in_the_last_flush_sends_everything_again(fake, disk):
    writes = SIZE // MIB
    server = Volatile([writes, None])
    result = Job(disk, fake(server), options()).run()
    assert bytes(server.stable) == DISK
    assert server.written(1) == server.written(0)
    assert result.counters.bytes_again == SIZE


def test_C5_without_a_flush_on_offer_everything_is_sent_again(fake, disk):
    server = Volatile([3, None], flags=1 | 1 << 6)
    result = Job(disk, fake(server), options()).run()
    assert not result.flushed
    assert server.written(1) == {*range(0, SIZE, MIB)}


@pytest.mark.parametrize("change", ["size", "flags"])
def test_C5_an_export_that_came_back_as_another_is_refused(change, fake, disk):
    server = Volatile([2, None])
    if change == "size":
        server.sizes[1] = 2 * SIZE
    else:
        server.flags[1] |= 1 << 3
    uri = fake(server)
    with pytest.raises(CopyError, match="another size or other abilities") as caught:
        Job(disk, uri, options()).run()
    assert (caught.value.code, caught.value.side) == ("copy.changed", "destination")


def test_C5_a_server_that_dies_at_the_same_place_each_time_ends_the_copy(fake, disk):
    server = Volatile([3] * 4)
    with pytest.raises(CopyError) as caught:
        Job(disk, fake(server), options()).run()
    assert (caught.value.code, caught.value.side) == ("copy.closed", "destination")
    assert server.lives == 4  # one, and three retries


def test_C5_a_server_that_is_gone_is_tried_as_often_as_asked(fake, disk, sockets):
    server = Volatile([2])

    def once(connection):
        (sockets / "f0").unlink()
        server(connection)

    uri = fake(once)
    with pytest.raises(CopyError, match="cannot connect") as caught:
        Job(disk, uri, options(retries=2)).run()
    assert caught.value.code == "copy.open"


def test_C5_a_lost_source_is_asked_again_for_what_it_did_not_answer(fake, tmp_path):
    source, destination = Volatile([4, None], disk=DISK), Volatile([None])
    result = Job(fake(source), fake(destination), options()).run()
    assert bytes(destination.stable) == DISK
    assert destination.lives == 1
    answered = {offset for _, offset, _ in source.log[0]}
    assert result.counters.reconnects == 1
    assert {offset for _, offset, _ in source.log[1]} | answered == {*range(0, SIZE, PIECE)}
    offsets = [offset for kind, offset, _ in destination.log[0] if kind == WRITE]
    assert len(offsets) == len(set(offsets))  # nothing was written twice
    assert result.counters.bytes_again < SIZE


def test_C5_a_source_that_is_lost_when_all_was_flushed_is_not_asked_for(fake, tmp_path):
    """The source dies with nothing left to ask while the destination takes its time to flush."""
    flushing, died = threading.Event(), threading.Event()

    class Dying(Volatile):
        def __call__(self, connection):
            threading.Thread(target=self.die, args=(connection.dup(),)).start()
            super().__call__(connection)

        def die(self, connection):
            with connection:
                assert flushing.wait(10)
                connection.shutdown(socket.SHUT_RDWR)
            died.set()

    def patient(connection):
        for asked in requests(connection, negotiate(connection)):
            if asked.type == DISC:
                return
            if asked.type == FLUSH and not flushing.is_set():
                flushing.set()
                assert died.wait(10)
            connection.sendall(asked.done())

    result = Job(fake(Dying([None], disk=DISK)), fake(patient), options(retries=1)).run()
    assert result.flushed
    assert result.counters.done == SIZE


def test_C6_eshutdown_is_a_loss_like_another(fake, disk):
    stopping = Volatile([None, None])

    def behave(connection):
        if stopping.lives == 0:
            stopping.lives = 1
            stopping.log.append([])
            for asked in requests(connection, negotiate(connection)):
                connection.sendall(_wire.make_simple_reply(108, asked.cookie))
        else:
            stopping(connection)

    result = Job(disk, fake(behave), options()).run()
    assert bytes(stopping.stable) == DISK
    assert result.counters.reconnects == 1


def test_C6_from_a_source_that_shuts_down_nothing_more_is_asked_and_disc_comes_last(fake, tmp_path):
    """The first READ is refused, those in flight are answered; without retries that ends the copy."""
    asked_types = []
    left = threading.Event()

    def behave(connection):
        for asked in requests(connection, negotiate(connection, size=32 * MIB)):
            asked_types.append(asked.type)
            if asked.type == DISC:
                left.set()
                return
            if asked.type == 7:
                descriptor = asked.length.to_bytes(4, "big") + bytes(4)
                connection.sendall(_wire.make_status_chunk(1, asked.cookie, 1, 1) + descriptor)
            elif READ in asked_types[:-1]:
                connection.sendall(asked.data(bytes(asked.length)))
            else:
                connection.sendall(_wire.make_error_chunk(1, asked.cookie, 108, b""))

    with pytest.raises(CopyError, match="ESHUTDOWN"):
        Job(fake(behave), str(tmp_path / "there"), Options(timeout=10.0)).run()
    assert left.wait(10)
    reads = asked_types.count(READ)
    assert asked_types == [7] + [READ] * reads + [DISC]
    assert reads <= 2 * 3 * MIB // PIECE  # what fits in flight between two ends on one machine, not all 64


def test_C6_a_write_refused_while_it_is_sent_is_sent_to_its_end_before_disc(fake, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(content(8 * MIB))
    seen = []
    left = threading.Event()

    def take(connection, length):
        data = b""
        while len(data) < length:
            if not (more := connection.recv(length - len(data))):
                raise ConnectionError
            data += more
        return data

    def behave(connection):
        assert negotiate(connection, size=8 * MIB, flags=1 | 1 << 2) == b""
        while True:
            asked = _wire.decode_request(take(connection, 28))
            seen.append(asked[1])
            if asked[1] == DISC:
                left.set()
                return
            connection.sendall(_wire.make_simple_reply(108, asked[2]))
            take(connection, asked[4])

    with pytest.raises(CopyError, match="ESHUTDOWN"):
        Job(str(path), fake(behave), Options(timeout=10.0)).run()
    assert left.wait(10)
    assert seen == [WRITE] * (len(seen) - 1) + [DISC]
    assert len(seen) < 8


def test_a_breach_is_no_loss(fake, disk):
    lives = []

    def liar(connection):
        lives.append(1)
        for _ in requests(connection, negotiate(connection)):
            connection.sendall(b"\1" * 28)

    with pytest.raises(CopyError) as caught:
        Job(disk, fake(liar), options()).run()
    assert caught.value.code == "copy.breach"
    assert len(lives) == 1


def test_without_retries_a_loss_ends_the_copy_at_once(fake, disk):
    server = Volatile([2, None])
    with pytest.raises(CopyError) as caught:
        Job(disk, fake(server), Options(timeout=10)).run()
    assert caught.value.code == "copy.closed"
    assert server.lives == 1


def test_a_replication_does_not_reconnect(fake, disk):
    """A write session whose server died is unprovable: its copy fails at once."""
    server = Volatile([2, None])
    with pytest.raises(CopyError):
        replicate(disk, fake(server))
    assert server.lives == 1


def test_a_cancel_is_heard_while_reconnecting(fake, disk):
    server = Volatile([2, None])
    job = Job(disk, fake(server), options(retry_delay=30.0))
    errors = []

    def run():
        try:
            job.run()
        except CopyError as error:
            errors.append(error.code)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: job.trouble is not None, 20)
    assert job.trouble == "destination lost, attempt 1 of 3"
    job.cancel()
    thread.join(10)
    assert errors == ["copy.cancelled"]


def test_attempts_are_counted_between_two_advances():
    attempts = Attempts(most=3, delay=40.0)
    assert [attempts.next(10), attempts.next(10), attempts.next(11), attempts.next(10)] == [40.0, 60.0, 60.0, None]
    assert attempts.next(9) == 40.0


def test_records_of_what_is_sent_again_are_dropped():
    record = [at.to_bytes(8, "little") + bytes(32) for at in (0, 10, 20, 30)]
    assert without(b"".join(record), [(10, 10, False), (30, 5, True)]) == record[0] + record[2]
    assert without(b"".join(record), []) == b"".join(record)


@pytest.fixture
def cut(sockets):
    """A relay before a unix socket's URI that cuts; the URI of the relay."""
    cutters = []

    def begin(uri: str, cuts: list[int]) -> str:
        listener = socket.socket(socket.AF_UNIX)
        path = sockets / f"cut{len(cutters)}"
        listener.bind(os.fspath(path))
        listener.listen()
        before, _, place = uri.partition("socket=")
        cutters.append(Cutter(place, listener, cuts))
        return f"{before}socket={path}"

    yield begin
    for cutter in cutters:
        cutter.listener.shutdown(socket.SHUT_RDWR)
        cutter.listener.close()
        for thread in cutter.threads:
            thread.join(10)


@pytest.mark.parametrize("peer", ["omavol", "qemu-nbd"])
def test_a_line_that_breaks_at_both_ends_delivers_the_disk(peer, copy, cut, serve, tmp_path):
    size = 32 * MIB
    pieces = {0: content(9 * MIB), 12 * MIB - 77: content(8 * MIB, 5), size - 4096: content(4096, 7)}
    disk = make(tmp_path / "disk", size, pieces)
    place = make(tmp_path / "place", size, {MIB: content(11 * MIB, 99)})
    source = cut(serve(peer, disk), [150, 300, 200])
    target = cut(serve(peer, place), [3 * MIB, MIB, 5 * MIB, 2 * MIB])
    said = copy(source, target, "--retries", "20", "--retry-delay", "0", "--verify", "--connections", "1")
    assert said["lines"] == []
    assert said["reconnects"] >= 4
    assert said["bytes_again"] > 0
    assert place.read_bytes() == disk.read_bytes()


def test_omavol_serve_killed_in_a_write_and_started_again(start, sockets, tmp_path, disk):
    """It dies at its named place; another one takes its socket, and the copy goes on into that."""
    place = make(tmp_path / "place", SIZE, {})
    uri = start("env", "OMA_FAILPOINT=serve.write-done", OMAVOL, "serve", "--unix", "SOCK", place)
    results = []
    job = Job(disk, uri, options(retries=200, retry_delay=0.05, digests=True))
    thread = threading.Thread(target=lambda: results.append(job.run()))
    thread.start()
    until(lambda: job.trouble is not None, 20)
    path = Path(uri.partition("socket=")[2])
    path.unlink()
    with subprocess.Popen([OMAVOL, "serve", "--unix", path, place], stdout=subprocess.DEVNULL) as again:
        thread.join(60)
        again.terminate()
    (result,) = results
    assert result.counters.reconnects == 1
    assert place.read_bytes() == DISK
    assert verify(place, result.digests).matches
