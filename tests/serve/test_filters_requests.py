"""Filters on any export: what they do to each command, in what order, how they change while requests wait in them."""

import os
import struct
import time

import pytest

from omavol.nbd.wire import Command, Error, Option
from omavol.serve.errors import ExportRefused
from omavol.serve.filters import BadFilter
from raw_client import Raw, until

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB

REQUESTS = {
    "read": (Command.READ, 0, 4096, b""),
    "write": (Command.WRITE, 0, 4096, b"w" * 4096),
    "flush": (Command.FLUSH, 0, 0, b""),
    "trim": (Command.TRIM, 0, 4096, b""),
    "cache": (Command.CACHE, 0, 4096, b""),
    "zero": (Command.WRITE_ZEROES, 0, 4096, b""),
    "status": (Command.BLOCK_STATUS, 0, 4096, b""),
}


@pytest.fixture(params=["image", "memory"])
def store(request):
    """A file with a page cache, and one that is memory: filters are the same on both."""
    return request.getfixturevalue(request.param)


def answers(client, count):
    """Cookies in the order of their replies, with the error of each."""
    told = {}
    while len(told) < count:
        reply = client.reply()
        told[reply[-1].cookie] = max(chunk.error for chunk in reply)
    return told


@pytest.mark.parametrize("name", REQUESTS)
def test_an_error_of_one_command_fails_that_one_alone(serve, store, name):
    client = serve(default=store, filters=[f"error:ENOSPC,{name}"]).client(contexts=True)
    told = {other: client.ask(*request) for other, request in REQUESTS.items()}
    assert told == {other: Error.ENOSPC if other == name else 0 for other in REQUESTS}


@pytest.mark.parametrize("structured", [True, False])
def test_x14_a_failed_write_takes_its_payload_and_keeps_step(serve, store, structured):
    client = serve(default=store, filters=["error:EIO,write"]).client(structured=structured)
    before = store.read_bytes()
    for length in (1, 512, 65 * KIB, MIB, 3 * MIB):
        assert client.ask(Command.WRITE, 0, length, b"x" * length) == Error.EIO
    assert client.read(0, MIB) == before[:MIB]
    assert store.read_bytes() == before


def test_x3_a_failed_read_is_an_error_chunk_where_chunks_were_agreed(serve, store):
    served = serve(default=store, filters=["error:EPERM,read"])
    client = served.client()
    client.send(Command.READ, 0, SIZE, cookie=7)
    (reply,) = client.reply()
    assert (reply.type, reply.cookie, reply.error) == (0x8001, 7, Error.EPERM)
    simple = served.client(structured=False)
    simple.send(Command.READ, 0, SIZE, cookie=8)
    (reply,) = simple.reply(SIZE)
    assert (reply.type, reply.cookie, reply.error) == (None, 8, Error.EPERM)


def errors(client, count):
    return [client.ask(Command.READ, 4096 * (number % 4), 4096) for number in range(count)]


def test_errors_of_each_nth_and_of_the_next_few(serve, store):
    served = serve(default=store, filters=["error:EIO,read,every=3"])
    client = served.client()
    assert [bool(error) for error in errors(client, 9)] == [False, False, True] * 3
    served.table.set_filters("", ["error:EIO,read,next=2"])
    assert [bool(error) for error in errors(client, 5)] == [True, True, False, False, False]


def test_errors_by_chance_are_about_as_many_as_asked(serve, memory):
    client = serve(default=memory, filters=["error:probability=25%"]).client()
    count = sum(error != 0 for error in errors(client, 800))
    assert 100 < count < 300  # 200 on average, with a deviation of 12


def test_errors_by_chance_never_and_always(serve, memory):
    served = serve(default=memory, filters=["error:probability=0"])
    client = served.client()
    assert not any(errors(client, 50))
    served.table.set_filters("", ["error:probability=1"])
    assert all(errors(client, 50))


def test_errors_of_a_range_are_those_of_requests_that_touch_it(serve, store):
    client = serve(default=store, filters=["error:EIO,range=1M-2M"]).client()
    touched = {(0, 4096): 0, (MIB - 4096, 4096): 0, (2 * MIB, 512): 0}
    touched |= dict.fromkeys([(MIB - 1, 2), (MIB, 1), (2 * MIB - 1, 1)], Error.EIO)
    assert {place: client.ask(Command.READ, *place) for place in touched} == touched
    assert client.ask(Command.READ, 0, SIZE) == Error.EIO
    assert client.ask(Command.FLUSH) == 0


