"""TCP to this machine itself, where large reads are copied to the socket, and clients that ask one by one."""

import os
import struct
import time

import pytest

from omavol.nbd.wire import Chunk, Command, Error
from omavol.serve.listeners import TcpAddress, listen_tcp
from raw_client import DONE, Raw

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture(params=["127.0.0.1", "::1"])
def near(request, served):
    """The image served over TCP: gives a client for each call."""
    listeners = listen_tcp(TcpAddress(request.param, 0))
    for listener in listeners:
        served.table.listen(listener)
    return lambda **options: served.stack.enter_context(Raw((listeners[0].uri.host, listeners[0].uri.port), **options))


@pytest.mark.parametrize("length", [64 * KIB + 1, 512 * KIB, 512 * KIB + 512, 4 * MIB])
@pytest.mark.parametrize("structured", [True, False])
def test_large_reads_bring_what_the_file_holds(near, image, length, structured):
    client, content = near(structured=structured), image.read_bytes()
    for offset in {0, 4 * MIB - length, (4 * MIB - length) // 1024 * 512}:
        assert client.read(offset, length) == content[offset : offset + length]


def test_many_large_reads_that_a_client_takes_late_are_all_right(near, image):
    """The socket fills up in the middle of pieces, which are read again from where they stopped."""
    client, content = near(), image.read_bytes()
    for number in range(24):
        client.send(Command.READ, 0, 4 * MIB, cookie=number)
    for number in range(24):
        data, end = client.reply()
        assert (data.cookie, end.type, end.flags) == (number, Chunk.NONE, DONE)
        assert data.payload[8:] == content


def test_x28_x29_a_file_cut_short_fills_the_chunk_here_too(near, image):
    client = near()
    os.truncate(image, MIB)
    client.send(Command.READ, MIB - 100 * KIB, 200 * KIB)
    data, error, _ = client.reply()
    assert data.type == Chunk.OFFSET_DATA and len(data.payload) == 200 * KIB + 8
    assert error.type == Chunk.ERROR_OFFSET and error.error == Error.EIO
    assert MIB - 100 * KIB <= struct.unpack(">Q", error.payload[-8:])[0] < MIB + 100 * KIB
    assert len(client.read(0, 4096)) == 4096


def test_a_worker_that_waited_awake_sleeps_when_nothing_comes(served):
    """Processor time of this process, in which the table's workers run: hardly any in half a second of silence."""
    client = served.client()
    for _ in range(2000):
        client.read(0, 4096)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_clients_that_ask_one_by_one_are_all_served(served, image):
    """More of them than workers: whoever waits awake for one keeps no other from being answered."""
    content = image.read_bytes()
    clients = [served.client() for _ in range(40)]
    for turn in range(50):
        for number, client in enumerate(clients):
            at = (turn * 40 + number) % 1000 * 4096
            assert client.read(at, 4096) == content[at : at + 4096]
