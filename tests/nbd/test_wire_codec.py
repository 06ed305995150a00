"""The codec: fixed records of the transmission phase, against bytes written by hand."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omavol import _wire
from omavol.nbd import wire

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


def test_a_request_is_28_bytes_in_network_order():
    request = wire.Request(flags=1, type=6, cookie=2, offset=3, length=4)
    said = bytes.fromhex("25609513 0001 0006 0000000000000002 0000000000000003 00000004")
    assert request.encode() == said
    assert wire.parse_request(said) == request


@given(u16, u16, u64, u64, u32)
def test_a_request_survives_the_wire(flags, type, cookie, offset, length):
    request = wire.Request(flags, type, cookie, offset, length)
    assert wire.parse_request(request.encode()) == request


def test_a_length_of_33_bits_does_not_fit_a_compact_request():
    with pytest.raises(OverflowError):
        wire.Request(0, 4, 1, 0, 2**32).encode()


@given(st.integers(0, 27))
def test_a_part_of_a_request_needs_more(have):
    assert wire.parse_request(wire.Request(0, 0, 1, 0, 512).encode()[:have]) is None


@pytest.mark.parametrize("data", [b"\x00" * 28, b"\x25\x60\x95\x14", bytes.fromhex("21e41c71") + bytes(28)])
def test_x5_a_wrong_request_magic_is_seen_at_the_fourth_byte(data):
    with pytest.raises(ValueError, match="magic"):
        wire.parse_request(data)


@given(u32, u64)
def test_a_simple_reply_survives_the_wire(error, cookie):
    said = _wire.make_simple_reply(error, cookie)
    assert said == struct.pack(">IIQ", 0x67446698, error, cookie)
    for structured in (False, True):
        reply = wire.parse_reply(said, structured)
        assert reply == (False, 1, 0, error, 0, cookie, False, 0)
        assert reply.size == len(said)


@given(u16, u16, u64, u32)
def test_a_chunk_survives_the_wire_where_structured_replies_are_agreed(flags, type, cookie, length):
    said = _wire.make_chunk(flags, type, cookie, length)
    assert wire.parse_reply(said, True) == (True, flags, type, 0, length, cookie, False, 0)
    assert all(wire.parse_reply(said[:have], True) is None for have in range(20))


def test_x2_a_chunk_is_no_reply_where_nothing_was_agreed():
    with pytest.raises(ValueError, match="magic"):
        wire.parse_reply(_wire.make_chunk(1, 0, 1, 0), False)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (_wire.make_data_chunk(1, 2, 3, 4), struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 2, 12, 3)),
        (_wire.make_hole_chunk(0, 2, 3, 4), struct.pack(">IHHQIQI", 0x668E33EF, 0, 2, 2, 12, 3, 4)),
        (_wire.make_status_chunk(1, 2, 7, 3), struct.pack(">IHHQII", 0x668E33EF, 1, 5, 2, 4 + 24, 7)),
        (_wire.make_error_chunk(1, 2, 5, b"no"), struct.pack(">IHHQIIH2s", 0x668E33EF, 1, 0x8001, 2, 8, 5, 2, b"no")),
        (
            _wire.make_error_chunk(1, 2, 5, b"no", 9),
            struct.pack(">IHHQIIH2sQ", 0x668E33EF, 1, 0x8002, 2, 16, 5, 2, b"no", 9),
        ),
        (_wire.make_error_chunk(1, 2, 5, b""), struct.pack(">IHHQIIH", 0x668E33EF, 1, 0x8001, 2, 6, 5, 0)),
    ],
)
def test_chunks_are_laid_out_as_the_document_says(made, said):
    assert made == said


def test_x30_the_message_of_an_error_is_cut_at_4096_bytes():
    said = _wire.make_error_chunk(1, 2, 5, b"x" * 60000)
    assert len(said) == 20 + 6 + 4096
    assert wire.parse_reply(said, True).length == 6 + 4096


@given(st.binary(max_size=64), st.booleans())
def test_garbage_is_a_value_or_a_clean_error(data, structured):
    for parse in (wire.parse_request, lambda data: wire.parse_reply(data, structured)):
        try:
            parsed = parse(data)
        except ValueError:
            continue
        assert parsed is None or parsed[-1] is not None


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=12), st.text(max_size=6).map(lambda text: text.encode(errors="surrogatepass"))))
def test_a_string_is_utf8_without_nul(data):
    try:
        good = "\0" not in data.decode()
    except UnicodeDecodeError:
        good = False
    assert _wire.is_string(data) == good


@pytest.mark.parametrize(
    ("data", "good"),
    [
        (b"", True),
        (b"x" * 4096, True),
        (b"x" * 4097, False),
        (b"a\0b", False),
        (b"\xc0\xaf", False),  # overlong
        (b"\xe0\x80\xaf", False),
        (b"\xf0\x80\x80\xaf", False),
        (b"\xed\xa0\x80", False),  # a surrogate
        (b"\xf4\x90\x80\x80", False),  # past the last code point
        (b"\xf4\x8f\xbf\xbf", True),
        (b"\xe2\x82", False),
        (b"\x80", False),
        (b"\xff", False),
    ],
)
def test_strings_at_the_edges(data, good):
    assert _wire.is_string(data) is good