def test_an_error_before_a_delay_is_quick_and_one_behind_it_is_not(serve, store):
    served = serve(default=store, filters=["error:EIO,read", "delay:read=3600s"])
    client = served.client()
    assert client.ask(Command.READ, 0, 512) == Error.EIO
    served.table.set_filters("", ["delay:200ms", "error:EIO,read"])
    begun = time.monotonic()
    assert client.ask(Command.READ, 0, 512) == Error.EIO
    assert time.monotonic() - begun >= 0.2


def test_delays_are_those_of_the_command(serve, store):
    client = serve(default=store, filters=["delay:write=300ms,flush=100ms"]).client()
    for name, least in (("read", 0.0), ("write", 0.3), ("flush", 0.1), ("zero", 0.0)):
        begun = time.monotonic()
        assert client.ask(*REQUESTS[name]) == 0
        took = time.monotonic() - begun
        assert took >= least
        assert least or took < 0.1, f"{name} was delayed"


@pytest.mark.parametrize("structured", [True, False])
def test_entering_can_be_delayed_and_harms_nobody_else(serve, store, structured):
    served = serve(default=store)
    quick = served.client()
    served.table.set_filters("", ["delay:open=300ms"])
    begun = time.monotonic()
    with Raw(served.path, enter=False) as impatient:
        name = struct.pack(">IH", 0, 0)
        impatient.say(struct.pack(">I", 3), b"IHAVEOPT", struct.pack(">II", Option.GO, len(name)), name)
        assert len(quick.read(0, 512)) == 512
        assert time.monotonic() - begun < 0.25
    late = served.client(structured=structured)
    assert time.monotonic() - begun >= 0.3
    assert len(late.read(0, 512)) == 512
    until(lambda: served.table.connections == 2)


def test_x55_who_is_entering_when_the_export_ends_is_hung_up_on(serve, store):
    served = serve(default=store, filters=["delay:open=3600s"])
    with Raw(served.path, enter=False) as client:
        client.hear(18)
        name = struct.pack(">IH", 0, 0)
        client.say(struct.pack(">I", 3), b"IHAVEOPT", struct.pack(">II", Option.GO, len(name)), name)
        until(lambda: served.export().connections == 1)
        begun = time.monotonic()
        served.table.remove("")
        assert time.monotonic() - begun < 2
        assert client.hears_the_end()


def test_delays_add_up(serve, store):
    client = serve(default=store, filters=["delay:100ms", "delay:read=150ms"]).client()
    begun = time.monotonic()
    assert client.ask(*REQUESTS["read"]) == 0
    assert time.monotonic() - begun >= 0.25


def test_32_delayed_reads_of_one_connection_wait_together(serve, store):
    """All for the price of about one, on one thread: a filter occupies none."""
    data = store.read_bytes()
    served = serve(default=store, filters=["delay:read=500ms"])
    client = served.client()
    begun = time.monotonic()
    client.say(*(client.pack(Command.READ, n * 4096, 4096, cookie=n) for n in range(32)))
    for _ in range(32):
        reply = client.chunk()
        assert reply.payload[8:] == data[reply.cookie * 4096 :][:4096]
    assert 0.5 <= time.monotonic() - begun < 1


def test_delayed_and_undelayed_requests_pass_each_other(serve, store):
    client = serve(default=store, filters=["delay:write=300ms"]).client()
    client.send(Command.WRITE, 0, 512, b"w" * 512, cookie=1)
    client.send(Command.READ, MIB, 512, cookie=2)
    assert list(answers(client, 2)) == [2, 1]


def test_a_pause_holds_everything_and_filters_that_change_let_go(serve, store):
    served = serve(default=store, filters=["pause"])
    client = served.client(contexts=True)
    for cookie, request in enumerate(REQUESTS.values()):
        client.send(*request, cookie=cookie)
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.hear(1)
    client.socket.settimeout(20)
    assert served.table.set_filters("", []).filters == []
    assert answers(client, len(REQUESTS)) == dict.fromkeys(range(len(REQUESTS)), 0)


def test_those_that_wait_pass_the_new_filters_as_if_they_had_just_come(serve, store):
    served = serve(default=store, filters=["delay:3600s"])
    client = served.client()
    client.send(Command.READ, 0, 512, cookie=1)
    until(lambda: served.export().requests == 1)
    served.table.set_filters("", ["pause"])
    served.table.set_filters("", ["error:ENOSPC,next=1"])
    assert answers(client, 1) == {1: Error.ENOSPC}
    assert client.ask(Command.READ, 0, 512) == 0


