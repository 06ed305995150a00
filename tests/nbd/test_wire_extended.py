"""Extended headers: their records, what they may ask and answer (X60 to X70), and how they are agreed (H48 to H52)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbd_said import (
    ACK,
    EXPORT_NAME,
    EXTENDED,
    EXTENDED_REQD,
    FLAGS,
    GO,
    INFO,
    INFO_REPLY,
    INVALID,
    META_CONTEXT,
    SET_CONTEXT,
    STRUCTURED,
    UNSUP,
    Session,
    contexts,
    info,
    option,
)

from omavol import _wire
from omavol.nbd import wire
from omavol.nbd.wire import Chunk, Command, CommandFlag, Error, Form

PAYLOAD = 1 << 12  # the transmission flag BLOCK_STATUS_PAYLOAD
BASE = b"base:allocation"
WITH_PAYLOAD = {b"web01": (1 << 30, FLAGS | PAYLOAD, 1, 4096, 1 << 25, b"")}
u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


def test_an_extended_request_is_32_bytes_in_network_order():
    request = wire.Request(flags=0, type=4, cookie=2, offset=3, length=1 << 40)
    said = bytes.fromhex("21e41c71 0000 0004 0000000000000002 0000000000000003 0000010000000000")
    assert request.encode(extended=True) == said
    assert wire.parse_request(said, extended=True) == request


@given(u16, u16, u64, u64, u64)
def test_an_extended_request_survives_the_wire(flags, type, cookie, offset, length):
    said = struct.pack(">IHHQQQ", 0x21E41C71, flags, type, cookie, offset, length)
    request = wire.parse_request(said, extended=True)
    assert request == (flags, type, cookie, offset, length)
    has_payload = flags & CommandFlag.PAYLOAD_LEN or type == Command.WRITE
    assert request.payload(extended=True) == (length if has_payload else 0)
    assert all(wire.parse_request(said[:have], extended=True) is None for have in (0, 3, 4, 28, 31))


def test_C21_an_extended_write_says_payload_len():
    asked = wire.parse_request(wire.Request(0, Command.WRITE, 1, 0, 512).encode(extended=True), extended=True)
    assert asked.flags == CommandFlag.PAYLOAD_LEN


@pytest.mark.parametrize("extended", [True, False])
def test_X5_a_header_of_the_other_form_has_a_wrong_magic(extended):
    with pytest.raises(ValueError, match="magic"):
        wire.parse_request(wire.Request(0, 0, 1, 0, 512).encode(not extended), extended)


def test_X60_only_extended_replies_are_replies_and_they_repeat_the_offset():
    said = _wire.make_chunk(1, 0, 7, 0, begin=1 << 40)
    assert said == struct.pack(">IHHQQQ", 0x6E8A278C, 1, 0, 7, 1 << 40, 0)
    assert wire.parse_reply(said, Form.EXTENDED) == (True, 1, 0, 0, 0, 7, True, 1 << 40)
    assert wire.parse_reply(said[:31], Form.EXTENDED) is None
    for form in (Form.SIMPLE, Form.STRUCTURED):
        with pytest.raises(ValueError, match="magic"):
            wire.parse_reply(said, form)
    for other in (_wire.make_simple_reply(0, 7), _wire.make_chunk(1, 0, 7, 0)):
        with pytest.raises(ValueError, match="magic"):
            wire.parse_reply(other + bytes(16), Form.EXTENDED)


@given(u64)
def test_a_length_of_64_bits_is_told_as_it_is(length):
    said = struct.pack(">IHHQQQ", 0x6E8A278C, 0, 1, 7, 0, length)
    assert wire.parse_reply(said, Form.EXTENDED).length == length


HEAD = 0x6E8A278C


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (_wire.make_data_chunk(1, 2, 3, 4, begin=1), struct.pack(">IHHQQQQ", HEAD, 1, 1, 2, 1, 12, 3)),
        (_wire.make_hole_chunk(0, 2, 3, 4, begin=1), struct.pack(">IHHQQQQI", HEAD, 0, 2, 2, 1, 12, 3, 4)),
        (_wire.make_status_chunk(1, 2, 7, 3, begin=1), struct.pack(">IHHQQQII", HEAD, 1, 6, 2, 1, 8 + 48, 7, 3)),
        (_wire.make_descriptor(1 << 40, 3, extended=True), struct.pack(">QQ", 1 << 40, 3)),
        (_wire.make_descriptor(5, 3), struct.pack(">II", 5, 3)),
        (
            _wire.make_error_chunk(1, 2, 5, b"no", begin=1),
            struct.pack(">IHHQQQIH2s", HEAD, 1, 0x8001, 2, 1, 8, 5, 2, b"no"),
        ),
        (
            _wire.make_error_chunk(1, 2, 5, b"no", 9, begin=1),
            struct.pack(">IHHQQQIH2sQ", HEAD, 1, 0x8002, 2, 1, 16, 5, 2, b"no", 9),
        ),
    ],
)
def test_X60_X61_extended_chunks_are_laid_out_as_the_document_says(made, said):
    assert made == said


SIZE = 1 << 50
ALL = FLAGS | PAYLOAD
LEN = CommandFlag.PAYLOAD_LEN


def verdict(type, offset=0, length=4096, flags=0, *, offers=ALL, size=SIZE, selected=(1, 7), payload=None, **more):
    facts = (size, offers, more.get("minimum", 1), 4096, more.get("maximum", 1 << 25))
    return _wire.judge_request((flags, type, offset, length), facts, Form.EXTENDED, selected, payload)


def status(length, *ids, offset=0, **more):
    payload = struct.pack(f">Q{len(ids)}I", length, *ids)
    return verdict(Command.BLOCK_STATUS, offset, len(payload), LEN, payload=payload, **more)


LONG = 1 << 49
CASES = {
    "lengths of 64 bits pass where no data goes": {
        verdict(type, LONG, LONG) for type in (Command.TRIM, Command.WRITE_ZEROES, Command.CACHE, Command.BLOCK_STATUS)
    }
    == {0},
    "X9 but not past the end": verdict(Command.TRIM, LONG, LONG + 1) == Error.EINVAL,
    "X10 nor do they wrap": verdict(Command.WRITE_ZEROES, 2**64 - 512, 2**64 - 512) == Error.ENOSPC,
    "a READ of 2^32 bytes or more is none": verdict(Command.READ, 0, 1 << 32) == Error.EINVAL,
    "X33 one of less comes in chunks": verdict(Command.READ, 0, (1 << 32) - 1) == 0,
    "a WRITE passes": verdict(Command.WRITE, flags=LEN) == 0,
    "X68 a WRITE without PAYLOAD_LEN passes, for QEMU says so": verdict(Command.WRITE) == 0,
    "X68 and brings its payload": _wire.payload_of(0, Command.WRITE, 4096, True) == 4096,
    "C16 a WRITE above the maximum": verdict(Command.WRITE, length=(1 << 25) + 1, flags=LEN) == Error.EINVAL,
    "X66 PAYLOAD_LEN on another command": {
        verdict(type, flags=LEN) for type in (Command.READ, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES)
    }
    == {Error.EINVAL},
    "X66 which brings a payload": _wire.payload_of(LEN, Command.TRIM, 4096, True) == 4096,
    "X66 FLUSH too": verdict(Command.FLUSH, 0, 0, LEN) == Error.EINVAL,
    "X70 compact headers have no payload but a WRITE's": _wire.payload_of(LEN, Command.READ, 4096, False) == 0,
    "X64 a length and ids pass": status(LONG, 7, 1) == 0,
    "X64 one id passes, with REQ_ONE too": status(4096, 7) == 0,
    "X64 the effect is judged as any other": status(LONG + 1, 7, offset=LONG) == Error.EINVAL,
    "X64 and is not empty": status(0, 7) == Error.EINVAL,
    "X62 and keeps to the minimum block": status(1000, 7, minimum=512) == Error.EINVAL,
    "X65 not offered": status(4096, 7, offers=FLAGS) == Error.EINVAL,
    "X65 an unknown id": status(4096, 7, 2) == Error.EINVAL,
    "X65 an id twice": status(4096, 7, 7) == Error.EINVAL,
    "X65 without a context selected": status(4096, 7, selected=()) == Error.EINVAL,
    "X69 no payload": verdict(Command.BLOCK_STATUS, 0, 0, LEN) == Error.EINVAL,
    "X69 a length alone": status(4096) == Error.EINVAL,
    "X69 a part of an id": verdict(Command.BLOCK_STATUS, 0, 13, LEN) == Error.EINVAL,
    "X69 less than a length": verdict(Command.BLOCK_STATUS, 0, 4, LEN) == Error.EINVAL,
    "X69 more ids than contexts": verdict(Command.BLOCK_STATUS, 0, 8 + 12, LEN) == Error.EINVAL,
    "X69 2^63 bytes of ids": verdict(Command.BLOCK_STATUS, 0, 2**63, LEN) == Error.EINVAL,
}


@pytest.mark.parametrize("case", CASES)
def test_judge(case):
    assert CASES[case]


@given(u64, st.lists(u32, min_size=1, max_size=2), u64, st.integers(0, 2**63 - 1))
def test_X10_X65_no_status_payload_passes_that_is_outside_or_unknown(length, ids, offset, size):
    if status(length, *ids, offset=offset, size=size) == 0:
        assert 0 < offset + length <= size
        assert set(ids) <= {1, 7}


CHUNKS = [
    # (flags, type, length, command, requested), may it be
    ((1, Chunk.NONE, 0, Command.WRITE, 512), True),
    ((1, Chunk.OFFSET_DATA, 8 + 512, Command.READ, 512), True),
    ((1, Chunk.OFFSET_DATA, 2**64 - 1, Command.READ, 512), False),
    ((1, Chunk.OFFSET_HOLE, 12, Command.READ, 512), True),
    ((1, Chunk.OFFSET_HOLE, 2**32 + 12, Command.READ, 512), False),
    ((1, Chunk.BLOCK_STATUS_EXT, 8 + 16, Command.BLOCK_STATUS, 512), True),
    ((1, Chunk.BLOCK_STATUS_EXT, 8, Command.BLOCK_STATUS, 512), False),
    ((1, Chunk.BLOCK_STATUS_EXT, 8 + 17, Command.BLOCK_STATUS, 512), False),
    ((1, Chunk.BLOCK_STATUS_EXT, 8 + 2**60, Command.BLOCK_STATUS, 512), False),
    ((1, Chunk.BLOCK_STATUS_EXT, 8 + 16, Command.READ, 512), False),
    ((1, Chunk.BLOCK_STATUS, 4 + 8, Command.BLOCK_STATUS, 512), False),  # X61
    ((1, Chunk.ERROR, 2**32 + 6, Command.READ, 512), False),
    ((1, 0x8765, 6, Command.READ, 512), True),
    ((1, 0x8765, 2**32 + 6, Command.READ, 512), False),
]


@pytest.mark.parametrize(("header", "may"), CHUNKS)
def test_C1_X61_an_extended_chunk_answers_only_what_it_can(header, may):
    assert _wire.judge_chunk_header(*header, begin=4096, offset=4096) is may


def test_X60_a_chunk_for_another_offset_is_none():
    assert not _wire.judge_chunk_header(1, Chunk.NONE, 0, Command.WRITE, 512, begin=0, offset=4096)


def flags_told(session, number=GO) -> int:
    told = [each for each in session.say(info(number)) if each.kind == INFO_REPLY and each.data[:2] == b"\0\0"]
    return struct.unpack(">HQH", told[0].data)[2]


def test_H48_H50_extended_headers_are_agreed_without_structured_replies_and_go_follows():
    session = Session()
    assert session.kinds(option(EXTENDED), info(GO)) == [ACK, INFO_REPLY, INFO_REPLY, ACK]
    assert session.machine.agreed["extended"] and session.machine.agreed["structured"]
    assert session.machine.told[1] & 0x80  # H44: DF with them


def test_H50_data_with_the_option_is_invalid():
    session = Session()
    assert session.kinds(option(EXTENDED, b"x"), info(GO))[0] == INVALID
    assert not session.machine.agreed["extended"]


def test_extended_headers_may_follow_structured_replies():
    session = Session()
    assert session.kinds(option(STRUCTURED), option(EXTENDED)) == [ACK, ACK]
    assert session.machine.agreed["extended"]


def test_H51_structured_replies_after_extended_headers_are_refused_by_name():
    session = Session()
    assert session.kinds(option(EXTENDED), option(STRUCTURED), info(GO))[:2] == [ACK, EXTENDED_REQD]
    assert session.machine.agreed["extended"]


def test_H52_export_name_after_extended_headers_is_the_end():
    session = Session()
    session.say(option(EXTENDED))
    assert session.raw(option(EXPORT_NAME, b"web01")) == b""
    assert session.closed


def test_a_server_may_keep_to_compact_headers():
    assert Session(compact=True).kinds(option(EXTENDED), option(STRUCTURED)) == [UNSUP, ACK]


def test_H29_contexts_may_follow_extended_headers_alone():
    session = Session()
    assert session.kinds(option(EXTENDED), contexts(SET_CONTEXT, BASE)) == [ACK, META_CONTEXT, ACK]


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize(
    ("before", "offered"),
    [
        ([option(EXTENDED), contexts(SET_CONTEXT, BASE)], True),
        ([option(EXTENDED)], False),
        ([option(EXTENDED), contexts(SET_CONTEXT)], False),
        ([option(EXTENDED), contexts(SET_CONTEXT, BASE, name=b"nope")], False),
        ([option(STRUCTURED), contexts(SET_CONTEXT, BASE)], False),
    ],
)
def test_H49_H50_block_status_with_payload_is_offered_with_extended_headers_and_a_context(number, before, offered):
    session = Session(WITH_PAYLOAD)
    session.say(*before)
    assert bool(flags_told(session, number) & PAYLOAD) is offered


def test_H43_block_status_with_payload_is_offered_by_nobody_who_does_not_serve_it():
    session = Session()
    session.say(option(EXTENDED), contexts(SET_CONTEXT, BASE))
    assert not flags_told(session) & PAYLOAD
