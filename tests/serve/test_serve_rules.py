"""Rules X and D of the protocol's checklist, said and heard byte by byte."""

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest

import omavol
from omavol.nbd.wire import Chunk, Command, CommandFlag, Error, TransmissionFlag
from omavol.serve.listeners import TcpAddress, listen_tcp
from raw_client import DONE, Raw

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(params=["simple", "structured", "extended"])
def client(served, request):
    return served.client(structured=request.param != "simple", extended=request.param == "extended")


@pytest.fixture
def reader(serve, image):
    return serve(default=image, read_only=True).client()


def test_x1_cookies_come_back_as_they_were(client):
    for cookie in (0, 1, 2**63, 2**64 - 1):
        client.send(Command.FLUSH, cookie=cookie)
        assert client.chunk().cookie == cookie


def test_x3_x4_errors_are_chunks_where_structured_replies_were_agreed(served):
    client = served.client()
    for command in (Command.READ, Command.TRIM, 99):
        client.send(command, SIZE, 512)
        (reply,) = client.reply()
        assert reply.type == Chunk.ERROR and reply.flags == DONE


def test_x5_a_request_without_its_magic_ends_the_connection(client):
    client.say(b"\0" * 28)
    assert client.hears_the_end()


@pytest.mark.parametrize("command", [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES])
def test_x7_x8_a_read_only_export_refuses_changes_with_eperm(reader, command):
    payload = b"a" * 512 if command == Command.WRITE else b""
    assert reader.flags & TransmissionFlag.READ_ONLY
    assert reader.ask(command, 0, 512, payload) == Error.EPERM
    assert len(reader.read(0, 512)) == 512


PAST_THE_END = [
    (Command.READ, SIZE, 1, Error.EINVAL),
    (Command.READ, SIZE - 1, 2, Error.EINVAL),
    (Command.READ, 2**64 - 1, 2, Error.EINVAL),
    (Command.TRIM, SIZE, 512, Error.EINVAL),
    (Command.CACHE, SIZE, 512, Error.EINVAL),
    (Command.WRITE_ZEROES, SIZE - 511, 512, Error.ENOSPC),
    (Command.WRITE_ZEROES, 2**64 - 512, 1024, Error.ENOSPC),
]


@pytest.mark.parametrize("command, offset, length, error", PAST_THE_END)
def test_x9_x10_nothing_passes_the_end_and_nothing_overflows(client, command, offset, length, error):
    assert client.ask(command, offset, length) == error


def test_x9_x14_a_write_past_the_end_is_enospc_and_its_payload_is_consumed(client, image):
    before = image.read_bytes()
    assert client.ask(Command.WRITE, SIZE - 10, 700 * KIB, b"z" * 700 * KIB) == Error.ENOSPC
    assert client.ask(Command.FLUSH) == 0
    assert image.read_bytes() == before


WRONG = [
    (99, 0, 0, 0),
    (Command.READ, 0, 512, CommandFlag.NO_HOLE),
    (Command.READ, 0, 512, 1 << 15),
    (Command.FLUSH, 0, 0, CommandFlag.DF),
    (Command.FLUSH, 1, 0, 0),
    (Command.TRIM, 0, 512, CommandFlag.REQ_ONE),
    (Command.CACHE, 0, 512, CommandFlag.DF),
    (Command.WRITE_ZEROES, 0, 512, CommandFlag.DF),
    (Command.RESIZE, 0, 512, 0),
    (Command.BLOCK_STATUS, 0, 512, 0),
]


@pytest.mark.parametrize("command, offset, length, flags", WRONG)
def test_x11_x13_x50_what_was_not_offered_is_einval(client, command, offset, length, flags):
    assert client.ask(command, offset, length, flags=flags) == Error.EINVAL
    assert client.ask(Command.FLUSH) == 0


@pytest.mark.parametrize("command", [Command.READ, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES, Command.FLUSH])
def test_x12_d7_fua_is_taken_on_every_command(client, command):
    length = 0 if command == Command.FLUSH else 512
    assert client.ask(command, 0, length, flags=CommandFlag.FUA) == 0


