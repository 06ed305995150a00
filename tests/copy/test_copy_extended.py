"""The copy engine with extended headers: 64 bits where they help, nothing believed that cannot be (C1, C22, C26)."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from copy_data import GIB, KIB, MIB, content
from copy_hostile import DISC, FLUSH, READ, SIZE, STATUS, WRITE, ZERO, negotiate, receive

from omavol.copy.engine import Job, Options
from omavol.copy.errors import CopyError
from omavol.copy.extents import dirty_extents
from omavol.nbd.wire import CommandFlag, Request, parse_request

DISK = content(SIZE)
SECOND = 512 * KIB
HUGE = 1 << 45


def chunk(kind, payload, request, done=True, offset=None, length=None):
    begin = request.offset if offset is None else offset
    size = len(payload) if length is None else length
    return struct.pack(">IHHQQQ", 0x6E8A278C, int(done), kind, request.cookie, begin, size) + payload


def data(request, at=0, length=None, done=True, **more):
    size = request.length if length is None else length
    begin = request.offset + at
    return chunk(1, struct.pack(">Q", begin) + (DISK * 2)[begin : begin + size], request, done, **more)


def status(request, *pairs, context=1, count=None, done=True):
    payload = struct.pack(">II", context, len(pairs) if count is None else count)
    return chunk(6, payload + b"".join(struct.pack(">QQ", *pair) for pair in pairs), request, done)


def extended(answer, *, size=SIZE):
    """A server with extended headers that answers each request by what `answer` gives."""

    def behave(connection: socket.socket) -> None:
        heard = negotiate(connection, size=size, extended=True)
        while True:
            while len(heard) < 32:
                heard += receive(connection)
            request = parse_request(heard[:32], True)
            assert request is not None
            heard = heard[32:]
            while request.type == WRITE and len(heard) < request.length:
                heard += receive(connection)
            payload, heard = (
                (heard[: request.length], heard[request.length :]) if request.type == WRITE else (b"", heard)
            )
            if request.type == DISC:
                return
            connection.sendall(answer(request, payload))

    return behave


def honest(request: Request, _: bytes) -> bytes:
    if request.type == STATUS:
        return status(request, (request.length, 0))
    return data(request) if request.type == READ else chunk(0, b"", request)


# What a source may answer to the READ at SECOND, and the words of the complaint.
READS = {
    "C1 a compact chunk": (lambda r: struct.pack(">IHHQI", 0x668E33EF, 1, 0, r.cookie, 0) + bytes(12), "wrong magic"),
    "C1 a simple reply": (lambda r: struct.pack(">IIQ", 0x67446698, 0, r.cookie) + bytes(16), "wrong magic"),
    "X60 another offset in the header": (lambda r: data(r, offset=r.offset + 1), "cannot answer"),
    "C22 a length of 2^63": (lambda r: chunk(1, b"", r, length=1 << 63), "cannot answer"),
    "C22 a length of 2^32 more than was asked": (lambda r: chunk(1, b"", r, length=(1 << 32) + 9), "cannot answer"),
    "C22 an error of 2^40 bytes": (lambda r: chunk(0x8001, b"", r, length=1 << 40), "cannot answer"),
    "C22 a 'negative' offset": (lambda r: chunk(1, struct.pack(">q", -1) + b"d", r), "outside"),
    "C22 a foreign cookie": (lambda r: data(r._replace(cookie=1 << 40)), "not sent"),
    "X26 overlap": (lambda r: data(r, done=False) + data(r, 17, 1), "overlaps"),
    "C23 a gap": (lambda r: data(r, 1, r.length - 1), "without all"),
    "C23 NONE alone": (lambda r: chunk(0, b"", r), "without all"),
    "C1 block status": (lambda r: status(r, (4096, 0)), "cannot answer"),
}


@pytest.mark.parametrize("case", READS)
def test_C1_C22_C23_an_extended_source_that_breaks_the_protocol_is_never_believed(case, fake):
    answer, words = READS[case]
    uri = fake(extended(lambda r, p: answer(r) if (r.type, r.offset) == (READ, SECOND) else honest(r, p)))
    with pytest.raises(CopyError, match=words) as caught:
        Job(uri, "null:", Options(timeout=10)).run()
    assert (caught.value.code, caught.value.side) == ("copy.breach", "source")


STATUSES = {
    "C26 an empty extent": lambda r: status(r, (0, 0)),
    "C26 nothing": lambda r: status(r),
    "X61 miscounted": lambda r: status(r, (4096, 0), count=2),
    "X61 the compact status": lambda r: chunk(5, struct.pack(">III", 1, 4096, 0), r),
    "C22 2^50 bytes of them": lambda r: chunk(6, b"", r, length=(1 << 50) + 8),
    "X48 past the end of the export": lambda r: status(r, (SIZE + 1, 0)),
    "X48 a length of 2^64-1": lambda r: status(r, (2**64 - 1, 0)),
    "X47 an extent behind the request": lambda r: status(r, (SIZE, 0), (512, 0)),
    "X44 a context twice": lambda r: status(r, (4096, 0), done=False) + status(r, (4096, 0)),
    "X44 no context": lambda r: chunk(0, b"", r),
}


@pytest.mark.parametrize("case", STATUSES)
def test_C26_hostile_extended_block_status_fails_the_copy(case, fake):
    uri = fake(extended(lambda r, p: STATUSES[case](r) if r.type == STATUS else honest(r, p)))
    with pytest.raises(CopyError) as caught:
        Job(uri, "null:", Options(timeout=10)).run()
    assert (caught.value.code, caught.value.side) == ("copy.breach", "source")


def test_CVE_2023_5871_status_flags_of_64_bits_do_no_harm(fake, tmp_path):
    """Of base:allocation the known bits count, whatever stands above them."""
    half = SIZE // 2
    answer = lambda r, p: status(r, (half, 2**63), (half, 2**64 - 1)) if r.type == STATUS else honest(r, p)  # noqa: E731
    result = Job(fake(extended(answer)), str(tmp_path / "here")).run()
    assert result.counters.bytes_read == half
    assert (tmp_path / "here").read_bytes() == DISK[:half] + bytes(half)


def test_C21_writes_say_payload_len_and_long_zeroes_are_long(fake, tmp_path):
    seen = []

    def note(request, payload):
        seen.append(request)
        return honest(request, payload)

    hollow = tmp_path / "hollow"
    with hollow.open("wb") as file:
        file.truncate(8 * GIB)
        file.write(content(MIB))
    result = Job(str(hollow), fake(extended(note, size=8 * GIB)), Options(timeout=10)).run()
    assert result.flushed
    writes = [request for request in seen if request.type == WRITE]
    assert writes and all(request.flags & CommandFlag.PAYLOAD_LEN for request in writes)
    assert sum(request.length for request in writes) == MIB
    zeroes = [request for request in seen if request.type == ZERO]
    assert max(request.length for request in zeroes) == GIB
    assert sum(request.length for request in zeroes) == 8 * GIB - MIB
    assert [(r.flags, r.offset, r.length) for r in seen if r.type == FLUSH] == [(0, 0, 0)]  # C10


def test_block_status_of_32_tib_is_one_question(fake):
    asked = []

    def note(request, payload):
        if request.type == STATUS:
            asked.append(request.length)
            return status(request, (1 << 44, 3), (request.length - (1 << 44), 3))
        return honest(request, payload)

    result = Job(fake(extended(note, size=HUGE)), "null:").run()
    assert asked == [HUGE]
    assert (result.counters.bytes_read, result.counters.bytes_zero) == (0, HUGE)


def test_what_changed_is_asked_in_the_extended_form(fake):
    uri = fake(extended(lambda r, p: status(r, (MIB, 3), (SIZE - MIB, 2**32)), size=SIZE))
    assert dirty_extents(uri, "base:allocation") == [(0, MIB)]


@pytest.mark.parametrize("direction", ["out", "in"])
def test_with_omavol_serve_at_the_other_end(direction, serve, copy, tmp_path):
    disk, place = tmp_path / "disk", tmp_path / "place"
    with disk.open("wb") as file:
        file.truncate(6 * GIB)
        os.pwrite(file.fileno(), content(MIB), 5 * GIB - 77)
    with place.open("wb") as file:
        file.truncate(6 * GIB)
        os.pwrite(file.fileno(), content(MIB, 9), 3 * GIB)
    served = serve("omavol", disk if direction == "out" else place)
    said = copy(served, place) if direction == "out" else copy(disk, served)
    assert (said["exit"], said["lines"]) == (0, [])
    with place.open("rb") as file:
        assert os.pread(file.fileno(), MIB, 5 * GIB - 77) == content(MIB)
        assert os.pread(file.fileno(), MIB, 3 * GIB) == bytes(MIB)
    assert place.stat().st_blocks * 512 < 4 * MIB
