"""Meta contexts and the facts an export is told with: rules H9, H29 to H47."""

import struct

import pytest
from nbd_said import (
    ACK,
    EXPORTS,
    FLAGS,
    GO,
    INFO,
    INVALID,
    LIST_CONTEXT,
    META_CONTEXT,
    SET_CONTEXT,
    STRUCTURED,
    TOO_BIG,
    UNKNOWN,
    Session,
    contexts,
    info,
    option,
)

BASE = b"base:allocation"
BOTH = pytest.mark.parametrize("number", [LIST_CONTEXT, SET_CONTEXT])
SELECTED, NONE = [META_CONTEXT, ACK], [ACK]


@pytest.fixture
def session():
    """A session with structured replies agreed."""
    session = Session()
    assert session.kinds(option(STRUCTURED)) == [ACK]
    return session


def selects(session) -> bool:
    """Whether base:allocation counts once web01 is entered."""
    session.say(info(GO))
    assert session.transmits
    return bool(session.machine.agreed["allocation"])


NAME = struct.pack(">I", 5) + b"web01"
BAD = {
    "empty": b"",
    "no count": NAME,
    "the name is longer than the option": struct.pack(">I", 50) + b"web01" + bytes(4),
    "the name has 2^32-1 bytes": struct.pack(">I", 2**32 - 1) + b"web01" + bytes(4),
    "one query less than said": NAME + struct.pack(">II", 2, 15) + BASE,
    "2^32-1 queries": NAME + struct.pack(">I", 2**32 - 1),
    "a query is longer than the option": NAME + struct.pack(">II", 1, 16) + BASE,
    "a query has 2^32-1 bytes": NAME + struct.pack(">II", 1, 2**32 - 1) + BASE,
    "trailing bytes": NAME + struct.pack(">II", 1, 15) + BASE + b"x",
    "a NUL": NAME + struct.pack(">II", 1, 6) + b"base:\0",
    "no UTF-8": NAME + struct.pack(">II", 1, 6) + b"base:\xff",
    "a query of 4097 bytes": NAME + struct.pack(">II", 1, 4097) + b"base:" + b"x" * 4092,
    "H40 a query without colon": NAME + struct.pack(">II", 1, 4) + b"base",
    "H40 an empty query": NAME + struct.pack(">II", 1, 0),
}


@BOTH
@pytest.mark.parametrize("bad", BAD)
def test_H9_H10_H40_lengths_that_do_not_add_up_and_bad_queries_are_invalid(session, number, bad):
    assert session.kinds(option(number, BAD[bad])) == [INVALID]
    assert not selects(session)


@BOTH
def test_H29_H30_contexts_before_structured_replies_are_invalid(number):
    assert Session().kinds(contexts(number, BASE)) == [INVALID]


@pytest.mark.parametrize(
    "second",
    [
        contexts(SET_CONTEXT),
        contexts(SET_CONTEXT, b"x-other:y"),
        contexts(SET_CONTEXT, BASE, name=b"nope"),
        option(SET_CONTEXT, b"garbage"),
        option(SET_CONTEXT, bytes(50_000)),
    ],
)
def test_H31_set_replaces_what_was_set_even_when_it_fails(session, second):
    assert session.kinds(contexts(SET_CONTEXT, BASE)) == SELECTED
    session.say(second)
    assert not selects(session)


def test_H32_list_without_queries_gives_all(session):
    answers = session.say(contexts(LIST_CONTEXT))
    assert [each.kind for each in answers] == SELECTED
    assert answers[0].data[4:] == BASE


def test_H33_set_without_queries_selects_none(session):
    assert session.kinds(contexts(SET_CONTEXT)) == NONE
    assert not selects(session)


def test_H34_set_answers_by_id_and_name_then_ack(session):
    answers = session.say(contexts(SET_CONTEXT, b"x-other:y", BASE))
    assert [each.kind for each in answers] == SELECTED
    assert answers[0].data[4:] == BASE
    session.say(info(GO))
    assert session.machine.agreed["allocation_context"] == int.from_bytes(answers[0].data[:4])
    assert session.machine.agreed["contexts"] == 1


def test_H35_a_query_asked_twice_selects_once(session):
    assert session.kinds(contexts(SET_CONTEXT, BASE, BASE)) == SELECTED
    assert selects(session)


def test_H36_base_alone_is_all_in_list_and_nothing_in_set(session):
    assert session.kinds(contexts(LIST_CONTEXT, b"base:")) == SELECTED
    assert session.kinds(contexts(SET_CONTEXT, b"base:")) == NONE


@BOTH
@pytest.mark.parametrize("query", [b"base:other", b"base:allocation2", b"base:allocatio", b"qemu:dirty-bitmap:x", b":"])
def test_H37_H38_H39_what_we_do_not_know_is_ignored(session, number, query):
    assert session.kinds(contexts(number, query)) == NONE
    assert session.kinds(contexts(number, query, BASE)) == SELECTED


@BOTH
def test_H41_an_unknown_export_is_unknown(session, number):
    assert session.kinds(contexts(number, BASE, name=b"nope")) == [UNKNOWN]


def test_H42_contexts_set_for_another_export_do_not_count(session):
    assert session.kinds(contexts(SET_CONTEXT, BASE, name=b"")) == SELECTED
    assert not selects(session)


