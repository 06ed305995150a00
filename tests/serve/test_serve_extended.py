"""Extended headers at the server: rules X60 to X69, said and heard byte by byte, then by the newest peers."""

import json
import os
import struct
import subprocess

import pytest

from omavol.nbd.wire import Chunk, Command, CommandFlag, Error, TransmissionFlag
from peers import NEWEST
from raw_client import DONE

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
SIZE = 4 * MIB
HOLE = 3
BASE = "base:allocation"


@pytest.fixture
def client(served):
    return served.client(extended=True, contexts=True)


@pytest.fixture
def sparse(place):
    """A MiB of data at 0 and at 6 GiB of 8."""
    path = place / "sparse"
    with path.open("wb") as file:
        file.truncate(8 * GIB)
        for at in (0, 6 * GIB):
            file.seek(at)
            file.write(os.urandom(MIB))
    return path


def extents(client, offset, length, *ids, flags=0):
    """{id: [(length, state)]} of a reply, whose form is checked."""
    payload = struct.pack(f">Q{len(ids)}I", length, *ids) if ids else b""
    flags |= CommandFlag.PAYLOAD_LEN if ids else 0
    client.send(Command.BLOCK_STATUS, offset, len(payload) or length, payload, flags=flags)
    told = {}
    for chunk in client.reply():
        assert (chunk.type, chunk.offset) == (Chunk.BLOCK_STATUS_EXT, offset), chunk
        context, count = struct.unpack(">II", chunk.payload[:8])
        told[context] = list(struct.iter_unpack(">QQ", chunk.payload[8:]))
        assert len(told[context]) == count
    return told


def test_X60_every_reply_is_extended_and_repeats_the_offset_of_its_request(client, image):
    requests = [
        (Command.READ, 512, 512, Chunk.OFFSET_DATA),
        (Command.READ, 512, MIB, Chunk.OFFSET_DATA),
        (Command.READ, SIZE, 512, Chunk.ERROR),
        (Command.TRIM, 512, 512, Chunk.NONE),
        (Command.CACHE, 512, 512, Chunk.NONE),
        (Command.WRITE_ZEROES, 512, 512, Chunk.NONE),
        (Command.BLOCK_STATUS, 512, 512, Chunk.BLOCK_STATUS_EXT),
        (Command.FLUSH, 0, 0, Chunk.NONE),
        (99, 512, 0, Chunk.ERROR),
    ]
    for number, (command, offset, length, kind) in enumerate(requests):
        client.send(command, offset, length, cookie=number)
        chunks = client.reply()
        assert chunks[0].type == kind
        assert {(chunk.cookie, chunk.offset) for chunk in chunks} == {(number, offset)}


@pytest.mark.parametrize("length", [512, 300 * KIB, 3 * MIB])
def test_X60_the_answer_to_a_write_of_any_length_repeats_where_it_began(client, image, length):
    for _ in range(2):  # from the second on a large payload goes by reference
        data = os.urandom(length)
        client.send(Command.WRITE, MIB, length, data, cookie=9)
        (reply,) = client.reply()
        assert (reply.type, reply.cookie, reply.offset) == (Chunk.NONE, 9, MIB)
        assert image.read_bytes()[MIB : MIB + length] == data
    client.send(Command.WRITE, SIZE - 512, length * 2, bytes(length * 2), cookie=10)
    (reply,) = client.reply()
    assert (reply.error, reply.cookie, reply.offset) == (Error.ENOSPC, 10, SIZE - 512)


def test_X60_X28_X29_so_does_the_error_behind_a_read_that_was_cut_short(client, image):
    os.truncate(image, MIB)
    client.send(Command.READ, MIB - 100 * KIB, 200 * KIB)
    data, error, end = client.reply()
    assert (data.type, data.flags, len(data.payload)) == (Chunk.OFFSET_DATA, 0, 200 * KIB + 8)
    assert (error.type, error.error) == (Chunk.ERROR_OFFSET, Error.EIO)
    assert MIB - 100 * KIB <= struct.unpack(">Q", error.payload[-8:])[0] < MIB + 100 * KIB
    assert (end.type, end.flags) == (Chunk.NONE, DONE)
    assert {chunk.offset for chunk in (data, error, end)} == {MIB - 100 * KIB}


def test_lengths_of_more_than_32_bits_have_their_effect(serve, sparse):
    client = serve(default=sparse).client(extended=True, contexts=True)
    base = client.ids[BASE]
    assert extents(client, 0, 8 * GIB) == {base: [(MIB, 0), (6 * GIB - MIB, HOLE), (MIB, 0), (2 * GIB - MIB, HOLE)]}
    assert client.ask(Command.CACHE, 0, 8 * GIB) == 0
    assert client.ask(Command.TRIM, 4096, 7 * GIB) == 0
    assert extents(client, 0, 8 * GIB) == {base: [(4096, 0), (8 * GIB - 4096, HOLE)]}
    assert client.ask(Command.WRITE_ZEROES, 0, 8 * GIB) == 0
    assert extents(client, 0, 8 * GIB, flags=CommandFlag.REQ_ONE) == {base: [(8 * GIB, HOLE)]}


def test_an_exbibyte_is_one_extent(serve):
    client = serve(default=f"null:{1 << 60}").client(extended=True, contexts=True)
    assert extents(client, 0, 1 << 60) == {client.ids[BASE]: [(1 << 60, HOLE)]}
    assert client.ask(Command.WRITE_ZEROES, 0, 1 << 60) == 0
    assert client.ask(Command.READ, 0, 1 << 60) == Error.EINVAL
    assert client.ask(Command.FLUSH) == 0


def test_X64_a_payload_names_the_contexts_that_answer(client):
    base = client.ids[BASE]
    assert extents(client, 0, MIB, base) == {base: [(MIB, 0)]}


