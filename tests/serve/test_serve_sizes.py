"""The block sizes that clients are told, for disks of every size (H46, H47)."""

import struct

import pytest

from omavol.nbd.wire import Option
from raw_client import ACK, Raw

MIB = 1 << 20


@pytest.mark.parametrize("size", [1, 511, 512, 4095, 65536, MIB - 1, MIB, 4 * MIB + 1, 1 << 40])
def test_H47_sizes_are_multiples_of_the_minimum_and_the_maximum_is_a_mebibyte_or_more(serve, place, size):
    disk = place / "disk"
    with disk.open("wb") as file:
        file.truncate(size)
    client = serve(default=disk).client(enter=False)
    client.hear(18)
    client.say(struct.pack(">I", 3))
    answers = client.option(Option.INFO, struct.pack(">I", 0) + struct.pack(">HH", 1, 3))
    assert answers[-1][0] == ACK
    told = {struct.unpack(">H", data[:2])[0]: data[2:] for _, data in answers[:-1]}
    minimum, preferred, maximum = struct.unpack(">III", told[3])
    exported, _ = struct.unpack(">QH", told[0])
    assert exported % minimum == 0 and exported <= size
    assert minimum <= preferred <= maximum
    assert maximum >= min(MIB, exported)
    client.socket.close()


def test_H47_every_byte_of_an_odd_disk_can_be_read(serve, place):
    disk = place / "disk"
    disk.write_bytes(b"odd" * 1001)
    with Raw(serve(default=disk).path) as client:
        assert client.read(3000, 3) == b"odd" and client.read(3002, 1) == b"d"
