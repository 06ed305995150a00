"""STARTTLS without TLS: what both handshakes say and refuse around it (T1 to T13, T19 to T23, C27)."""

import struct

import pytest
from nbd_said import (
    ABORT,
    ACK,
    EXPORT_NAME,
    EXTENDED,
    FLAGS,
    GO,
    GREETING,
    INFO,
    INFO_REPLY,
    INVALID,
    LIST,
    LIST_CONTEXT,
    META_CONTEXT,
    POLICY,
    SERVER,
    SET_CONTEXT,
    SHUTDOWN,
    STARTTLS,
    STRUCTURED,
    TLS_REQD,
    UNKNOWN,
    UNSUP,
    Session,
    answer,
    contexts,
    export_info,
    info,
    option,
)

from omavol import _wire
from omavol.nbd.handshake import Fault, Goal, Next, Tls, Wish

BASE = b"base:allocation"
ALL_OPTIONS = [
    option(LIST),
    option(77),
    option(77, bytes(50_000)),
    option(STRUCTURED),
    option(EXTENDED),
    info(GO),
    info(INFO, b"nope"),
    option(GO, b"garbage"),
    contexts(SET_CONTEXT, BASE),
    contexts(LIST_CONTEXT),
]


def inside(session: Session) -> Session:
    """Agree on TLS; the next bytes are what its peer says inside."""
    assert session.kinds(option(STARTTLS)) == [ACK]
    assert session.next == Next.TLS
    session.machine.secured()
    return session


def test_T1_T3_a_server_without_tls_says_unsup_and_asks_nobody_for_it():
    session = Session(tls_only=[b"web01"])
    assert session.kinds(option(STARTTLS)) == [UNSUP]
    assert TLS_REQD not in session.kinds(*ALL_OPTIONS)
    assert session.kinds(info(GO)) == [POLICY]


@pytest.mark.parametrize("said", ALL_OPTIONS)
def test_T4_a_server_that_demands_tls_says_so_to_all_but_starttls_and_abort(said):
    session = Session(tls=Tls.FORCED)
    assert session.kinds(said) == [TLS_REQD]
    assert session.kinds(option(STARTTLS)) == [ACK]
    assert Session(tls=Tls.FORCED).kinds(option(ABORT)) == [ACK]


def test_T4_shutting_down_or_not():
    session = Session(tls=Tls.FORCED)
    session.machine.shut_down()
    assert session.kinds(option(LIST), option(STARTTLS), option(ABORT)) == [TLS_REQD, SHUTDOWN, ACK]


@pytest.mark.parametrize("flags", [0, 3])
def test_T2_T5_export_name_of_a_server_that_demands_tls_is_the_end(flags):
    session = Session(tls=Tls.FORCED, flags=struct.pack(">I", flags))
    assert session.raw(option(EXPORT_NAME, b"web01")) == b""
    assert session.closed


def test_T2_a_client_that_is_not_fixed_has_no_tls():
    session = Session(tls=Tls.SELECTIVE, flags=bytes(4))
    assert session.raw(option(STARTTLS)) == b""
    assert session.closed


@pytest.mark.parametrize("number", [INFO, GO])
def test_T6_T7_info_and_go_of_an_export_that_wants_tls_say_so_and_of_one_that_is_not_there(number):
    session = Session(tls=Tls.SELECTIVE, tls_only=[b"web01"])
    assert session.kinds(info(number)) == [TLS_REQD]
    assert [each[1:] for each in session.say(info(number))] == [each[1:] for each in session.say(info(number, b"nope"))]
    assert session.kinds(contexts(SET_CONTEXT, BASE, name=b"nope"), option(STRUCTURED)) == [INVALID, ACK]
    assert session.kinds(contexts(SET_CONTEXT, BASE, name=b"nope")) == [UNKNOWN]
    assert inside(session).kinds(info(number, b"nope")) == [UNKNOWN]


@pytest.mark.parametrize("number", [INFO, GO])
def test_T6_an_export_that_wants_none_is_told_in_the_clear(number):
    session = Session(tls=Tls.SELECTIVE, tls_only=[b"web01"])
    assert session.kinds(info(number, b"")) == [INFO_REPLY, INFO_REPLY, ACK]


def test_T8_nothing_else_does():
    session = Session(tls=Tls.SELECTIVE, tls_only=[b"web01"])
    kinds = session.kinds(option(STRUCTURED), contexts(SET_CONTEXT, BASE), contexts(LIST_CONTEXT), option(LIST))
    assert kinds == [ACK, POLICY, POLICY, SERVER, SERVER, ACK]


