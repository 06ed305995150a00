"""The server's handshake: rules H1 to H28 and H52 to H56, by what it says to options written by hand."""

import struct

import pytest
from nbd_said import (
    ABORT,
    ACK,
    EXPORT_NAME,
    EXPORTS,
    EXTENDED,
    FLAGS,
    GO,
    GREETING,
    INFO,
    INFO_REPLY,
    INVALID,
    LIST,
    LIST_CONTEXT,
    POLICY,
    SERVER,
    SHUTDOWN,
    STARTTLS,
    STRUCTURED,
    TOO_BIG,
    UNKNOWN,
    UNSUP,
    Session,
    info,
    option,
)

GOOD = info(GO)


def told(answers) -> dict[int, bytes]:
    """The information replies by type."""
    return {struct.unpack(">H", each.data[:2])[0]: each.data[2:] for each in answers if each.kind == INFO_REPLY}


def test_H1_the_greeting_offers_fixed_newstyle_and_no_zeroes_alone():
    assert Session().greeting == GREETING


@pytest.mark.parametrize("flags", [4, 1 << 31, 0xFFFFFFFF])
def test_H2_H3_a_client_flag_that_was_not_offered_ends_the_session(flags):
    session = Session(flags=struct.pack(">I", flags))
    assert session.closed


@pytest.mark.parametrize(("flags", "zeroes"), [(0, 124), (1, 124), (2, 0), (3, 0)])
def test_H4_H7_export_name_is_served_to_all_with_zeroes_unless_agreed(flags, zeroes):
    session = Session(flags=struct.pack(">I", flags))
    said = session.raw(option(EXPORT_NAME, b"web01"))
    assert said == struct.pack(">QH", 1 << 30, FLAGS & ~0x80) + bytes(zeroes)
    assert session.transmits


@pytest.mark.parametrize("number", [LIST, GO, INFO, ABORT, STARTTLS, 77])
def test_H5_other_options_of_a_client_that_is_not_fixed_end_the_session(number):
    session = Session(flags=bytes(4))
    assert session.raw(option(number)) == b""
    assert session.closed


@pytest.mark.parametrize("name", [b"nope", b"web01\0", b"\xff", b"x" * 4097, b"x" * 100_000])
def test_H6_export_name_of_what_is_not_there_ends_the_session(name):
    session = Session()
    assert session.raw(option(EXPORT_NAME, name)) == b""
    assert session.closed


@pytest.mark.parametrize("number", [0, 4, 12, STARTTLS, EXTENDED, 0xFFFFFFFF])  # no TLS, and compact headers alone
@pytest.mark.parametrize("data", [b"", b"x" * 100, b"x" * 500_000], ids=len)
def test_H8_an_unknown_option_gets_unsup_and_the_next_one_parses(number, data):
    assert Session(compact=True).kinds(option(number, data), option(LIST)) == [UNSUP, SERVER, SERVER, ACK]


BAD_INFO = {
    "empty": b"",
    "no count": struct.pack(">I", 5) + b"web01",
    "the name is longer than the option": struct.pack(">I", 6) + b"web01" + bytes(2),
    "the name has 2^32-1 bytes": struct.pack(">I", 2**32 - 1) + b"web01" + bytes(2),  # CVE-2022-26495
    "trailing bytes": struct.pack(">I", 5) + b"web01" + bytes(2) + b"x",
    "fewer requests than said": struct.pack(">I", 5) + b"web01" + struct.pack(">HH", 2, 0),
    "more requests than said": struct.pack(">I", 5) + b"web01" + struct.pack(">HHH", 1, 0, 0),
    "a NUL": struct.pack(">I", 5) + b"web\x001" + bytes(2),
    "no UTF-8": struct.pack(">I", 5) + b"web\xff1" + bytes(2),
    "4097 bytes": struct.pack(">I", 4097) + b"x" * 4097 + bytes(2),
}


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("bad", BAD_INFO)
def test_H10_info_whose_lengths_or_strings_are_wrong_is_invalid_and_the_session_goes_on(number, bad):
    session = Session()
    assert session.kinds(option(number, BAD_INFO[bad]), GOOD) == [INVALID, INFO_REPLY, INFO_REPLY, ACK]
    assert session.transmits


@pytest.mark.parametrize("length", [16_369, 100_000, 1 << 20])
def test_H11_an_option_that_fits_no_buffer_is_dropped_in_pieces_and_too_big(length):
    session = Session()
    head, data = option(GO, bytes(length))[:16], bytes(length)
    assert session.say(head) == []
    for at in range(0, length, 4096):
        answers = session.say(data[at : at + 4096])
    assert [each.kind for each in answers] == [TOO_BIG]
    assert session.kinds(GOOD)[-1] == ACK


@pytest.mark.parametrize("length", [(1 << 20) + 1, 2**31, 2**32 - 1])
def test_H11_an_absurd_length_ends_the_session_without_a_wait_for_its_data(length):  # CVE-2017-15119
    session = Session()
    assert session.kinds(b"IHAVEOPT" + struct.pack(">II", LIST_CONTEXT, length)) == [TOO_BIG]
    assert session.closed


def test_H12_info_tells_the_export_before_it_acknowledges():
    answers = Session().say(info(INFO))
    assert [each.kind for each in answers] == [INFO_REPLY, INFO_REPLY, ACK]
    assert answers[0].data == struct.pack(">HQH", 0, 1 << 30, FLAGS & ~0x80)


def test_H13_unknown_information_requests_are_ignored():
    assert Session().kinds(info(INFO, requests=(99, 0xFFFF, 0))) == [INFO_REPLY, INFO_REPLY, ACK]


