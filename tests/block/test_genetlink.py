"""The framing of generic netlink, and the kernel's own answers where it has the family that every kernel has."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omavol.block import genetlink
from omavol.block.errors import NotAttached, Unavailable
from omavol.block.genetlink import Family, attribute, attributes_of, nested, text, u32, u64
from omavol.block.kernelnbd import KernelNbd, index_of


@given(st.lists(st.tuples(st.integers(0, genetlink.TYPE_MASK), st.binary(max_size=60)), max_size=8))
def test_attributes_come_back_as_they_were_written(pairs):
    assert attributes_of(b"".join(attribute(kind, data) for kind, data in pairs)) == pairs


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data):
    assert sum(4 + len(value) for _, value in attributes_of(data)) <= len(data)


def test_a_nested_attribute_says_so_and_is_read_without_its_mark():
    data = nested(7, [u32(1, 9), u64(2, 1 << 40)])
    assert struct.unpack_from("=HH", data) == (4 + 8 + 12, 7 | genetlink.NESTED)
    ((kind, inner),) = attributes_of(data)
    assert (kind, attributes_of(inner)) == (7, [(1, struct.pack("=I", 9)), (2, struct.pack("=Q", 1 << 40))])
    assert attributes_of(text(3, "é")) == [(3, "é".encode() + b"\0")]


def test_the_kernel_tells_of_a_family_that_it_has():
    with Family("nlctrl") as control:
        (told,) = control.ask(genetlink.GET_FAMILY, [text(genetlink.FAMILY_NAME, "nlctrl")])
        assert dict(told)[genetlink.FAMILY_ID] == struct.pack("=H", genetlink.CONTROL)
        with pytest.raises(OSError) as refused:
            control.ask(genetlink.GET_FAMILY, [text(genetlink.FAMILY_NAME, "no-such")])
        assert refused.value.errno == errno.ENOENT
        control.join("notify")
        assert control.heard() == []


def test_a_kernel_without_the_client_says_how_to_get_it():
    try:
        with KernelNbd():
            pass
    except Unavailable as error:
        assert str(error) == "this kernel's NBD client is not loaded" and "modprobe nbd" in error.advice


@pytest.mark.parametrize(("device", "index"), [("/dev/nbd0", 0), ("/dev/nbd15", 15), ("nbd7", 7)])
def test_a_device_is_known_by_its_name(device, index):
    assert index_of(device) == index


@pytest.mark.parametrize("device", ["/dev/sda", "/dev/nbd", "/dev/nbd0p1", "/dev/nbdx", ""])
def test_what_is_none_of_the_kernels_devices_is_refused(device):
    with pytest.raises(NotAttached):
        index_of(device)
