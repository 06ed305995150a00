"""A client against servers that break the protocol or refuse: rules C1 to C4, C6 to C10, C14 to C17, C22, C23, C26."""

import struct
from queue import Queue

import pytest
from nbd_said import chunk

from omavol.nbd.client import connect
from omavol.nbd.errors import (
    Breach,
    Disconnected,
    NotAllowed,
    NotOffered,
    RequestFailed,
    ServerShutsDown,
    TimedOut,
)
from omavol.nbd.handshake import Wish
from omavol.nbd.wire import Command, CommandFlag, Error

NONE, DATA, HOLE, STATUS, ERROR, ERROR_OFFSET = 0, 1, 2, 5, 0x8001, 0x8002
SMALL = {b"web01": (1 << 20, 0xDED, 1, 4096, 1 << 25, b"")}


def data(offset, length, cookie, done=False):
    return chunk(DATA, struct.pack(">Q", offset) + b"d" * length, cookie, done)


def hole(offset, length, cookie, done=False):
    return chunk(HOLE, struct.pack(">QI", offset, length), cookie, done)


def status(cookie, *pairs, context=1, done=True):
    body = struct.pack(">I", context) + b"".join(struct.pack(">II", *pair) for pair in pairs)
    return chunk(STATUS, body, cookie, done)


def error(cookie, number=5, message=b"", done=True, kind=ERROR, tail=b""):
    return chunk(kind, struct.pack(">IH", number, len(message)) + message + tail, cookie, done)


def done(cookie):
    return chunk(NONE, b"", cookie)


@pytest.fixture
def answering(scripted):
    """Connect to a server that answers the first request by `reply(cookie)`, and then hears the client out."""
    heard = Queue()

    def start(reply, exports=SMALL, **options):
        def script(peer):
            peer.negotiate(exports)
            peer.say(reply(peer.request().cookie))
            heard.put(peer.hear_end())

        connection = connect(scripted(script), timeout=5, **options)
        connection.heard = heard
        return connection

    return start


GOOD_READS = {
    "one chunk with DONE": lambda c: data(0, 4096, c, done=True),
    "D2 a chunk, then NONE": lambda c: data(0, 4096, c) + done(c),
    "out of order": lambda c: data(2048, 2048, c) + data(0, 2048, c) + done(c),
    "data and holes": lambda c: data(0, 1, c) + hole(1, 4094, c) + data(4095, 1, c, done=True),
    "C3 an unknown reply flag": lambda c: struct.pack(">IHHQIQ", 0x668E33EF, 0xFF01, 1, c, 4104, 0) + b"d" * 4096,
}


@pytest.mark.parametrize("case", GOOD_READS)
def test_a_read_is_put_together_from_its_chunks(answering, case):
    with answering(GOOD_READS[case]) as connection:
        got = connection.read(0, 4096)
    assert set(got) <= {0, ord("d")}
    assert got[:1] + got[-1:] == b"dd"


BAD_READS = {
    "C1 an unknown chunk": lambda c: chunk(99, b"", c),
    "C1 block status for a read": lambda c: status(c, (512, 0)),
    "C1 NONE without DONE": lambda c: chunk(NONE, b"", c, done=False),
    "C1 NONE with content": lambda c: chunk(NONE, b"x", c),
    "C1 a data chunk without an offset": lambda c: chunk(DATA, b"xxxx", c),
    "C1 a data chunk without a byte": lambda c: data(0, 0, c),
    "C1 a hole of no bytes": lambda c: hole(0, 0, c) + data(0, 4096, c, done=True),
    "C1 a hole with too short a payload": lambda c: chunk(HOLE, bytes(8), c),
    "C22 wrong magic": lambda c: bytes(20),
    "C22 wrong cookie": lambda c: data(0, 4096, c + 1, done=True),
    "C22 more than was asked": lambda c: data(0, 4097, c, done=True),
    "C22 behind the request": lambda c: data(4096, 1, c),
    "C22 before the request": lambda c: data(2**64 - 1, 1, c),
    "C22 a hole past the end": lambda c: hole(4095, 2, c),
    "C22 a hole of 2^32-1": lambda c: hole(0, 2**32 - 1, c),
    "X26 one byte twice": lambda c: data(0, 4096, c) + data(17, 1, c),
    "X26 a hole over data": lambda c: data(0, 4096, c) + hole(0, 4096, c, done=True),
    "C23 NONE alone": done,
    "C23 a gap": lambda c: data(0, 2048, c) + data(2049, 2047, c, done=True),
    "C23 short": lambda c: data(0, 4095, c, done=True),
    "X3 a simple reply": lambda c: struct.pack(">IIQ", 0x67446698, 0, c) + bytes(4096),
    "X3 a simple error": lambda c: struct.pack(">IIQ", 0x67446698, 5, c),
    "X30 an error chunk without an error": lambda c: error(c, 0),
    "C22 an error with a message longer than itself": lambda c: chunk(ERROR, struct.pack(">IH", 5, 9), c),
    "C22 an error with a tail": lambda c: error(c, tail=b"x"),
    "X29 an error outside the request": lambda c: error(c, kind=ERROR_OFFSET, tail=struct.pack(">Q", 4096)),
    "C1 an extended reply": lambda c: struct.pack(">IHHQQQ", 0x6E8A278C, 1, 0, c, 0, 0),
}


