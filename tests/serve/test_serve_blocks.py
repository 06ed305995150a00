"""Block status in whole blocks, where the file system's extents end anywhere (X49, X62)."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from omavol.nbd.wire import Chunk, Command, CommandFlag, Error, Option
from raw_client import Raw

SIZE = 1 << 20
PERIOD, DATA = 10000, 5000  # of seek_shim.c
HOLE = 3
SERVE = """
import os, sys
from omavol import _fastio
from omavol.serve.listeners import listen_unix
image, path = sys.argv[1:]
server = _fastio.Server()
server.add("", os.open(image, os.O_RDWR | os.O_DIRECT), os.path.getsize(image))
server.listen(listen_unix(path).socket.detach())
server.start()
print("ready", flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def direct(place):
    """A server by direct I/O, so with a minimum block above 1, in a process of its own; the path of its socket."""
    shim, image = place / "seek.so", place / "disk"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, Path(__file__).with_name("seek_shim.c")], check=True)
    image.write_bytes(bytes(SIZE))
    try:
        os.close(os.open(image, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct I/O")
    argv = [sys.executable, "-c", SERVE, image, place / "s"]
    environment = {**os.environ, "LD_PRELOAD": str(shim)}
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield place / "s"
        process.communicate()


def minimum_block(client: Raw) -> int:
    """The minimum block size the server tells."""
    client.hear(18)
    client.say(struct.pack(">I", 3))
    told = {data[:2]: data[2:] for _, data in client.option(Option.INFO, struct.pack(">IHH", 0, 1, 3))}
    return struct.unpack(">III", told[b"\0\3"])[0]


def state(begin: int, block: int) -> int:
    """Of a block: data if a byte of it is."""
    return 0 if any(at % PERIOD < DATA for at in range(begin, begin + block, 8)) else HOLE


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("blocks", [(0, 0), (1, 7), (3, 1)])
def test_X49_X62_extents_are_whole_blocks_and_one_of_two_minds_is_data(direct, extended, blocks):
    with Raw(direct, enter=False) as client:
        block = minimum_block(client)
    assert block >= 512 and DATA % block
    offset = blocks[0] * block
    length = (blocks[1] or SIZE // block) * block
    with Raw(direct, extended=extended, contexts=True) as client:
        client.send(Command.BLOCK_STATUS, offset, length)
        (reply,) = client.reply()
        assert reply.type == (Chunk.BLOCK_STATUS_EXT if extended else Chunk.BLOCK_STATUS)
        told = list(struct.iter_unpack(">QQ" if extended else ">II", reply.payload[8 if extended else 4 :]))
        states = [state(at, block) for at in range(offset, offset + length, block)]
        runs = [(len(list(run)) * block, each) for each, run in itertools.groupby(states)]
        assert told == runs
        client.send(Command.BLOCK_STATUS, offset, length, flags=CommandFlag.REQ_ONE)
        (reply,) = client.reply()
        assert list(struct.iter_unpack(">QQ" if extended else ">II", reply.payload[8 if extended else 4 :])) == runs[:1]
        assert client.ask(Command.BLOCK_STATUS, offset + 1, block) == Error.EINVAL
