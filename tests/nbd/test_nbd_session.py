"""A client that asks, enters and leaves; servers that dawdle, leave or are none: rules C6, C7, C25, C27, H6."""

import os
import struct
import threading
import time
from queue import Queue

import pytest
from nbd_said import EXPORTS, GREETING, STRUCTURED, answer, chunk

from omavol.nbd.client import connect, negotiate
from omavol.nbd.errors import Breach, ConnectFailed, Disconnected, Downgraded, NbdError, TimedOut, UnknownExport
from omavol.nbd.handshake import Wish

BIG = {b"web01": (1 << 40, 0xDED, 1, 4096, 1 << 25, b"")}


def wait_for_the_end(peer):
    peer.hear_end()


SILENT = {
    "before the greeting": wait_for_the_end,
    "in the greeting": lambda peer: (peer.say(GREETING[:9]), peer.hear_end()),
    "after the greeting": lambda peer: (peer.say(GREETING), peer.hear_end()),
    "in an answer": lambda peer: (peer.say(GREETING, answer(STRUCTURED, 1)[:10]), peer.hear_end()),
}


@pytest.mark.parametrize("case", SILENT)
def test_C25_a_server_silent_in_the_handshake_is_left(scripted, case):
    start = time.monotonic()
    with pytest.raises(TimedOut):
        connect(scripted(SILENT[case]), timeout=0.2)
    assert time.monotonic() - start < 5


def test_C25_a_server_that_drips_does_not_prolong_the_limit(scripted):
    def script(peer):
        for byte in GREETING * 100:
            peer.say(bytes([byte]))
            time.sleep(0.02)

    start = time.monotonic()
    with pytest.raises(NbdError):
        connect(scripted(script), timeout=1.0)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("said", [b"", b"\x66\x8e\x33\xef", chunk(1, bytes(4104), 1)[:3000]])
def test_C25_a_server_silent_in_an_answer_is_left(scripted, said):
    def script(peer):
        peer.negotiate(BIG)
        peer.request()
        peer.say(said)
        peer.hear_end()

    connection = connect(scripted(script), timeout=1.0)
    with pytest.raises(TimedOut):
        connection.read(0, 4096)
    with pytest.raises(Disconnected):
        connection.read(0, 4096)


def test_C25_a_server_that_takes_no_payload_is_left(scripted):
    left = threading.Event()
    connection = connect(scripted(lambda peer: (peer.negotiate(BIG), left.wait(20))), timeout=1.0)
    with pytest.raises(TimedOut):
        connection.write(0, bytes(1 << 20))
    left.set()


LEAVING = {
    "at once": lambda peer: None,
    "after the greeting": lambda peer: peer.say(GREETING),
    "when asked": lambda peer: (peer.say(GREETING), peer.hear(4), peer.hear_option()),
    "answering GO": lambda peer: (
        peer.say(GREETING),
        peer.hear(4),
        peer.hear_option(),
        peer.say(b"\0\3"),
    ),  # CVE-2021-20286
}


@pytest.mark.parametrize("case", LEAVING)
def test_a_server_that_leaves_in_the_handshake_is_a_clean_error(scripted, case):
    with pytest.raises(Disconnected):
        connect(scripted(LEAVING[case]), timeout=5)


def test_H6_export_name_refused_says_which_export(scripted):
    def script(peer):
        peer.say(b"NBDMAGICIHAVEOPT\0\0")
        peer.hear(4)
        peer.hear_option()

    with pytest.raises(Disconnected, match="'web01'"):
        connect(scripted(script), timeout=5)


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(64)])
def test_what_is_no_nbd_server_is_said_so(scripted, said):
    with pytest.raises(Breach, match="no NBD server"):
        connect(scripted(lambda peer: (peer.say(said), peer.hear_end())), timeout=5)


def test_bytes_nobody_asked_for_are_a_breach(scripted):
    uri = scripted(lambda peer: (peer.say(GREETING), peer.hear(4), peer.hear_option(), peer.say(ANSWERS)))
    with pytest.raises(Breach, match="more than it was asked for"):
        connect(uri, timeout=5, structured=Wish.NEVER)


ANSWERS = answer(7, 3, struct.pack(">HQH", 0, 512, 1)) + answer(7, 1) + b"surprise"


@pytest.mark.parametrize("demanded", ["structured", "extended"])
def test_C27_what_was_demanded_and_is_not_offered_is_no_connection(scripted, demanded):
    def script(peer):
        peer.say(GREETING)
        peer.hear(4)
        while True:
            number, _ = peer.hear_option()
            peer.say(answer(number, 2**31 + 1))

    with pytest.raises(Downgraded, match=demanded):
        connect(scripted(script), timeout=5, **{demanded: Wish.DEMANDED})


def test_an_unknown_export_is_named_and_the_session_left_by_abort(scripted):
    sessions = Queue()
    uri = scripted(lambda peer: sessions.put(peer.negotiate(EXPORTS)), export="nope")
    with pytest.raises(UnknownExport, match="'nope'") as refused:
        connect(uri, timeout=5)
    assert "omavol info --list" in refused.value.advice
    assert sessions.get(timeout=5).closed  # C7: the server heard ABORT


def test_a_session_asks_many_questions_and_may_enter_at_last(scripted):
    uri = scripted(lambda peer: (peer.negotiate(EXPORTS), peer.hear_end()))
    with negotiate(uri, timeout=5) as session:
        assert [listed.name for listed in session.exports()] == ["web01", ""]
        assert session.contexts("web01") == ("base:allocation",)
        assert session.info("").size == 5
        with pytest.raises(UnknownExport):
            session.info("nope")
        described = session.info("web01")
        with session.go("web01") as connection:
            assert connection.export == described
            assert connection.export.contexts == {"base:allocation": 1}
            assert connection.export.description == "the system disk"
            assert connection.export.multi_conn
        with pytest.raises(Disconnected):
            session.exports()


def test_a_detached_descriptor_is_the_callers_and_non_blocking(scripted):
    connection = connect(scripted(lambda peer: (peer.negotiate(EXPORTS), peer.hear_end())), timeout=5)
    number = connection.fileno()
    assert connection.detach() == number
    assert not os.get_blocking(number)
    os.close(number)
    with pytest.raises(Disconnected):
        connection.fileno()
    connection.close()


def test_a_server_that_is_not_there_is_one_line_with_advice(folder):
    with pytest.raises(ConnectFailed, match="No such file") as failed:
        connect(f"nbd+unix:///?socket={folder}/nothing")
    assert failed.value.errno == 2
    assert failed.value.advice