@pytest.mark.parametrize("case", BAD_READS)
def test_C1_C22_C23_a_breach_in_a_read_ends_the_connection_without_a_word(answering, case):
    connection = answering(BAD_READS[case])
    with pytest.raises(Breach):
        connection.read(0, 4096)
    with pytest.raises(Disconnected):
        connection.read(0, 4096)
    assert connection.heard.get(timeout=5) == b""  # no DISC


@pytest.mark.parametrize(
    ("reply", "number", "offset"),
    [
        (lambda c: error(c, 5, b"bad sector"), Error.EIO, 0),
        (lambda c: data(0, 512, c) + error(c, 5, done=False) + done(c), Error.EIO, 0),
        (lambda c: error(c, 5, done=False) + data(0, 512, c, done=True), Error.EIO, 0),
        (lambda c: error(c, 12, kind=ERROR_OFFSET, tail=struct.pack(">Q", 512)), Error.ENOMEM, 512),
        (lambda c: error(c, 71), Error.EINVAL, 0),  # C4
        (lambda c: error(c, 5, kind=0x8999, tail=b"whatever"), Error.EIO, 0),  # C2
    ],
)
def test_C2_C4_an_error_of_a_read_is_an_error_and_the_connection_stays_in_step(answering, reply, number, offset):
    connection = answering(reply)
    with pytest.raises(RequestFailed) as failed:
        connection.read(0, 4096)
    assert (failed.value.error, failed.value.offset) == (number, offset)
    connection.close()


SIMPLE = {
    "an error": (lambda c: struct.pack(">IIQ", 0x67446698, 5, c), RequestFailed),
    "X2 a chunk that was not agreed": (lambda c: data(0, 512, c, done=True), Breach),
    "C22 the wrong cookie": (lambda c: struct.pack(">IIQ", 0x67446698, 0, c + 1) + bytes(512), Breach),
    "C23 short data": (lambda c: struct.pack(">IIQ", 0x67446698, 0, c) + bytes(511), TimedOut),
}


@pytest.mark.parametrize("case", SIMPLE)
def test_X24_a_simple_read_has_all_its_data_or_an_error(scripted, case):
    reply, expected = SIMPLE[case]

    def script(peer):
        peer.negotiate(SMALL)
        peer.say(reply(peer.request().cookie))
        peer.hear_end()

    connection = connect(scripted(script), timeout=1.0, structured=Wish.NEVER)
    with pytest.raises(expected):
        connection.read(0, 512)
    connection.close()


def test_C7_C8_C10_leaving_is_disc_with_nothing_in_it(scripted):
    heard = Queue()

    def script(peer):
        peer.negotiate(SMALL)
        heard.put(peer.request())
        heard.put(peer.hear_end())

    with connect(scripted(script), timeout=5):
        pass
    request = heard.get(timeout=5)
    assert (request.flags, request.type, request.offset, request.length) == (0, Command.DISC, 0, 0)
    assert heard.get(timeout=5) == b""  # C9


def test_C6_eshutdown_is_the_end_of_asking(answering):
    connection = answering(lambda c: error(c, 108))
    with pytest.raises(ServerShutsDown):
        connection.read(0, 512)
    with pytest.raises(Disconnected):
        connection.flush()


BAD_STATUS = {
    "C26 X45 an empty extent": lambda c: status(c, (0, 0)),
    "C26 an empty extent behind a good one": lambda c: status(c, (512, 0), (0, 3)),
    "C26 nothing": lambda c: chunk(STATUS, struct.pack(">I", 1), c),
    "X48 past the end of the export": lambda c: status(c, ((1 << 20) + 1, 0)),
    "X47 an extent behind the request": lambda c: status(c, (4096, 0), (512, 0)),
    "C17 a context that was not selected": lambda c: status(c, (4096, 0), context=2),
    "X44 a context twice": lambda c: status(c, (4096, 0), done=False) + status(c, (4096, 0)),
    "X44 no context": done,
    "C1 data": lambda c: data(0, 4096, c, done=True),
    "C1 an extended status": lambda c: chunk(6, bytes(24), c),
    "X3 a simple success": lambda c: struct.pack(">IIQ", 0x67446698, 0, c),
    "C22 half a descriptor": lambda c: chunk(STATUS, bytes(4 + 12), c),
}