BAD_PAYLOADS = {
    "X65 an unknown id": struct.pack(">QI", MIB, 77),
    "X65 an id twice": struct.pack(">QII", MIB, 1, 1),
    "X69 nothing": b"",
    "X69 no id": struct.pack(">Q", MIB),
    "X69 a part of an id": struct.pack(">QIH", MIB, 1, 0),
    "X69 more ids than there can be": struct.pack(">Q1000I", MIB, *range(1000)),
    "past the end": struct.pack(">QI", SIZE + 1, 1),
    "no effect": struct.pack(">QI", 0, 1),
}


@pytest.mark.parametrize("bad", BAD_PAYLOADS)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_X65_X69_a_payload_that_is_not_good_is_consumed_and_invalid(client, bad, piece):
    payload = BAD_PAYLOADS[bad]
    said = client.pack(Command.BLOCK_STATUS, 0, len(payload), flags=CommandFlag.PAYLOAD_LEN) + payload
    for at in range(0, min(len(said), 60), piece):
        client.say(said[at : at + piece] if at + piece < 60 else said[at:])
    (reply,) = client.reply()
    assert (reply.error, reply.offset) == (Error.EINVAL, 0)
    assert client.ask(Command.FLUSH) == 0


def test_X65_so_is_one_that_was_not_offered(served):
    client = served.client(extended=True)
    assert not client.flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD
    payload = struct.pack(">QI", MIB, 1)
    assert client.ask(Command.BLOCK_STATUS, 0, 12, payload, flags=CommandFlag.PAYLOAD_LEN) == Error.EINVAL
    assert client.ask(Command.FLUSH) == 0


@pytest.mark.parametrize("command", [Command.READ, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES, 99])
def test_X66_a_payload_of_another_command_is_consumed_and_invalid(client, image, command):
    before = image.read_bytes()
    client.send(command, 512, 700 * KIB, bytes(700 * KIB), flags=CommandFlag.PAYLOAD_LEN)
    (reply,) = client.reply()
    assert (reply.error, reply.offset) == (Error.EINVAL, 512)
    assert client.read(0, SIZE) == before


@pytest.mark.parametrize("command", [Command.WRITE, Command.BLOCK_STATUS, Command.READ])
def test_X67_X15_a_payload_that_can_only_be_an_attack_ends_the_connection(client, command):
    client.send(command, 0, 32 * MIB + 1, flags=CommandFlag.PAYLOAD_LEN)
    assert client.hears_the_end()


def test_X68_a_write_that_does_not_announce_its_payload_has_it_all_the_same(client, image):
    """QEMU 10.0 says no PAYLOAD_LEN with extended headers."""
    said = client.pack(Command.WRITE, 0, 4096)
    client.say(said[:4] + b"\0\0" + said[6:], b"q" * 4096)
    (reply,) = client.reply()
    assert (reply.type, reply.error) == (Chunk.NONE, 0)
    assert image.read_bytes()[:4096] == b"q" * 4096


def test_X70_compact_headers_have_no_such_flag(served):
    client = served.client(contexts=True)
    assert not client.flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD
    for command in (Command.READ, Command.TRIM, Command.BLOCK_STATUS):
        assert client.ask(command, 0, 512, flags=CommandFlag.PAYLOAD_LEN) == Error.EINVAL


def test_X5_a_compact_request_where_headers_are_extended_ends_the_connection(client):
    client.say(struct.pack(">IHHQQI", 0x25609513, 0, Command.READ, 1, 0, 512), bytes(4))
    assert client.hears_the_end()


LIBNBD = """
import sys, nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.get_extended_headers_negotiated() and h.get_protocol() == "newstyle-fixed"
assert h.can_block_status_payload() and h.get_size() == 8 << 30
told = []
h.block_status_64(8 << 30, 0, lambda context, offset, extents, error: told.append((context, offset, extents)))
h.block_status_filter(8 << 30, 0, ["base:allocation"], lambda *seen: told.append(seen[:3]))
assert told[0] == told[1], told
h.trim(7 << 30, 4096)
h.zero(8 << 30, 0)
h.pwrite(b"x" * 5000, 6 << 30)
assert h.pread(5000, 6 << 30) == b"x" * 5000
h.flush()
h.shutdown()
print(told[0])
"""


def test_the_newest_libnbd_speaks_extended_headers_with_us(serve, sparse):
    served = serve(default=sparse)
    command = NEWEST.python("-c", LIBNBD, served.uri)
    done = subprocess.run(command, env=NEWEST.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    runs = [(MIB, 0), (6 * GIB - MIB, 3), (MIB, 0), (2 * GIB - MIB, 3)]
    assert done.stdout.strip() == str((BASE, 0, runs))


def test_the_newest_qemu_speaks_extended_headers_with_us(serve, sparse):
    served = serve(default=sparse)
    run = {"env": NEWEST.environment(), "check": True, "capture_output": True, "text": True, "timeout": 60}
    mapped = subprocess.run(NEWEST.command("qemu-img", "map", "-f", "raw", "--output=json", served.uri), **run)
    assert [(each["length"], each["data"]) for each in json.loads(mapped.stdout)] == [
        (MIB, True),
        (6 * GIB - MIB, False),
        (MIB, True),
        (2 * GIB - MIB, False),
    ]
    words = [
        "-c",
        "write -z 0 1G",
        "-c",
        "write -P 7 6G 3M",
        "-c",
        "read -P 7 6G 3M",
        "-c",
        "discard 6G 1G",
        "-c",
        "flush",
    ]
    subprocess.run(NEWEST.command("qemu-io", "-f", "raw", *words, served.uri), **run)
    with sparse.open("rb") as file:
        file.seek(6 * GIB)
        assert not any(file.read(3 * MIB))
