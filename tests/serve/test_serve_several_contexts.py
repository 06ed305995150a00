"""Block status of several meta contexts at once: a chunk for each, or for each that the payload names (X44, X64)."""

from __future__ import annotations

import itertools
import struct

import pytest

from omavol.nbd.wire import Chunk, Command, CommandFlag, Error, Option
from omavol.serve.limits import Limits
from omavol.serve.listeners import listen_unix
from omavol.serve.table import ExportTable
from omavol.serve.tracking import CONTEXT, GRAIN
from raw_client import ACK, DONE, Raw

SIZE = 4 << 20
BASE, OLD, NEW = "base:allocation", CONTEXT + "old", CONTEXT + "new"
TOLD = {
    BASE: [(SIZE, 0)],
    OLD: [(2 * GRAIN, 1), (SIZE - 2 * GRAIN, 0)],
    NEW: [(GRAIN, 0), (GRAIN, 1), (SIZE - 2 * GRAIN, 0)],
}


@pytest.fixture
def tracked(place, image):
    """The path of a server's socket: grain 0 changed since `old`, grain 1 since `new` too."""
    table = ExportTable(Limits())
    table.add_path("", str(image), read_only=False, track=str(place / "points"))
    table.listen(listen_unix(str(place / "s")))
    table.start()
    with Raw(place / "s") as client:
        for number, point in enumerate(("old", "new")):
            table.add_point("", point)
            assert client.ask(Command.WRITE, number * GRAIN, 1, b"x") == 0
    yield place / "s"
    table.stop()


def statuses(client, *ids: int, flags: int = 0) -> dict[int, list[tuple[int, int]]]:
    """What one reply tells of each context; its chunks are a status each and the last alone says DONE (X31)."""
    payload = struct.pack(f">Q{len(ids)}I", SIZE, *ids) if ids else b""
    flags |= CommandFlag.PAYLOAD_LEN if ids else 0
    client.send(Command.BLOCK_STATUS, 0, len(payload) or SIZE, payload, flags=flags)
    chunks = client.reply()
    assert [chunk.flags for chunk in chunks] == [0] * (len(chunks) - 1) + [DONE]
    assert {chunk.type for chunk in chunks} == {Chunk.BLOCK_STATUS_EXT if client.extended else Chunk.BLOCK_STATUS}
    told: dict[int, list[tuple[int, int]]] = {}
    for chunk in chunks:
        identity = int.from_bytes(chunk.payload[:4])
        assert identity not in told
        form, begin = (">QQ", 8) if client.extended else (">II", 4)
        told[identity] = list(struct.iter_unpack(form, chunk.payload[begin:]))
    return told


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("selected", [(BASE, OLD, NEW), (NEW, OLD), (OLD,)])
def test_X44_each_selected_context_is_told_in_a_chunk_of_its_own(tracked, extended, selected):
    with Raw(tracked, extended=extended, contexts=selected) as client:
        assert set(client.ids) == set(selected)
        assert statuses(client) == {client.ids[name]: TOLD[name] for name in selected}
        one = statuses(client, flags=CommandFlag.REQ_ONE)
        assert one == {client.ids[name]: TOLD[name][:1] for name in selected}


def test_X64_of_several_contexts_only_those_answer_that_the_payload_names(tracked):
    with Raw(tracked, extended=True, contexts=(BASE, OLD, NEW)) as client:
        for count in (1, 2, 3):
            for named in itertools.permutations((BASE, OLD, NEW), count):
                told = statuses(client, *(client.ids[name] for name in named))
                assert told == {client.ids[name]: TOLD[name] for name in named}


def test_X65_a_context_that_was_not_selected_is_not_to_be_named(tracked):
    with Raw(tracked, extended=True, contexts=(BASE, OLD, NEW)) as other:
        foreign = other.ids[NEW]
    with Raw(tracked, extended=True, contexts=(BASE, OLD)) as client:
        payload = struct.pack(">QII", SIZE, client.ids[BASE], foreign)
        asked = client.ask(Command.BLOCK_STATUS, 0, len(payload), payload, flags=CommandFlag.PAYLOAD_LEN)
        assert asked == Error.EINVAL
        assert set(statuses(client)) == set(client.ids.values())


@pytest.mark.parametrize("query", [CONTEXT, CONTEXT.partition(":")[0] + ":"])
def test_H36_the_contexts_of_a_namespace_are_listed_by_its_name(tracked, query):
    with Raw(tracked, enter=False) as client:
        client.hear(18)
        client.say(struct.pack(">I", 3))
        assert client.option(Option.STRUCTURED_REPLY)[-1][0] == ACK
        data = struct.pack(">III", 0, 1, len(query)) + query.encode()
        answers = client.option(Option.LIST_META_CONTEXT, data)
        assert {told[4:].decode() for _, told in answers[:-1]} == {OLD, NEW}
