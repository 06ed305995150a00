"""The client with extended headers: asked for by default, 64 bits believed where they can be, breaches refused.

Rules C1, C17, C19, C21 to C24, C26, C27 in the extended form.
"""

import os
import socket
import struct
from queue import Queue

import pytest

from omavol import nbd
from omavol._fastio import Server
from omavol.nbd.client import connect
from omavol.nbd.wire import Command, CommandFlag, Option

HUGE = {b"web01": (1 << 50, 0xDED, 1, 4096, 1 << 25, b"")}
NONE, DATA, HOLE, STATUS, STATUS_EXT, ERROR, ERROR_OFFSET = 0, 1, 2, 5, 6, 0x8001, 0x8002


def chunk(kind, payload, request, done=True, offset=None, flags=0, length=None):
    """A chunk in the extended form, built by hand."""
    begin = request.offset if offset is None else offset
    size = len(payload) if length is None else length
    return struct.pack(">IHHQQQ", 0x6E8A278C, flags | int(done), kind, request.cookie, begin, size) + payload


def data(request, at=0, length=4096, done=True, **more):
    return chunk(DATA, struct.pack(">Q", request.offset + at) + b"d" * length, request, done, **more)


def status(request, *pairs, context=1, count=None, done=True):
    payload = struct.pack(">II", context, len(pairs) if count is None else count)
    return chunk(STATUS_EXT, payload + b"".join(struct.pack(">QQ", *pair) for pair in pairs), request, done)


@pytest.fixture
def answering(scripted):
    """Connect to a server with extended headers that answers the first request by `reply(request)`."""
    heard = Queue()

    def start(reply, exports=HUGE, **options):
        def script(peer):
            peer.negotiate(exports, compact=False)
            peer.say(reply(peer.request()))
            heard.put(peer.hear_end())

        connection = connect(scripted(script), timeout=5, **options)
        connection.heard = heard
        return connection

    return start


def test_extended_headers_are_asked_for_and_used(scripted):
    asked = Queue()

    def script(peer):
        session = peer.negotiate(HUGE, compact=False)
        assert session.machine.agreed["extended"]
        for _ in range(2):
            request = peer.request()
            asked.put(request)
            if request.type == Command.WRITE:
                assert peer.hear(request.length) == b"w" * 4096
            peer.say(chunk(NONE, b"", request))
        asked.put(peer.request())

    with connect(scripted(script), timeout=5) as disk:
        assert (disk.export.extended, disk.export.structured) == (True, True)
        disk.write(4096, b"w" * 4096)
        disk.zero(0, 1 << 50)
    write, zero, leave = (asked.get(timeout=5) for _ in range(3))
    assert write.flags == CommandFlag.PAYLOAD_LEN  # C21
    assert (zero.offset, zero.length) == (0, 1 << 50)  # one request, of 64 bits
    assert (leave.type, leave.flags, leave.offset, leave.length) == (Command.DISC, 0, 0, 0)  # C10


@pytest.mark.parametrize("wishes", [{"extended": nbd.Wish.NEVER}, {"structured": nbd.Wish.NEVER}])
def test_who_does_not_want_them_does_not_get_them(scripted, wishes):
    with connect(
        scripted(lambda peer: (peer.negotiate(HUGE, compact=False), peer.hear_end())), timeout=5, **wishes
    ) as disk:
        assert not disk.export.extended


def test_C19_a_server_without_them_is_spoken_to_in_the_old_form(scripted):
    with connect(scripted(lambda peer: (peer.negotiate(HUGE), peer.hear_end())), timeout=5) as disk:
        assert (disk.export.extended, disk.export.structured) == (False, True)


def test_C27_extended_headers_demanded_and_not_offered(scripted):
    with pytest.raises(nbd.Downgraded, match="extended headers"):
        connect(scripted(lambda peer: (peer.negotiate(HUGE), peer.hear_end())), timeout=5, extended=nbd.Wish.DEMANDED)