@pytest.mark.parametrize(("name", "closed"), [(b"web01", True), (b"", False)])
def test_T9_export_name_of_an_export_that_wants_tls_is_the_end(name, closed):
    session = Session(tls=Tls.SELECTIVE, tls_only=[b"web01"])
    assert bool(session.raw(option(EXPORT_NAME, name))) is not closed
    assert session.closed is closed


@pytest.mark.parametrize("mode", [Tls.SELECTIVE, Tls.FORCED])
def test_T10_inside_tls_starttls_is_invalid_and_nothing_wants_it(mode):
    session = inside(Session(tls=mode, tls_only=[b"web01"]))
    assert session.kinds(option(STARTTLS), option(STARTTLS, bytes(20_000))) == [INVALID, INVALID]
    assert TLS_REQD not in session.kinds(*ALL_OPTIONS, info(GO))
    assert session.transmits


def test_T11_what_was_agreed_in_the_clear_is_forgotten():
    session = Session(tls=Tls.SELECTIVE)
    session.say(option(EXTENDED), contexts(SET_CONTEXT, BASE), info(INFO))
    session.machine.resize(b"web01", 1 << 31)
    inside(session)
    assert session.kinds(contexts(SET_CONTEXT, BASE)) == [INVALID]
    assert session.kinds(info(GO)) == [INFO_REPLY, INFO_REPLY, ACK]  # not bound by what INFO told outside
    agreed = session.machine.agreed
    assert not (agreed["extended"] or agreed["structured"] or agreed["contexts"])
    assert agreed["no_zeroes"]


@pytest.mark.parametrize("behind", [b"\x16", option(LIST), b"\x16\x03\x01\x02\x00\x01"])
def test_T12_bytes_behind_starttls_before_its_ack_end_the_session_without_an_ack(behind):  # CVE-2021-3716
    session = Session(tls=Tls.FORCED)
    assert session.raw(option(STARTTLS) + behind) == b""
    assert session.closed


@pytest.mark.parametrize("data", [b"x", bytes(50_000)], ids=len)
def test_T13_starttls_with_data_is_invalid_and_may_be_asked_again(data):
    session = Session(tls=Tls.FORCED)
    assert session.kinds(option(STARTTLS, data)) == [INVALID]
    inside(session)


def test_tls_that_nobody_agreed_on_is_the_end():
    session = Session(tls=Tls.FORCED)
    session.machine.secured()
    assert session.raw(b"") == b""
    assert session.closed


def test_until_tls_stands_the_server_waits_for_it():
    session = Session(tls=Tls.FORCED)
    session.say(option(STARTTLS))
    assert session.raw(option(LIST)) == b""
    assert session.next == Next.TLS
    assert session.rest == option(LIST)


class Client:
    """A client's handshake that wants TLS, and what it says."""

    def __init__(self, tls=Wish.DEMANDED, goal=Goal.GO, greeting=GREETING, **wishes) -> None:
        self.machine = _wire.ClientMachine(tls=tls, **wishes)
        self.machine.ask(goal, b"web01")
        self.first = self.hear(greeting)

    def hear(self, *data: bytes) -> bytes:
        said, rest = b"", b"".join(data)
        while True:
            todo, used, out = self.machine.step(rest)
            rest, said, self.next = rest[used:], said + out, Next(todo)
            if todo not in (Next.SEND, Next.SEEN):
                return said

    def options(self, *data: bytes) -> list[int]:
        said, numbers = self.hear(*data), []
        while said:
            numbers.append(int.from_bytes(said[8:12]))
            said = said[16 + int.from_bytes(said[12:16]) :]
        return numbers


@pytest.mark.parametrize("goal", [Goal.GO, Goal.INFO, Goal.LIST, Goal.CONTEXTS])
def test_T19_T23_starttls_is_sent_first_without_data_and_once(goal):
    client = Client(goal=goal)
    assert client.first[4:] == option(STARTTLS)
    assert client.options(answer(STARTTLS, 1)) == []
    assert client.next == Next.TLS
    client.machine.secured()
    assert STARTTLS not in client.options()


def test_T20_inside_tls_everything_is_agreed_anew():
    client = Client(contexts=[BASE], extended=Wish.OFFERED)
    client.hear(answer(STARTTLS, 1))
    client.machine.secured()
    assert client.options() == [EXTENDED]
    assert client.options(answer(EXTENDED, 1)) == [SET_CONTEXT]
    assert client.options(answer(SET_CONTEXT, META_CONTEXT, b"\0\0\0\7" + BASE), answer(SET_CONTEXT, 1)) == [GO]
    client.hear(export_info(), answer(GO, 1))
    assert client.next == Next.TRANSMIT
    assert client.machine.agreed["extended"] and client.machine.agreed["ids"] == [7]