@pytest.mark.parametrize("case", BAD_STATUS)
def test_C26_hostile_block_status_is_a_breach(answering, case):
    connection = answering(BAD_STATUS[case])
    with pytest.raises(Breach):
        connection.block_status(0, 4096)


def test_C3_unknown_bits_of_base_allocation_are_ignored(answering):
    with answering(lambda c: status(c, (4096, 0xFFFFFFFC))) as connection:
        assert connection.block_status(0, 4096) == {"base:allocation": [(4096, 0)]}


def test_a_last_extent_may_pass_the_request(answering):
    with answering(lambda c: status(c, (512, 0), (8192, 3))) as connection:
        assert connection.block_status(0, 4096) == {"base:allocation": [(512, 0), (8192, 3)]}


def test_extents_of_equal_status_are_one(scripted):
    def script(peer):
        peer.negotiate(SMALL)
        for _ in range(4):
            request = peer.request()
            peer.say(status(request.cookie, (1 << 18, 0 if request.offset < 1 << 19 else 3)))
        peer.hear_end()

    with connect(scripted(script), timeout=5) as connection:
        assert list(connection.extents("base:allocation")) == [(0, 1 << 19, 0), (1 << 19, 1 << 19, 3)]


def test_a_write_that_fails_is_an_error_and_the_next_one_may_succeed(scripted):
    def script(peer):
        peer.negotiate(SMALL)
        for number in (28, 0):
            request = peer.request()
            assert peer.hear(request.length) == b"x" * 512
            peer.say(struct.pack(">IIQ", 0x67446698, number, request.cookie))
        peer.hear_end()

    with connect(scripted(script), timeout=5) as connection:
        with pytest.raises(RequestFailed, match="ENOSPC"):
            connection.write(0, b"x" * 512)
        connection.write(0, b"x" * 512)


def test_C14_what_was_not_advertised_is_not_sent(scripted):
    heard = []

    def script(peer):
        peer.negotiate({b"web01": (1 << 20, 1, 1, 4096, 1 << 25, b"")})
        heard.append(peer.hear_end())

    with connect(scripted(script), timeout=5) as connection:
        for attempt in (
            connection.flush,
            lambda: connection.trim(0, 512),
            lambda: connection.zero(0, 512),
            lambda: connection.cache(0, 512),
            lambda: connection.write(0, b"x", fua=True),
        ):
            with pytest.raises(NotOffered):
                attempt()


@pytest.mark.parametrize("offset", [-512, 1 << 20, (1 << 20) - 256, 2**64, 100])
def test_C15_what_leaves_the_export_or_is_off_its_blocks_is_not_sent(scripted, offset):
    def script(peer):
        peer.negotiate({b"web01": (1 << 20, 0xDED, 512, 4096, 1 << 25, b"")})
        peer.hear_end()

    with connect(scripted(script), timeout=5) as connection:
        for attempt in (connection.read, connection.trim, connection.zero, connection.block_status):
            with pytest.raises(NotAllowed):
                attempt(offset, 512)
        with pytest.raises(NotAllowed):
            connection.write(offset, b"x" * 512)


def test_a_read_only_export_is_not_written_to(scripted):
    with connect(
        scripted(lambda peer: peer.negotiate({b"web01": (512, 3, 1, 512, 512, b"")})), timeout=5
    ) as connection:
        assert connection.export.read_only
        with pytest.raises(NotAllowed, match="read-only"):
            connection.write(0, b"x")


def test_C16_large_reads_and_writes_are_sent_in_pieces_of_the_maximum(scripted):
    lengths = []

    def script(peer):
        peer.negotiate({b"web01": (1 << 20, 0xDED, 512, 512, 4096, b"")})
        for _ in range(3):
            request = peer.request()
            lengths.append(request.length)
            peer.say(data(request.offset, request.length, request.cookie, done=True))
        peer.hear_end()

    with connect(scripted(script), timeout=5) as connection:
        assert connection.read(512, 10240) == b"d" * 10240
    assert lengths == [4096, 4096, 2048]


def test_flags_of_a_command_are_sent_as_asked(scripted):
    flags = []

    def script(peer):
        peer.negotiate(SMALL)
        for _ in range(2):
            request = peer.request()
            flags.append(request.flags)
            peer.say(done(request.cookie))
        peer.hear_end()

    with connect(scripted(script), timeout=5) as connection:
        connection.zero(0, 512, fua=True, no_hole=True, fast=True)
        connection.trim(0, 512, fua=True)
    assert flags == [CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO, CommandFlag.FUA]
