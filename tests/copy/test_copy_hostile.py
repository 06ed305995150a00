"""Servers that break the protocol, fail or fall silent: one line, side and offset, never success (C1, C22 to C25)."""

from __future__ import annotations

import socket
import threading

import pytest
from copy_data import KIB, MIB, content
from copy_hostile import DONE, FLAGS, FLUSH, READ, SIZE, WRITE, ZERO, negotiate, receive, requests, scripted

from omavol import _wire
from omavol.copy.engine import Job, Options
from omavol.copy.errors import CopyError

DISK = content(SIZE)
SECOND = 512 * KIB  # the offset of the second request


def of_disk(asked):
    return DISK[asked.offset : asked.offset + asked.length]


def honest(asked, _):
    if asked.type == READ:
        return asked.data(of_disk(asked))
    return asked.done()


def failure(source, destination="null:", *, timeout=10.0, digests=False):
    with pytest.raises(CopyError) as caught:
        Job(source, destination, Options(timeout=timeout, digests=digests)).run()
    assert "\n" not in str(caught.value)
    return caught.value


# What a source may answer to the READ at SECOND, and the words of the complaint.
READS = {
    "a gap": (lambda a: _wire.make_data_chunk(DONE, a.cookie, a.offset, a.length - 1) + of_disk(a)[1:], "without all"),
    "NONE alone": (lambda a: a.done(), "without all"),
    "a hole and no rest": (
        lambda a: (
            _wire.make_chunk(DONE, 2, a.cookie, 12) + a.offset.to_bytes(8, "big") + (a.length // 2).to_bytes(4, "big")
        ),
        "without all",
    ),
    "overlap": (lambda a: a.data(of_disk(a), flags=0) + a.data(of_disk(a)), "overlaps"),
    "content behind the request": (
        lambda a: _wire.make_data_chunk(DONE, a.cookie, a.offset + 1, a.length) + of_disk(a),
        "outside",
    ),
    "content before the request": (
        lambda a: _wire.make_data_chunk(DONE, a.cookie, a.offset - 1, a.length) + of_disk(a),
        "outside",
    ),
    "an empty chunk": (lambda a: _wire.make_chunk(DONE, 1, a.cookie, 8) + bytes(8), "cannot answer"),
    "an unknown chunk": (lambda a: _wire.make_chunk(DONE, 77, a.cookie, 0), "cannot answer"),
    "block status": (lambda a: _wire.make_status_chunk(DONE, a.cookie, 1, 1) + bytes(8), "cannot answer"),
    "a foreign cookie": (lambda a: _wire.make_data_chunk(DONE, 1 << 40, a.offset, 1) + b"x", "not sent"),
    "a cookie of the table's end": (lambda a: _wire.make_chunk(DONE, 0, 2**32 - 1, 0), "not sent"),
    "a wrong magic": (lambda a: b"\1" * 28, "wrong magic"),
    "a simple reply": (lambda a: _wire.make_simple_reply(0, a.cookie) + of_disk(a), "simple reply"),
    "an error chunk without error": (
        lambda a: _wire.make_chunk(DONE, 0x8001, a.cookie, 6) + bytes(6),
        "without an error",
    ),
}


@pytest.mark.parametrize("case", READS)
def test_a_source_that_breaks_the_protocol_is_never_believed(case, fake):
    answer, words = READS[case]
    uri = fake(scripted(lambda asked, _: answer(asked) if asked.offset == SECOND else asked.data(of_disk(asked))))
    error = failure(uri)
    assert (error.code, error.side) == ("copy.breach", "source")
    assert words in str(error)


def test_content_in_any_order_is_content(fake, tmp_path):
    def backwards(asked, _):
        step = asked.length // 8
        starts = [*range(1, 8, 2), *range(6, -1, -2)]
        chunks = [
            _wire.make_data_chunk(DONE if at == starts[-1] else 0, asked.cookie, asked.offset + at * step, step)
            + of_disk(asked)[at * step : (at + 1) * step]
            for at in starts
        ]
        return b"".join(chunks)

    Job(fake(scripted(backwards)), str(tmp_path / "here")).run()
    assert (tmp_path / "here").read_bytes() == DISK


@pytest.mark.parametrize("kind", [0x8001, 0x8002, 0x80FF])
def test_an_error_chunk_in_the_middle_of_a_read_fails_it(kind, fake):
    def broken(asked, _):
        if asked.offset != SECOND:
            return asked.data(of_disk(asked))
        half = _wire.make_data_chunk(0, asked.cookie, asked.offset, 4096) + of_disk(asked)[:4096]
        tail = (
            (5).to_bytes(4, "big")
            + (4).to_bytes(2, "big")
            + b"disk"
            + (asked.offset.to_bytes(8, "big") if kind == 0x8002 else b"")
        )
        return half + _wire.make_chunk(DONE, kind, asked.cookie, len(tail)) + tail

    error = failure(fake(scripted(broken)))
    assert (error.code, error.side, error.offset) == ("copy.answered", "source", SECOND)
    assert "EIO" in str(error)


def test_a_source_that_goes_away_is_named_with_the_offset(fake):
    uri = fake(scripted(lambda asked, _: asked.data(of_disk(asked)) if asked.offset < MIB else None))
    error = failure(uri)
    assert (error.code, error.side, error.offset) == ("copy.closed", "source", MIB)


def test_a_source_that_falls_silent_is_an_error_after_the_limit(fake):
    uri = fake(scripted(lambda asked, _: asked.data(of_disk(asked)) if asked.offset < MIB else b""))
    error = failure(uri, timeout=0.5)
    assert (error.code, error.side, error.offset) == ("copy.silent", "source", MIB)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(DISK)
    return str(path)


@pytest.mark.parametrize("digests", [False, True])
def test_a_destination_that_takes_nothing_is_an_error_after_the_limit(digests, fake, disk):
    ended = threading.Event()

    def deaf(connection: socket.socket) -> None:
        negotiate(connection)
        ended.wait(15)

    error = failure(disk, fake(deaf), timeout=0.5, digests=digests)
    ended.set()
    assert (error.code, error.side) == ("copy.silent", "destination")


@pytest.mark.parametrize("digests", [False, True])
def test_a_destination_that_closes_in_a_write_is_named(digests, fake, disk):
    def close_soon(connection: socket.socket) -> None:
        negotiate(connection)
        receive(connection)

    error = failure(disk, fake(close_soon), digests=digests)
    assert (error.code, error.side) == ("copy.closed", "destination")


# What a destination may answer to its first WRITE.
WRITES = {
    "no space": (lambda a: _wire.make_simple_reply(28, a.cookie), "copy.answered", "ENOSPC"),
    "no space, in a chunk": (
        lambda a: _wire.make_error_chunk(DONE, a.cookie, 28, b"full"),
        "copy.answered",
        "ENOSPC",
    ),
    "an unknown error": (lambda a: _wire.make_simple_reply(9999, a.cookie), "copy.answered", "EINVAL"),
    "shutting down": (lambda a: _wire.make_simple_reply(108, a.cookie), "copy.answered", "ESHUTDOWN"),
    "data": (lambda a: a.data(a.payload), "copy.breach", "cannot answer"),
    "two answers": (lambda a: a.done() + a.done(), "copy.breach", "not sent"),
}


@pytest.mark.parametrize("case", WRITES)
def test_a_destination_that_fails_a_write_is_named(case, fake, disk):
    answer, code, words = WRITES[case]
    error = failure(disk, fake(scripted(lambda asked, _: answer(asked) if asked.type == WRITE else asked.done())))
    assert (error.code, error.side) == (code, "destination")
    assert words in str(error)


def test_a_flush_that_fails_fails_the_copy(fake, disk):
    uri = fake(scripted(lambda a, _: _wire.make_simple_reply(5, a.cookie) if a.type == FLUSH else a.done()))
    error = failure(disk, uri)
    assert (error.code, error.side) == ("copy.answered", "destination")
    assert str(error).endswith("flush at offset 0 failed: the server answered EIO (input/output error)")


def test_flush_comes_when_every_write_was_answered_and_then_disc(fake, disk):
    """C8, C10, C11: the server answers writes late and in reverse; FLUSH must still be the last but DISC."""
    log = []
    left = threading.Event()

    def lazy(connection: socket.socket) -> None:
        held = []
        for asked in requests(connection, negotiate(connection)):
            log.append((asked.type, len(held), asked.offset, asked.length))
            if asked.type == 2:
                left.set()
                return
            if asked.type != WRITE:
                connection.sendall(asked.done())
                continue
            held.append(asked)
            if len(held) == 2:
                for late in reversed(held):
                    connection.sendall(late.done())
                held.clear()

    result = Job(disk, fake(lazy)).run()
    assert result.flushed
    assert left.wait(10)
    assert [entry for entry in log if entry[0] != WRITE] == [(FLUSH, 0, 0, 0), (2, 0, 0, 0)]
    assert sum(entry[3] for entry in log if entry[0] == WRITE) == SIZE


def test_no_flush_is_sent_where_none_is_offered(fake, disk):
    seen = []
    uri = fake(scripted(lambda a, _: seen.append(a.type) or a.done(), flags=1 | 1 << 6))
    assert not Job(disk, uri).run().flushed
    assert FLUSH not in seen


def test_zeroes_are_written_out_where_write_zeroes_is_not_offered(fake, tmp_path):
    seen = bytearray(SIZE)

    def keep(asked, _):
        assert asked.type != ZERO
        seen[asked.offset : asked.offset + asked.length] = asked.payload or b""
        return asked.done()

    hollow = tmp_path / "hollow"
    with hollow.open("wb") as file:
        file.truncate(SIZE)
        file.write(content(MIB))
    seen[:] = DISK
    Job(str(hollow), fake(scripted(keep, flags=1 | 1 << 2))).run()
    assert bytes(seen) == content(MIB) + bytes(SIZE - MIB)


def test_a_simple_peer_is_copied_from(fake, tmp_path):
    """A server without structured replies, as a byte stream: EXPORT_NAME, simple replies, data after them."""

    def old(connection: socket.socket) -> None:
        connection.sendall(b"NBDMAGICIHAVEOPT" + (3).to_bytes(2, "big"))
        data = b""
        while len(data) < 4 + 16:
            data += receive(connection)
        data = data[4:]
        while True:
            option, length = int.from_bytes(data[8:12], "big"), int.from_bytes(data[12:16], "big")
            while len(data) < 16 + length:
                data += receive(connection)
            data = data[16 + length :]
            if option == 1:
                break
            connection.sendall(
                (0x3E889045565A9).to_bytes(8, "big") + option.to_bytes(4, "big") + b"\x80\0\0\1" + bytes(4)
            )
            while len(data) < 16:
                data += receive(connection)
        connection.sendall(SIZE.to_bytes(8, "big") + FLAGS.to_bytes(2, "big"))
        for asked in requests(connection, data):
            if asked.type == 2:
                return
            connection.sendall(_wire.make_simple_reply(0, asked.cookie) + of_disk(asked))

    Job(fake(old), str(tmp_path / "here")).run()
    assert (tmp_path / "here").read_bytes() == DISK


@pytest.mark.parametrize("digests", [False, True])
def test_the_reason_of_a_destination_that_answers_and_leaves_is_kept(digests, fake, disk):
    """The error answer counts, though the next send is the first to see that the server is gone."""

    def leave(asked, connection):
        connection.sendall(_wire.make_simple_reply(28, asked.cookie))

    error = failure(disk, fake(scripted(leave)), digests=digests)
    assert (error.code, error.side) == ("copy.answered", "destination")
    assert "ENOSPC" in str(error)