def test_a_rate_lets_through_no_more_than_it_says(serve, memory):
    """2 MiB at 8 MiB/s, of which a tenth of a second's worth comes at once; writes have a bucket of their own."""
    served = serve(default=memory, filters=["rate:read=8M"])
    client = served.client()
    begun = time.monotonic()
    client.say(*(client.pack(Command.READ, n * 64 * KIB, 64 * KIB, cookie=n) for n in range(32)))
    seen = 0
    while seen < 32:
        seen += client.chunk().flags & 1
        let_through = seen * 64 * KIB
        assert let_through <= 8 * MIB * (time.monotonic() - begun + 0.1)
    begun = time.monotonic()
    assert client.ask(Command.WRITE, 0, MIB, b"w" * MIB) == 0
    assert time.monotonic() - begun < 0.15


def test_a_rate_can_be_raised_while_requests_wait_for_it(serve, memory):
    served = serve(default=memory, filters=["rate:1K"])
    clients = [served.client() for _ in range(4)]
    for client in clients:
        client.send(Command.READ, 0, MIB)
    until(lambda: served.export().requests == 4)
    served.table.set_filters("", ["rate:100G"])
    for client in clients:
        assert not any(chunk.error for chunk in client.reply())


def test_a_rate_is_shared_by_the_connections_of_an_export(serve, memory):
    served = serve(default=memory, filters=["rate:write=4M"])
    clients = [served.client() for _ in range(4)]
    begun = time.monotonic()
    for number, client in enumerate(clients):
        client.send(Command.WRITE, number * MIB, 256 * KIB, b"w" * (256 * KIB))
    for client in clients:
        assert not client.reply()[-1].error
    assert time.monotonic() - begun >= 0.25 - 0.1


@pytest.mark.parametrize("ends", ["remove", "stop"])
def test_x55_x56_what_waits_in_a_filter_is_refused_when_the_export_ends(serve, store, ends):
    served = serve(default=store, filters=["delay:read=3600s", "pause"])
    client = served.client()
    for cookie in range(8):
        client.send(Command.READ, 0, 512, cookie=cookie)
        client.send(Command.WRITE, 0, 512, b"w" * 512, cookie=100 + cookie)
    until(lambda: served.export().requests == 16)
    begun = time.monotonic()
    if ends == "remove":
        assert served.table.remove("").stalled_clients == 0
    else:
        assert served.table.stop() == 0
    assert time.monotonic() - begun < 2
    assert set(answers(client, 16).values()) == {Error.ESHUTDOWN}
    assert client.hears_the_end()


def test_d6_a_retarget_does_not_wait_for_what_a_filter_holds(serve, store, place):
    """What has not begun goes to the new file; who is paused keeps its place and its connection."""
    fresh = place / "fresh"
    fresh.write_bytes(b"n" * SIZE)
    served = serve(default=store, filters=["pause"])
    client = served.client()
    client.send(Command.READ, 0, 4, cookie=1)
    until(lambda: served.export().requests == 1)
    begun = time.monotonic()
    served.table.retarget("", os.open(fresh, os.O_RDWR), SIZE)
    assert time.monotonic() - begun < 2
    served.table.set_filters("", [])
    assert client.reply()[0].payload[8:] == b"nnnn"


def test_x54_clients_that_leave_while_a_filter_holds_their_requests_leak_nothing(serve, store):
    served = serve(default=store, filters=["pause"])
    for _ in range(20):
        with Raw(served.path) as client:
            client.send(Command.READ, 0, MIB)
            client.send(Command.WRITE, 0, MIB, b"w" * MIB)
    until(lambda: served.table.connections == 0)


def test_x52_a_write_before_disc_is_done_though_the_client_does_not_wait(serve, store):
    served = serve(default=store, filters=["delay:200ms"])
    with Raw(served.path) as client:
        client.send(Command.WRITE, 0, 4, b"last")
        client.send(Command.DISC)
    until(lambda: served.table.connections == 0)
    assert store.read_bytes()[:4] == b"last"


def test_bad_filters_are_refused_and_change_nothing(serve, store):
    served = serve(default=store, filters=["error:EIO,read"])
    client = served.client()
    with pytest.raises(BadFilter, match="no filter 'dely'"):
        served.table.set_filters("", ["pause", "dely:1s"])
    with pytest.raises(ExportRefused) as caught:
        served.table.set_filters("nobody", [])
    assert caught.value.code == "unknown_export"
    assert client.ask(Command.READ, 0, 512) == Error.EIO
    assert served.export().filters == ["error:EIO,read"]


def test_block_status_behind_a_delay_is_that_of_the_file(serve, store):
    client = serve(default=store, filters=["delay:1ms"]).client(contexts=True)
    client.send(Command.BLOCK_STATUS, 0, SIZE)
    (reply,) = client.reply()
    assert struct.unpack(">III", reply.payload)[1:] == (SIZE, 0)
