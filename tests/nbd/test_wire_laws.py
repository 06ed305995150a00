"""Laws of both handshakes: splits do not matter, garbage does no harm, waiting is small, a session is cheap."""

import os
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_said import (
    CLIENT_FLAGS,
    EXPORTS,
    GO,
    GREETING,
    INFO,
    LIST,
    LIST_CONTEXT,
    SET_CONTEXT,
    STRUCTURED,
    Session,
    answer,
    contexts,
    export_info,
    info,
    option,
)

from omavol import _wire
from omavol.nbd.handshake import Goal, Next

OPTIONS = (
    option(STRUCTURED),
    option(LIST),
    option(77, b"x" * 20_000),
    option(LIST_CONTEXT, b"bad"),
    contexts(LIST_CONTEXT),
    contexts(SET_CONTEXT, b"base:allocation", b"a:b"),
    info(INFO, b"nope"),
    info(INFO, requests=(1, 2, 3)),
)
SESSION = CLIENT_FLAGS + b"".join(OPTIONS) + info(GO)
SAID = Session(flags=b"").raw(SESSION)


@st.composite
def splits(draw, data):
    """The same bytes in other pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=50)
@given(splits(SESSION))
def test_a_server_says_the_same_however_its_input_is_split(pieces):
    session = Session(flags=b"")
    assert b"".join(session.raw(piece) for piece in pieces) == SAID
    assert session.transmits


def test_a_server_says_the_same_byte_by_byte():
    session = Session(flags=b"")
    assert b"".join(session.raw(SESSION[at : at + 1]) for at in range(len(SESSION))) == SAID


def client_says(pieces) -> tuple[bytes, Next, object]:
    """What a client says to a server's bytes in these pieces, and how it ends."""
    machine = _wire.ClientMachine(1, [b"base:allocation"])
    machine.ask(Goal.GO, b"web01")
    said, rest, todo = b"", b"", Next.MORE
    for piece in pieces:
        rest += piece
        while True:
            todo, used, out = machine.step(rest)
            rest, said = rest[used:], said + out
            if todo not in (Next.SEND, Next.SEEN):
                break
    return said, Next(todo), machine.facts


SERVER_SAYS = (
    GREETING
    + answer(STRUCTURED, 1)
    + answer(SET_CONTEXT, 4, bytes(4) + b"base:allocation")
    + answer(SET_CONTEXT, 1)
    + export_info()
    + answer(GO, 3, b"\0\x01web01")
    + answer(GO, 3, b"\0\x63unknown")
    + answer(GO, 1)
)


@settings(max_examples=50)
@given(splits(SERVER_SAYS))
def test_a_client_says_the_same_however_its_input_is_split(pieces):
    whole = client_says([SERVER_SAYS])
    assert whole[1] == Next.TRANSMIT
    assert client_says(pieces) == whole


ALMOST_OPTIONS = st.lists(
    st.one_of(
        st.sampled_from(OPTIONS),
        st.binary(max_size=40),
        st.builds(option, st.integers(0, 12), st.binary(max_size=60)),
        st.builds(
            lambda number, length, data: b"IHAVEOPT" + number.to_bytes(4) + length.to_bytes(4) + data,
            st.integers(0, 12),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=60),
        ),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(ALMOST_OPTIONS, st.integers(8448, 20_000))
def test_garbage_never_harms_a_server(parts, room):
    session = Session()
    for part in parts:
        session.raw(part, room)
        assert len(session.rest) <= 16384 or session.closed or session.transmits


@settings(max_examples=300)
@given(st.integers(0, len(SERVER_SAYS)), st.binary(max_size=60), st.binary(max_size=200))
def test_garbage_never_harms_a_client(cut, garbage, more):
    _, todo, _ = client_says([SERVER_SAYS[:cut] + garbage, more])
    assert todo in (Next.MORE, Next.CLOSE, Next.TRANSMIT, Next.ANSWERED)


@settings(max_examples=200)
@given(st.integers(0, len(SERVER_SAYS) - 1), st.integers(0, 255))
def test_a_flipped_byte_never_harms_a_client(at, value):
    said = bytearray(SERVER_SAYS)
    said[at] = value
    client_says([bytes(said)])


def test_H55_a_waiting_session_is_a_small_struct():
    server, client = _wire.handshake_sizes()
    assert server <= 256
    assert client <= 512


def test_a_server_finishes_20_000_handshakes_a_second_of_cpu():
    said = CLIENT_FLAGS + option(STRUCTURED) + contexts(SET_CONTEXT, b"base:allocation") + info(GO, requests=(3,))
    rounds, floor = 5000, 2_000 if "ASAN_OPTIONS" in os.environ else 20_000  # a sanitizer's build is ten times slower
    start = time.process_time()
    for _ in range(rounds):
        machine = _wire.ServerMachine(EXPORTS)
        machine.step(b"")
        todo, _, _ = machine.step(said)
    assert todo == Next.TRANSMIT
    assert rounds / (time.process_time() - start) > floor