def test_T20_what_stands_behind_the_ack_is_not_read_as_an_answer():
    client = Client()
    assert client.hear(answer(STARTTLS, 1) + answer(STRUCTURED, 1)) == b""
    assert (client.next, client.machine.fault) == (Next.CLOSE, Fault.UNASKED)


def test_T20_contexts_set_in_the_clear_are_asked_for_again_inside():
    client = Client(tls=Wish.OFFERED, contexts=[BASE], goal=Goal.INFO)
    client.hear(answer(STARTTLS, 1))
    client.machine.secured()
    client.hear(answer(STRUCTURED, 1))
    assert client.options() == []
    assert not client.machine.contexts


@pytest.mark.parametrize("error", [UNSUP, POLICY])
def test_T23_C27_who_demands_tls_asks_nothing_without_it(error):
    client = Client()
    assert client.options(answer(STARTTLS, error, b"no")) == []
    assert (client.next, client.machine.refused, client.machine.message) == (Next.ANSWERED, error, b"no")
    for goal in (Goal.LIST, Goal.GO):
        client.machine.ask(goal, b"web01")
        assert client.options() == []
        assert (client.next, client.machine.option) == (Next.ANSWERED, STARTTLS)
        assert client.machine.refused
    client.machine.ask(Goal.ABORT)
    assert client.options() == [ABORT]


def test_who_only_wishes_for_tls_goes_on_without():
    client = Client(tls=Wish.OFFERED)
    assert client.options(answer(STARTTLS, UNSUP)) == [STRUCTURED]
    assert client.options(answer(STRUCTURED, 1)) == [GO]
    client.hear(answer(GO, TLS_REQD))
    assert client.machine.refused == TLS_REQD


@pytest.mark.parametrize(
    "wishes", [{"tls": Wish.DEMANDED}, {"tls": Wish.NEVER, "extended": Wish.DEMANDED}], ids=["tls", "extended"]
)
def test_C27_a_server_that_is_not_fixed_offers_nothing_that_is_demanded(wishes):  # CVE-2019-14842
    client = Client(**wishes, greeting=b"NBDMAGICIHAVEOPT\0\0")
    assert (client.first, client.machine.fault) == (b"", Fault.NOT_FIXED)


def test_extended_headers_come_before_structured_replies_and_these_are_not_asked_then():
    client = Client(tls=Wish.NEVER, extended=Wish.OFFERED)
    assert client.first[4:] == option(EXTENDED)
    assert client.options(answer(EXTENDED, 1)) == [GO]


def test_C19_extended_headers_fall_back_to_structured_replies():
    client = Client(tls=Wish.NEVER, extended=Wish.OFFERED)
    assert client.options(answer(EXTENDED, UNSUP)) == [STRUCTURED]
    assert client.options(answer(STRUCTURED, UNSUP)) == [GO]
    assert not client.machine.agreed["extended"]


def test_C27_a_downgrade_of_extended_headers_is_refused_where_they_are_demanded():
    client = Client(tls=Wish.NEVER, extended=Wish.DEMANDED)
    assert client.options(answer(EXTENDED, UNSUP)) == []
    assert (client.next, client.machine.refused, client.machine.option) == (Next.ANSWERED, UNSUP, EXTENDED)
    client.machine.ask(Goal.GO, b"web01")
    assert client.options() == [EXTENDED]


def test_C21_there_is_no_export_name_after_extended_headers():
    client = Client(tls=Wish.NEVER, extended=Wish.OFFERED)
    client.hear(answer(EXTENDED, 1))
    assert client.options(answer(GO, UNSUP)) == []  # H48 forbids it
    assert (client.next, client.machine.refused) == (Next.ANSWERED, UNSUP)


@pytest.mark.parametrize(("agreed", "kept"), [(EXTENDED, 1 << 12), (STRUCTURED, 0)])
def test_H49_block_status_with_payload_is_believed_with_extended_headers_alone(agreed, kept):
    client = Client(tls=Wish.NEVER, extended=Wish.OFFERED)
    if agreed == STRUCTURED:
        client.hear(answer(EXTENDED, UNSUP))
    client.hear(answer(agreed, 1), export_info(flags=FLAGS | 1 << 12), answer(GO, 1))
    assert client.machine.facts[1] & 1 << 12 == kept