def test_C21_after_extended_headers_export_name_is_never_sent(scripted):
    """GO is UNSUP, which H48 forbids; the client gives up rather than enter by the old option."""
    options = []

    def script(peer):
        peer.say(b"NBDMAGICIHAVEOPT\0\3")
        peer.hear(4)
        while True:
            number, _ = peer.hear_option()
            options.append(number)
            kind = 1 if number == Option.EXTENDED_HEADERS else 2**31 + 1
            peer.say(struct.pack(">QIII", 0x3E889045565A9, number, kind, 0))

    with pytest.raises(nbd.NbdError):
        connect(scripted(script), timeout=5)
    assert Option.EXTENDED_HEADERS in options
    assert Option.EXPORT_NAME not in options


GOOD_READS = {
    "one chunk": lambda r: data(r),
    "in two, out of order": lambda r: data(r, 2048, 2048, done=False) + data(r, 0, 2048),
    "a hole": lambda r: chunk(HOLE, struct.pack(">QI", r.offset, 4096), r),
    "C3 an unknown reply flag": lambda r: data(r, flags=0xFF00),
}


@pytest.mark.parametrize("case", GOOD_READS)
def test_a_read_beyond_32_bits_is_put_together_from_its_chunks(answering, case):
    with answering(GOOD_READS[case]) as connection:
        assert set(connection.read(1 << 40, 4096)) in ({ord("d")}, {0})


BAD_READS = {
    "C1 a compact chunk": lambda r: struct.pack(">IHHQI", 0x668E33EF, 1, NONE, r.cookie, 0) + bytes(12),
    "C1 a simple reply": lambda r: struct.pack(">IIQ", 0x67446698, 0, r.cookie) + bytes(4096),
    "C1 an unknown chunk": lambda r: chunk(99, b"", r),
    "C22 wrong cookie": lambda r: data(r._replace(cookie=r.cookie + 1)),
    "X60 another offset in the header": lambda r: data(r, offset=r.offset + 1),
    "C22 a length of 2^63": lambda r: chunk(DATA, b"", r, length=1 << 63),
    "C22 a length of 2^64-1": lambda r: chunk(DATA, b"", r, length=2**64 - 1),
    "C22 an error of 2^40 bytes": lambda r: chunk(ERROR, b"", r, length=1 << 40),
    "C22 more than was asked": lambda r: data(r, 0, 4097),
    "C22 a 'negative' offset": lambda r: chunk(DATA, struct.pack(">q", -1) + b"d", r),
    "C22 behind the request": lambda r: data(r, 4096, 1),
    "X26 one byte twice": lambda r: data(r, done=False) + data(r, 17, 1),
    "C23 NONE alone": lambda r: chunk(NONE, b"", r),
    "C23 a gap": lambda r: data(r, 0, 2048, done=False) + data(r, 2049, 2047),
    "C23 short": lambda r: data(r, 0, 4095),
    "C1 NONE without DONE": lambda r: chunk(NONE, b"", r, done=False),
    "X29 an error outside the request": lambda r: chunk(ERROR_OFFSET, struct.pack(">IHQ", 5, 0, 0), r),
    "C1 block status": lambda r: status(r, (4096, 0)),
}


@pytest.mark.parametrize("case", BAD_READS)
def test_C1_C22_C23_a_breach_in_an_extended_read_ends_the_connection_without_a_word(answering, case):
    connection = answering(BAD_READS[case])
    with pytest.raises(nbd.Breach):
        connection.read(1 << 40, 4096)
    with pytest.raises(nbd.Disconnected):
        connection.read(0, 4096)
    assert connection.heard.get(timeout=5) == b""


def test_C2_an_error_in_the_extended_form_is_an_error(answering):
    connection = answering(
        lambda r: chunk(ERROR_OFFSET, struct.pack(">IH", 5, 3) + b"bad" + struct.pack(">Q", r.offset + 9), r)
    )
    with pytest.raises(nbd.RequestFailed, match="EIO") as failed:
        connection.read(1 << 40, 4096)
    assert failed.value.offset == (1 << 40) + 9
    connection.close()