def test_H42_contexts_count_for_the_export_they_were_set_for(session):
    session.say(contexts(SET_CONTEXT, BASE), info(GO, b"nope"), info(INFO))
    assert selects(session)


def test_more_queries_than_fit_the_buffer_are_too_big(session):
    assert session.kinds(contexts(SET_CONTEXT, *[b"base:" + b"x" * 4000] * 5)) == [TOO_BIG]


def flags_of(flags: int, structured: bool = True) -> int:
    session = Session({b"web01": (1 << 30, flags, 0, 0, 0, b"")})
    if structured:
        session.say(option(STRUCTURED))
    return int.from_bytes(session.say(info(INFO))[0].data[-2:])


def test_H43_has_flags_is_always_set():
    assert flags_of(0) == 1


def test_H44_df_is_told_with_structured_replies_alone():
    assert flags_of(FLAGS) & 0x80
    assert not flags_of(FLAGS, structured=False) & 0x80


def test_H45_fast_zero_is_not_told_without_write_zeroes():
    assert not flags_of(FLAGS & ~0x40) & 0x800


def test_H49_the_payload_of_extended_headers_and_resize_are_never_told():
    assert flags_of(0xFFFF) & 0x1200 == 0


def test_H46_an_owner_without_block_sizes_tells_the_defaults():
    session = Session()
    sizes = session.say(info(INFO, b""))[1].data[2:]
    assert struct.unpack(">III", sizes) == (1, 4096, 32 << 20)
    assert EXPORTS[b""][2:5] == (0, 0, 0)


MANY = [(b"web01", b"x-oma:changed-since:p%d" % number, 2 + number) for number in range(12)]
FIRST, SECOND = MANY[0][1], MANY[1][1]


def several(table=MANY, **options) -> Session:
    session = Session(contexts=table, **options)
    assert session.kinds(option(STRUCTURED)) == [ACK]
    return session


def named(answers) -> dict[bytes, int]:
    """The contexts of an answer, which ends in ACK."""
    assert answers[-1].kind == ACK
    assert all(each.kind == META_CONTEXT for each in answers[:-1])
    return {each.data[4:]: int.from_bytes(each.data[:4]) for each in answers[:-1]}


def test_H32_list_gives_the_contexts_of_that_export():
    session = several()
    assert list(named(session.say(contexts(LIST_CONTEXT)))) == [BASE, *(name for _, name, _ in MANY)]
    assert list(named(session.say(contexts(LIST_CONTEXT, name=b"")))) == [BASE]


@pytest.mark.parametrize(
    ("query", "count"),
    [(b"base:", 1), (b"x-oma:", 12), (b"x-oma:changed-since:", 12), (b"x-oma:changed", 0), (b":", 0)],
)
def test_H36_a_namespace_alone_is_all_of_it_in_list_and_nothing_in_set(query, count):
    session = several()
    assert len(named(session.say(contexts(LIST_CONTEXT, query)))) == count
    assert named(session.say(contexts(SET_CONTEXT, query))) == {}


def test_H34_H35_several_contexts_are_selected_at_once_each_once_with_an_id_of_its_own():
    session = several()
    told = named(session.say(contexts(SET_CONTEXT, SECOND, BASE, FIRST, SECOND, b"x-oma:changed-since:nothing")))
    assert set(told) == {BASE, FIRST, SECOND}
    assert len(set(told.values())) == 3
    session.say(info(GO))
    assert sorted(session.machine.agreed["ids"]) == sorted(told.values())
    assert session.machine.agreed["allocation_context"] == told[BASE]


def test_a_context_may_be_selected_without_base_allocation():
    session = several()
    assert named(session.say(contexts(SET_CONTEXT, FIRST))) == {FIRST: 2}
    session.say(info(GO))
    agreed = session.machine.agreed
    assert (agreed["allocation"], agreed["contexts"], agreed["ids"]) == (False, 1, [2])


def test_no_more_than_eight_are_selected():
    session = several()
    told = named(session.say(contexts(SET_CONTEXT, BASE, *(name for _, name, _ in MANY))))
    assert len(told) == 8
    session.say(info(GO))
    assert session.machine.agreed["ids"] == list(told.values())


def test_H34_an_id_that_is_taken_is_not_given_again():
    session = several([(b"web01", FIRST, 5), (b"web01", SECOND, 5)])
    assert named(session.say(contexts(SET_CONTEXT, FIRST, SECOND))) == {FIRST: 5}


def test_H42_contexts_of_one_export_are_not_those_of_another():
    session = several()
    assert named(session.say(contexts(SET_CONTEXT, FIRST, name=b""))) == {}
    session.say(contexts(SET_CONTEXT, FIRST), info(GO, b""))
    assert session.machine.agreed["contexts"] == 0


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_a_long_list_of_contexts_is_told_in_pieces_of_the_room_there_is(piece):
    long = [(b"web01", b"x:%d:" % number + b"y" * 4000, 2 + number) for number in range(30)]
    session = several(long)
    said = contexts(LIST_CONTEXT) + option(LIST_CONTEXT, b"bad") + contexts(LIST_CONTEXT, BASE)
    answers = []
    for at in range(0, len(said), piece):
        answers += session.say(said[at : at + piece], room=9000)
    assert [each.data[4:] for each in answers if each.kind == META_CONTEXT] == [BASE, *(n for _, n, _ in long), BASE]
    assert [each.kind for each in answers[31:]] == [ACK, INVALID, META_CONTEXT, ACK]
