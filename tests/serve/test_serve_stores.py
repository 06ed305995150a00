"""What requests do to the file beneath: holes, provisioning, a full disk, extents, durability."""

import itertools
import os
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest

from omavol.nbd.wire import Chunk, Command, CommandFlag, Error
from raw_client import DONE, Raw

KIB = 1 << 10
MIB = 1 << 20
HOLE = 3  # HOLE | ZERO


def extents(client, offset, length, flags=0):
    """(length, state) of the one status chunk of the reply."""
    client.send(Command.BLOCK_STATUS, offset, length, flags=flags)
    (reply,) = client.reply()
    assert reply.type == Chunk.BLOCK_STATUS and reply.flags == DONE, reply
    numbers = struct.unpack(f">{len(reply.payload) // 4}I", reply.payload)
    return list(zip(numbers[1::2], numbers[2::2], strict=True))


@pytest.fixture
def sparse(place):
    """1 MiB of data at 0, 2 and 5 MiB of 8."""
    path = place / "sparse"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        for at in (0, 2, 5):
            file.seek(at * MIB)
            file.write(os.urandom(MIB))
    return path


def test_x44_to_x47_extents_are_those_of_the_file(serve, sparse):
    client = serve(default=sparse).client(contexts=True)
    told = extents(client, 0, 8 * MIB)
    assert told == [(MIB, 0), (MIB, HOLE), (MIB, 0), (2 * MIB, HOLE), (MIB, 0), (2 * MIB, HOLE)]
    assert extents(client, MIB // 2, MIB) == [(MIB // 2, 0), (MIB // 2, HOLE)]


def test_x46_req_one_gets_one_extent_inside_the_request(serve, sparse):
    client = serve(default=sparse).client(contexts=True)
    assert extents(client, 0, 8 * MIB, CommandFlag.REQ_ONE) == [(MIB, 0)]
    assert extents(client, 0, 4096, CommandFlag.REQ_ONE) == [(4096, 0)]


def test_x48_x49_many_extents_end_early_on_a_boundary(serve, place):
    path = place / "holes"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        for number in range(6000):
            file.seek(number * 8192)
            file.write(b"x" * 4096)
    client = serve(default=path).client(contexts=True)
    told = extents(client, 0, 64 * MIB)
    assert 1 <= len(told) < 2**20 and sum(length for length, _ in told) <= 64 * MIB
    assert all(one[1] != other[1] for one, other in itertools.pairwise(told))


def test_d3_extents_follow_every_change(serve, sparse):
    client = serve(default=sparse).client(contexts=True)
    assert extents(client, 0, 2 * MIB) == [(MIB, 0), (MIB, HOLE)]
    assert client.ask(Command.TRIM, 0, MIB // 2) == 0
    assert extents(client, 0, 2 * MIB) == [(MIB // 2, HOLE), (MIB // 2, 0), (MIB, HOLE)]
    assert client.ask(Command.WRITE, MIB, MIB, b"d" * MIB) == 0
    assert extents(client, 0, 2 * MIB) == [(MIB // 2, HOLE), (3 * MIB // 2, 0)]


@pytest.mark.parametrize("command", [Command.TRIM, Command.WRITE_ZEROES])
def test_x38_trim_and_write_zeroes_give_blocks_back_and_read_as_zero(served, image, command):
    client = served.client()
    before = image.stat().st_blocks
    assert client.ask(command, MIB, 2 * MIB) == 0
    assert image.stat().st_blocks <= before - 2 * MIB // 512
    assert client.read(MIB, 2 * MIB) == bytes(2 * MIB)
    assert image.stat().st_size == 4 * MIB


def test_x39_no_hole_provisions(serve, sparse):
    client = serve(default=sparse).client()
    before = sparse.stat().st_blocks
    assert client.ask(Command.WRITE_ZEROES, 0, 8 * MIB, flags=CommandFlag.NO_HOLE) == 0
    assert sparse.stat().st_blocks >= max(before, 8 * MIB // 512)
    assert client.read(0, 8 * MIB) == bytes(8 * MIB)


@pytest.mark.parametrize("length", [512, 64 * KIB, MIB, 4 * MIB])
def test_writes_of_every_size_land_where_they_should(served, image, length):
    client = served.client()
    before = image.read_bytes()
    offset = (4 * MIB - length) // 2
    data = os.urandom(length)
    assert client.ask(Command.WRITE, offset, length, data, flags=CommandFlag.FUA) == 0
    assert image.read_bytes() == before[:offset] + data + before[offset + length :]


def test_large_writes_in_a_row_in_any_pieces_land_where_they_should(served, image):
    """From the second on their payload goes from the socket to the file by reference; requests around it are kept."""
    client, luck = served.client(), random.Random(7)
    expected = bytearray(image.read_bytes())
    stream, asked = bytearray(), 0
    for _ in range(40):
        length = luck.choice((1, 4096, 131071, 131072, 300000, MIB))
        offset = luck.randrange(4 * MIB - length)
        data = luck.randbytes(length)
        expected[offset : offset + length] = data
        stream += client.pack(Command.WRITE, offset, length, cookie=asked) + data
        asked += 1
        if luck.random() < 0.3:
            stream += client.pack(Command.FLUSH, cookie=asked)
            asked += 1
    while stream:
        piece = luck.choice((1, 27, 29, 4096, 70000, 1 << 20))
        client.say(bytes(stream[:piece]))
        del stream[:piece]
    assert sorted(client.chunk().cookie for _ in range(asked)) == list(range(asked))
    assert image.read_bytes() == expected


def test_a_full_destination_is_enospc_and_the_server_goes_on(command, place):
    """A tmpfs of 1 MiB, in a mount namespace of the server's own."""
    inside = 'mount -t tmpfs -o size=1m none "$1" && truncate -s 8M "$1/disk" && shift && exec "$@"'
    full = place / "full"
    full.mkdir()
    become_root = () if os.geteuid() == 0 else ("--map-root-user",)
    wrapper = ("unshare", *become_root, "--mount", "sh", "-c", inside, "sh", str(full))
    server = command("--unix", place / "s", full / "disk", wrapper=wrapper)
    with Raw(place / "s") as client:
        assert client.ask(Command.WRITE, 0, 4 * MIB, b"f" * 4 * MIB) == Error.ENOSPC
        assert client.ask(Command.WRITE, 4 * MIB, 4 * MIB, b"g" * 4 * MIB) == Error.ENOSPC
        assert client.ask(Command.WRITE_ZEROES, 0, 8 * MIB, flags=CommandFlag.NO_HOLE) == Error.ENOSPC
        assert client.ask(Command.TRIM, 0, 8 * MIB) == 0
        for letter in (b"h", b"i"):
            assert client.ask(Command.WRITE, MIB, MIB // 4, letter * (MIB // 4)) == 0
            assert client.read(MIB, MIB // 4) == letter * (MIB // 4)
        assert client.ask(Command.FLUSH) == 0
    assert server.stop() == 0


def test_x20_x22_a_flush_covers_what_another_connection_wrote(served):
    writer, flusher = served.client(), served.client()
    assert writer.ask(Command.WRITE, 0, 4096, b"w" * 4096) == 0
    assert flusher.ask(Command.FLUSH) == 0
    writer.socket.close()
    flusher.socket.close()
    deadline = time.monotonic() + 5
    while served.export().connections and time.monotonic() < deadline:
        time.sleep(0.002)
    assert served.export().flushes == 1 and served.export().bytes_written == 4096


def test_a_hole_of_a_terabyte_is_read_status_and_all(serve, place):
    path = place / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    client = serve(default=path).client(contexts=True)
    assert client.size == 1 << 40
    assert extents(client, (1 << 40) - (1 << 31), 1 << 31) == [(1 << 31, HOLE)]
    assert client.read((1 << 40) - 512, 512) == bytes(512)


@pytest.fixture
def loop(image):
    """The image as a block device."""
    if os.geteuid() != 0:
        pytest.skip("only root can attach a loop device")
    attached = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"this kernel has no loop device to give: {attached.stderr.strip()}")
    yield Path(attached.stdout.strip())
    subprocess.run(["losetup", "--detach", attached.stdout.strip()], check=True)


def test_a_block_device_is_served_in_full_and_takes_ranges_off_its_sectors(serve, loop, image):
    served = serve(default=loop)
    client = served.client(contexts=True)
    before = image.read_bytes()
    assert client.size == 4 * MIB and client.read(0, 4 * MIB) == before
    assert client.ask(Command.WRITE, 1000, 3000, b"b" * 3000) == 0
    for letter in (b"l", b"m"):
        assert client.ask(Command.WRITE, MIB + 1, MIB // 2, letter * (MIB // 2)) == 0
        assert client.read(MIB + 1, MIB // 2) == letter * (MIB // 2)
    assert client.ask(Command.TRIM, MIB + 100, 100) == 0
    assert client.ask(Command.WRITE_ZEROES, 2 * MIB + 100, 1000) == 0
    assert client.ask(Command.WRITE_ZEROES, 3 * MIB, MIB // 2) == 0
    assert client.ask(Command.FLUSH) == 0
    assert extents(client, 0, 4096) == [(4096, 0)]
    after = client.read(0, 4 * MIB)
    assert after[:5000] == before[:1000] + b"b" * 3000 + before[4000:5000]
    assert (
        after[2 * MIB : 2 * MIB + 2000]
        == before[2 * MIB : 2 * MIB + 100] + bytes(1000) + (before[2 * MIB + 1100 : 2 * MIB + 2000])
    )
    assert after[3 * MIB : 3 * MIB + MIB // 2] == bytes(MIB // 2)
    served.table.remove("")


@pytest.mark.parametrize("structured", [True, False])
def test_a_null_disk_reads_as_zeroes_and_keeps_nothing(serve, structured):
    client = serve(default="null:3M").client(structured=structured)
    assert client.size == 3 * MIB
    assert client.ask(Command.WRITE, 5, 3 * MIB - 5, b"n" * (3 * MIB - 5)) == 0
    assert client.read(0, 3 * MIB) == bytes(3 * MIB)
    for command in (Command.TRIM, Command.WRITE_ZEROES, Command.CACHE):
        assert client.ask(command, 0, MIB) == 0
    assert client.ask(Command.FLUSH) == 0


def test_a_null_disk_is_one_hole(serve):
    client = serve(default="null:1T").client(contexts=True)
    assert extents(client, 1 << 39, 1 << 20) == [(1 << 20, HOLE)]