@pytest.mark.parametrize("requests", [(), (3,), (3, 3, 3)])
def test_H14_H15_H20_H21_block_sizes_are_told_asked_or_not(requests):
    sizes = told(Session().say(info(INFO, requests=requests)))[3]
    assert struct.unpack(">III", sizes) == (512, 4096, 1 << 25)


def test_H15_name_and_description_are_told_when_asked():
    answers = told(Session().say(info(INFO, requests=(1, 2))))
    assert (answers[1], answers[2]) == (b"web01", b"the system disk")
    assert set(told(Session().say(info(INFO, b"", (1, 2))))) == {0, 1, 3}  # no description to tell


@pytest.mark.parametrize("number", [INFO, GO])
def test_H16_H17_an_unknown_export_is_unknown_and_nothing_is_told_before(number):
    session = Session()
    assert session.kinds(info(number, b"nope", (0, 1, 2, 3)), info(number, b"nope")) == [UNKNOWN, UNKNOWN]


def test_H16_the_text_of_an_error_does_not_repeat_the_name():  # CVE-2020-10761
    answers = Session().say(info(GO, b"y" * 4096))
    assert b"yyy" not in answers[0].data
    assert len(answers[0].data) < 100


def test_H18_go_right_after_info_tells_the_same():
    session = Session()
    first = session.say(info(INFO, requests=(1, 2)))
    second = session.say(info(GO, requests=(1, 2)))
    assert [each[1:] for each in first] == [each[1:] for each in second]


def test_H19_go_is_refused_once_when_the_export_changed_since_info():
    session = Session()
    session.say(info(INFO))
    session.machine.resize(b"web01", 1 << 31)
    assert session.kinds(info(GO)) == [INVALID]
    assert told(session.say(info(GO)))[0] == struct.pack(">QH", 1 << 31, FLAGS & ~0x80)


@pytest.mark.parametrize("between", [info(INFO, b""), option(LIST), option(STRUCTURED)])
def test_H19_only_a_go_right_after_info_is_bound_by_it(between):
    session = Session()
    session.say(info(INFO))
    session.machine.resize(b"web01", 1 << 31)
    session.say(between)
    assert session.kinds(info(GO))[-1] == ACK


def test_H22_info_and_a_refused_go_undo_nothing():
    session = Session()
    kinds = session.kinds(option(STRUCTURED), info(INFO), info(GO, b"nope"), info(GO))
    assert kinds[-1] == ACK
    assert session.machine.agreed["structured"]


def test_H23_H56_list_names_every_export_and_may_be_empty():
    answers = Session().say(option(LIST))
    assert [each.data for each in answers] == [struct.pack(">I", 5) + b"web01", bytes(4), b""]
    assert Session({}).kinds(option(LIST), info(GO, b"")) == [ACK, UNKNOWN]


def test_H23_a_long_list_is_told_in_pieces_of_the_room_there_is():
    exports = {f"disk {number} {'x' * 4000}".encode(): (1, 1, 1, 512, 512, b"") for number in range(40)}
    answers = Session(exports).say(option(LIST))
    assert [each.data[4:] for each in answers] == [*exports, b""]


def test_H24_a_server_may_refuse_to_list():
    assert Session(listed=False).kinds(option(LIST), GOOD) == [POLICY, INFO_REPLY, INFO_REPLY, ACK]


@pytest.mark.parametrize("number", [LIST, STRUCTURED])
def test_H25_data_where_none_belongs_is_invalid(number):
    assert Session().kinds(option(number, b"x"), option(number))[0] == INVALID


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 50_000], ids=len)
def test_H26_H27_H28_abort_is_acknowledged_whatever_comes_with_it_and_the_session_ends(data):
    session = Session()
    assert session.kinds(option(ABORT, data), GOOD) == [ACK]
    assert session.closed


@pytest.mark.parametrize(
    "said", [option(LIST), GOOD, option(STRUCTURED), option(STARTTLS), option(77), option(9, bytes(99_999))]
)
def test_H53_a_server_that_shuts_down_says_so_to_all_but_abort(said):
    session = Session()
    session.machine.shut_down()
    assert session.kinds(said, option(ABORT)) == [SHUTDOWN, ACK]


def test_H53_export_name_is_closed_while_shutting_down():
    session = Session()
    session.machine.shut_down()
    assert session.raw(option(EXPORT_NAME, b"web01")) == b""
    assert session.closed


def test_H54_the_64th_refusal_ends_the_session():
    session = Session()
    assert session.kinds(option(77) * 100) == [UNSUP] * 64
    assert session.closed


def test_H54_4096_options_end_the_session():
    session = Session()
    answers = session.kinds(info(INFO, b"") * 5000)
    assert answers.count(ACK) == 4096
    assert session.closed


def test_H54_as_many_exports_as_a_list_of_them_asks_about_are_answered():
    assert len(Session().kinds(*[info(INFO), option(STRUCTURED)] * 1000)) == 4 * 1000


@pytest.mark.parametrize("said", [b"IHAVEOPS" + bytes(8), b"\x25\x60\x95\x13" + bytes(24)])
def test_a_wrong_option_magic_ends_the_session(said):
    session = Session()
    assert session.raw(said) == b""
    assert session.closed


def test_H56_the_empty_name_is_the_default_export():
    session = Session()
    assert told(session.say(info(GO, b"")))[0] == struct.pack(">QH", 5, 1)
    assert session.transmits


def test_what_stands_behind_go_is_left_for_the_transmission_phase():
    session = Session()
    session.say(GOOD + b"\x25\x60\x95\x13 and more")
    assert session.rest == b"\x25\x60\x95\x13 and more"


def test_a_step_without_room_ends_the_session_instead_of_writing_past_it():
    session = Session()
    session.raw(GOOD, room=100)
    assert session.closed
    assert EXPORTS  # the table outlives it