def test_block_status_of_a_pebibyte_is_one_question(answering):
    half = 1 << 49
    with answering(lambda r: status(r, (half, 0), (half, 3))) as connection:
        assert connection.maps() == {"base:allocation": [(0, half, 0), (half, half, 3)]}


def test_CVE_2023_5871_status_flags_of_64_bits_are_told_whole(scripted):
    """libnbd aborted on a status above 32 bits; of base:allocation unknown bits are ignored (C3, X63)."""
    other = b"x-test:wide"

    def script(peer):
        peer.negotiate(HUGE, compact=False, contexts=[(b"web01", other, 2)])
        request = peer.request()
        peer.say(status(request, (4096, 2**64 - 1), done=False), status(request, (4096, 2**63 | 5), context=2))
        peer.hear_end()

    with connect(scripted(script), timeout=5, contexts=("base:allocation", other.decode())) as connection:
        assert connection.block_status(0, 4096) == {
            "base:allocation": [(4096, 3)],
            other.decode(): [(4096, 2**63 | 5)],
        }


BAD_STATUS = {
    "C26 an empty extent": lambda r: status(r, (0, 0)),
    "C26 nothing": lambda r: status(r),
    "X61 miscounted": lambda r: status(r, (4096, 0), count=2),
    "X61 counted to 2^32-1": lambda r: status(r, (4096, 0), count=2**32 - 1),
    "X61 the compact status": lambda r: chunk(STATUS, struct.pack(">III", 1, 4096, 0), r),
    "C22 half a descriptor": lambda r: chunk(STATUS_EXT, bytes(8 + 24), r),
    "C22 2^50 bytes of them": lambda r: chunk(STATUS_EXT, b"", r, length=(1 << 50) + 8),
    "X48 past the end of the export": lambda r: status(r, ((1 << 50) + 1, 0)),
    "X48 a length of 2^64-1": lambda r: status(r, (2**64 - 1, 0)),
    "X48 lengths that wrap": lambda r: status(r, (1 << 63, 0), (1 << 63, 0), (4096, 0)),
    "X47 an extent behind the request": lambda r: status(r, (4096, 0), (512, 0)),
    "C17 a context that was not selected": lambda r: status(r, (4096, 0), context=2),
    "X44 a context twice": lambda r: status(r, (4096, 0), done=False) + status(r, (4096, 0)),
    "X44 no context": lambda r: chunk(NONE, b"", r),
}


@pytest.mark.parametrize("case", BAD_STATUS)
def test_C26_hostile_extended_block_status_is_a_breach(answering, case):
    connection = answering(BAD_STATUS[case])
    with pytest.raises(nbd.Breach):
        connection.block_status(0, 4096)


def test_with_omavol_serve_it_is_the_extended_form(tmp_path, folder):
    """A sparse disk of 8 TiB: written, zeroed and mapped beyond 32 bits in one request each."""
    size = 8 << 40
    disk = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.ftruncate(disk, size)
    server = Server(workers=1)
    server.add("web01", disk, size)
    server.start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "o"))
        listener.listen()
        listener.setblocking(False)
        server.listen(os.dup(listener.fileno()))
        try:
            with connect(f"nbd+unix:///web01?socket={folder}/o", timeout=10) as export:
                assert export.export.extended
                export.write(5 << 40, b"x" * 65536)
                assert export.read(5 << 40, 2) == b"xx"
                assert export.maps() == {
                    "base:allocation": [(0, 5 << 40, 3), (5 << 40, 65536, 0), ((5 << 40) + 65536, (3 << 40) - 65536, 3)]
                }
                export.zero(0, size)
                assert list(export.extents("base:allocation")) == [(0, size, 3)]
        finally:
            server.stop()