def test_x15_a_refused_payload_of_32_mib_is_read_to_its_end(reader):
    assert reader.ask(Command.WRITE, 0, 32 * MIB, bytes(32 * MIB)) == Error.EPERM
    assert reader.ask(Command.FLUSH) == 0


def test_x15_a_longer_one_ends_the_connection(reader):
    reader.send(Command.WRITE, 0, 32 * MIB + 1)
    assert reader.hears_the_end()


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.TRIM, Command.WRITE_ZEROES])
def test_x19_length_zero_does_not_disconnect(client, command):
    client.ask(command, 0, 0)
    assert client.ask(Command.FLUSH) == 0


@pytest.mark.parametrize("length", [1, 4096, 64 * KIB, 64 * KIB + 1, 1 * MIB, SIZE])
def test_x24_x27_reads_of_every_size_are_whole(client, image, length):
    offset = (SIZE - length) // 2
    assert client.read(offset, length) == image.read_bytes()[offset : offset + length]


@pytest.mark.parametrize("length", [4096, 64 * KIB, 64 * KIB + 1, 1 * MIB])
def test_d2_x31_content_that_can_still_fail_never_says_done(served, length):
    client = served.client()
    client.send(Command.READ, 0, length)
    chunks = client.reply()
    assert chunks[-1].flags == DONE and all(chunk.flags == 0 for chunk in chunks[:-1])
    if length > 64 * KIB:
        assert chunks[-1].type == Chunk.NONE


def test_x28_x29_a_file_cut_short_fills_the_chunk_and_an_error_follows(served, image):
    client = served.client()
    os.truncate(image, MIB)
    client.send(Command.READ, MIB - 100 * KIB, 200 * KIB)
    data, error, end = client.reply()
    assert data.type == Chunk.OFFSET_DATA and data.flags == 0 and len(data.payload) == 200 * KIB + 8
    assert error.type == Chunk.ERROR_OFFSET and error.error == Error.EIO
    where = struct.unpack(">Q", error.payload[-8:])[0]
    assert MIB - 100 * KIB <= where < MIB + 100 * KIB
    assert end.type == Chunk.NONE and end.flags == DONE
    assert client.ask(Command.READ, MIB, 4096) == Error.EIO
    assert len(client.read(0, 4096)) == 4096


def test_x25_a_simple_reply_that_fails_after_its_header_ends_the_connection(served, image):
    client = served.client(structured=False)
    os.truncate(image, MIB)
    client.send(Command.READ, MIB - 100 * KIB, 200 * KIB)
    client.hear(16)
    with pytest.raises(ConnectionResetError):
        client.hear(200 * KIB)


@pytest.mark.parametrize("length", [512, 64 * KIB, 1 * MIB, SIZE])
def test_x34_x35_df_gets_one_content_chunk(served, length):
    client = served.client()
    client.send(Command.READ, 0, length, flags=CommandFlag.DF)
    assert [chunk.type for chunk in client.reply()].count(Chunk.OFFSET_DATA) == 1


def test_x32_x33_x36_x37_reads_above_the_maximum_come_in_chunks_and_never_with_df(serve, place):
    large = place / "large"
    with large.open("wb") as file:
        file.truncate(80 * MIB)
    client = serve(default=large).client()
    client.send(Command.READ, 0, 70 * MIB)
    sizes = [len(chunk.payload) - 8 for chunk in client.reply() if chunk.type == Chunk.OFFSET_DATA]
    assert sum(sizes) == 70 * MIB and max(sizes) <= 32 * MIB
    client.send(Command.READ, 0, 70 * MIB, flags=CommandFlag.DF)
    (reply,) = client.reply()
    assert (reply.type, reply.error, reply.flags) == (Chunk.ERROR, Error.EOVERFLOW, DONE)


def test_x52_x53_what_stands_before_disc_is_answered_and_nothing_behind_it_obeyed(client, image):
    before = image.read_bytes()
    client.say(
        client.pack(Command.READ, 0, 4096, cookie=7),
        client.pack(Command.DISC),
        client.pack(Command.WRITE, 0, 4),
        b"evil",
    )
    assert client.chunk(4096).cookie == 7
    assert client.hears_the_end()
    assert image.read_bytes() == before


