"""One reader of sizes serves null:SIZE, the filters and omavol bench, each within its own bounds."""

import pytest

from omavol.schema.sizes import parse_size

SIZES = {
    "0": 0,
    "1": 1,
    "512": 512,
    "0512": 512,
    "4k": 4 << 10,
    "4K": 4 << 10,
    "1M": 1 << 20,
    "3g": 3 << 30,
    "2T": 2 << 40,
    "1P": 1 << 50,
    "8191P": 8191 << 50,
    "9223372036854775807": 2**63 - 1,
    "9223372036854775808": None,
    "8192P": None,
    "00000000000000000001": None,  # 20 digits
    "": None,
    "K": None,
    "-1": None,
    "+1": None,
    "1.5M": None,
    "1E": None,
    "1KB": None,
    "1 K": None,
    " 1": None,
    "1\n": None,
    "1_000": None,
    "0x10": None,
    "٤": None,  # a digit, to Python
    "4\u212a": None,  # the Kelvin sign, which lower() makes a k
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_is_read_as_it_is_written(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "size"), [("0", None), ("1", 1), ("4k", 4096), ("5k", None)])
def test_a_caller_gives_the_bounds(text, size):
    assert parse_size(text, least=1, most=4096) == size