def test_requests_may_come_in_pieces_of_any_size(client, image):
    stream = client.pack(Command.WRITE, 5, 7, cookie=1) + b"pieces!" + client.pack(Command.READ, 5, 7, cookie=2)
    for byte in stream:
        client.say(bytes([byte]))
    assert client.chunk().cookie == 1
    assert client.chunk(7).payload[-7:] == b"pieces!"
    assert image.read_bytes()[5:12] == b"pieces!"


def test_small_replies_are_gathered_and_stay_in_order(client, image):
    data = image.read_bytes()
    client.say(*(client.pack(Command.READ, 4096 * i, 4096, cookie=i) for i in range(512)))
    for i in range(512):
        chunk = client.chunk(4096)
        assert chunk.cookie == i and chunk.payload[-4096:] == data[4096 * i : 4096 * (i + 1)]


def test_x6_no_mistake_that_can_be_answered_ends_the_connection(client):
    """One after the other on one connection, each refused, and the next one understood."""
    for command, offset, length, flags in WRONG:
        assert client.ask(command, offset, length, flags=flags) == Error.EINVAL
    for command, offset, length, error in PAST_THE_END:
        assert client.ask(command, offset, length) == error
    for length in (2, 512, MIB, 5 * MIB, 32 * MIB):
        assert client.ask(Command.WRITE, SIZE - 1, length, bytes(length)) == Error.ENOSPC
        assert client.ask(Command.WRITE, 0, length, bytes(length), flags=CommandFlag.DF) == Error.EINVAL
    assert client.ask(Command.FLUSH) == 0


def test_x51_x63_unused_status_bits_are_zero(serve, place):
    path = place / "holes"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
        file.write(b"x" * MIB)
    for extended in (False, True):
        client = serve(default=path).client(extended=extended, contexts=True)
        client.send(Command.BLOCK_STATUS, 0, 4 * MIB)
        (reply,) = client.reply()
        numbers = struct.unpack(">8xQQQQ" if extended else ">4xIIII", reply.payload)
        assert numbers == (MIB, 0, 3 * MIB, 3)


def test_x57_a_limit_of_the_file_size_is_enospc(command, place):
    path = place / "limited"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
    command("--unix", place / "s", path, wrapper=("prlimit", f"--fsize={MIB}"))
    for extended in (False, True):
        with Raw(place / "s", extended=extended) as client:
            assert client.ask(Command.WRITE, 2 * MIB, 4096, bytes(4096)) == Error.ENOSPC
            assert client.ask(Command.WRITE, 0, 4096, bytes(4096)) == 0


def test_x58_x59_tcp_is_without_delay_kept_alive_and_given_up_when_it_stalls(served):
    """The server's end of the connection is a descriptor of this process."""
    (listener,) = listen_tcp(TcpAddress("127.0.0.1", 0))
    address = listener.socket.getsockname()
    served.table.listen(listener)
    with socket.create_connection(address) as client:
        assert client.recv(18) == b"NBDMAGICIHAVEOPT\0\3"
        with connected_to(client.getsockname()) as end:
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000


def connected_to(peer: tuple[str, int]) -> socket.socket:
    """A copy of the socket of this process that is connected to `peer`."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            end = socket.socket(fileno=os.dup(int(descriptor.name)))
            with suppress(OSError):
                if end.getpeername() == peer:
                    return end
            end.close()
    raise AssertionError("nobody here is connected to it")


def test_d4_nothing_is_mapped_so_a_file_that_is_cut_while_it_is_read_kills_nobody(served, image):
    clients = [served.client(structured=structured) for structured in (True, False)]
    for client in clients:
        client.say(*(client.pack(Command.READ, 0, SIZE, cookie=n) for n in range(4)))
    os.truncate(image, 0)
    for client in clients:
        client.socket.close()
    assert served.client().ask(Command.READ, 0, 4096) == Error.EIO
    sources = Path(omavol.__file__).parent
    serving = [sources / "_store.pyx", sources / "_channel.pyx", *sources.glob("fastio/server*.pxi")]
    assert not [path.name for path in serving if "mmap" in path.read_text()]
