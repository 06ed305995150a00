"""The asyncio client: many requests at once, cancellation, limits and leaving: rules C6 to C9, C11, C12, C22, C25."""

import asyncio
import struct
import threading
from queue import Queue

import pytest
from nbd_said import chunk

from omavol import nbd
from omavol.nbd.wire import Command

pytestmark = pytest.mark.anyio
MIB = 1 << 20
FLAGS = 0xDED  # CAN_MULTI_CONN too
DISK = {b"web01": (64 * MIB, FLAGS, 1, 4096, 1 << 25, b"")}
ALONE = {b"web01": (64 * MIB, FLAGS & ~(1 << 8), 1, 4096, 1 << 25, b"")}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def data(request, content=None):
    """A READ's whole answer; by default each 4 KiB says where it stands."""
    content = pattern(request.offset, request.length) if content is None else content
    return chunk(1, struct.pack(">Q", request.offset) + content, request.cookie)


def pattern(offset, length):
    return b"".join(struct.pack(">Q", at) * 512 for at in range(offset, offset + length, 4096))[:length]


def done(request):
    return chunk(0, b"", request.cookie)


async def test_answers_in_any_order_reach_who_asked(scripted):
    def script(peer):
        peer.negotiate(DISK)
        for request in reversed([peer.request() for _ in range(32)]):
            peer.say(data(request))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10) as disk:
        got = await asyncio.gather(*(disk.read(at * 4096, 4096) for at in range(32)))
    assert got == [pattern(at * 4096, 4096) for at in range(32)]


async def test_chunks_of_several_answers_may_alternate(scripted):
    def script(peer):
        peer.negotiate(DISK)
        asked = [peer.request() for _ in range(2)]
        for half in (0, 1):
            for request in asked:
                at = request.offset + half * 4096
                peer.say(chunk(1, struct.pack(">Q", at) + pattern(at, 4096), request.cookie, done=bool(half)))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10) as disk:
        got = await asyncio.gather(disk.read(0, 8192), disk.read(8192, 8192))
    assert got == [pattern(0, 8192), pattern(8192, 8192)]


async def test_a_long_read_is_many_requests_at_once_into_one_buffer(scripted):
    def script(peer):
        peer.negotiate(DISK)
        for request in reversed([peer.request() for _ in range(4)]):
            peer.say(data(request))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10) as disk:
        buffer = bytearray(4 * MIB)
        await disk.read_into(MIB, buffer)
    assert buffer == pattern(MIB, 4 * MIB)


async def test_no_more_requests_are_in_flight_than_allowed(scripted):
    waiting = Queue()

    def script(peer):
        peer.negotiate(DISK)
        for _ in range(4):
            asked = [peer.request(), peer.request()]
            peer.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.socket.recv(1)
            peer.socket.settimeout(20)
            waiting.put(peer.heard)
            for request in asked:
                peer.say(data(request))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10, in_flight=2) as disk:
        await asyncio.gather(*(disk.read(at * 4096, 4096) for at in range(8)))
    assert [waiting.get(timeout=5) for _ in range(4)] == [b""] * 4


async def test_a_cancelled_read_leaves_the_others_and_the_connection(scripted):
    first = threading.Event()

    def script(peer):
        peer.negotiate(DISK)
        asked = [peer.request(), peer.request()]
        assert first.wait(10)
        for request in asked:
            peer.say(data(request))
        peer.say(data(peer.request()))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10) as disk:
        one, other = (asyncio.ensure_future(disk.read(at, 4096)) for at in (0, 4096))
        await asyncio.sleep(0)  # both begin
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        first.set()
        assert await other == pattern(4096, 4096)
        assert await disk.read(8192, 4096) == pattern(8192, 4096)


async def test_a_cancelled_write_is_sent_as_it_was_whatever_its_caller_does_then(scripted):
    """The server takes nothing until the caller was cancelled and has overwritten its data."""
    cancelled = threading.Event()
    heard = Queue()

    def script(peer):
        peer.negotiate(DISK)
        assert cancelled.wait(10)
        for _ in range(4):
            request = peer.request()
            heard.put((request.offset, set(peer.hear(request.length))))
            peer.say(done(request))
        peer.say(data(peer.request()))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10) as disk:
        payload = bytearray(b"w" * (4 * MIB))
        write = asyncio.ensure_future(disk.write(0, payload))
        while not disk._lines[0]._writing:  # noqa: ASYNC110 (no event says that a socket is full)
            await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        payload[:] = b"x" * len(payload)
        cancelled.set()
        assert await disk.read(0, 4096) == pattern(0, 4096)
    assert [heard.get(timeout=5) for _ in range(4)] == [(at * MIB, {ord("w")}) for at in range(4)]


async def test_C25_the_request_that_waits_longest_has_a_limit_though_others_are_answered(scripted):
    ended = threading.Event()

    def script(peer):
        peer.negotiate(DISK)
        peer.request()
        while not ended.is_set():
            peer.say(data(peer.request()))

    disk = await nbd.aio.connect(scripted(script), timeout=0.5)
    forgotten = asyncio.ensure_future(disk.read(0, 4096))
    await asyncio.sleep(0)  # it begins
    with pytest.raises((nbd.TimedOut, nbd.Disconnected), match="waited too long"):
        while True:
            await disk.read(4096, 4096)
    ended.set()
    with pytest.raises(nbd.TimedOut):
        await forgotten
    with pytest.raises(nbd.Disconnected, match="waited too long"):
        await disk.read(0, 4096)
    await disk.close()


async def test_C22_a_breach_fails_every_request_in_flight_with_the_cause_and_ends_without_a_word(scripted):
    heard = Queue()

    def script(peer):
        peer.negotiate(DISK)
        asked = [peer.request() for _ in range(3)]
        peer.say(data(asked[0]), bytes(20))
        heard.put(peer.hear_end())

    disk = await nbd.aio.connect(scripted(script), timeout=10)
    got = await asyncio.gather(*(disk.read(at * 4096, 4096) for at in range(3)), return_exceptions=True)
    assert got[0] == pattern(0, 4096)
    assert [type(each) for each in got[1:]] == [nbd.Breach, nbd.Breach]
    assert heard.get(timeout=5) == b""
    await disk.close()


async def test_a_server_that_goes_away_fails_what_is_in_flight(scripted):
    disk = await nbd.aio.connect(scripted(lambda peer: (peer.negotiate(DISK), peer.request())), timeout=10)
    with pytest.raises(nbd.Disconnected):
        await disk.write(0, b"w" * 4096)
    await disk.close()


async def test_an_error_is_of_its_own_request_alone(scripted):
    def script(peer):
        peer.negotiate(DISK)
        one, other = peer.request(), peer.request()
        peer.say(chunk(0x8001, struct.pack(">IH", 5, 0), one.cookie), data(other))
        peer.hear_end()

    async with await nbd.aio.connect(scripted(script), timeout=10) as disk:
        got = await asyncio.gather(disk.read(0, 4096), disk.read(4096, 4096), return_exceptions=True)
    assert isinstance(got[0], nbd.RequestFailed)
    assert (got[0].error, got[0].offset) == (nbd.Error.EIO, 0)
    assert got[1] == pattern(4096, 4096)


async def test_C6_eshutdown_lets_what_is_in_flight_end_and_then_leaves_by_disc(scripted):
    heard = Queue()

    def script(peer):
        peer.negotiate(DISK)
        one, other = peer.request(), peer.request()
        peer.say(chunk(0x8001, struct.pack(">IH", 108, 0), one.cookie))
        peer.say(data(other))
        heard.put(peer.request().type)
        heard.put(peer.hear_end())

    disk = await nbd.aio.connect(scripted(script), timeout=10)
    got = await asyncio.gather(disk.read(0, 4096), disk.read(4096, 4096), return_exceptions=True)
    assert isinstance(got[0], nbd.ServerShutsDown)
    assert got[1] == pattern(4096, 4096)
    assert (heard.get(timeout=5), heard.get(timeout=5)) == (Command.DISC, b"")
    with pytest.raises(nbd.Disconnected, match="shutting down"):
        await disk.flush()
    await disk.close()


async def test_C8_C9_close_awaits_what_is_in_flight_sends_disc_and_nothing_behind_it(scripted):
    heard = Queue()

    def script(peer):
        peer.negotiate(DISK)
        asked = [peer.request() for _ in range(2)]
        for request in asked:
            peer.say(data(request))
        request = peer.request()
        heard.put((request.type, request.flags, request.offset, request.length))
        heard.put(peer.hear_end())

    disk = await nbd.aio.connect(scripted(script), timeout=10)
    reads = [asyncio.ensure_future(disk.read(at, 4096)) for at in (0, 4096)]
    await asyncio.sleep(0)  # they begin
    await disk.close()
    assert [await read for read in reads] == [pattern(0, 4096), pattern(4096, 4096)]
    assert (heard.get(timeout=5), heard.get(timeout=5)) == ((Command.DISC, 0, 0, 0), b"")  # C10
    with pytest.raises(nbd.Disconnected):
        await disk.read(0, 4096)


async def test_C11_flush_is_sent_when_every_write_in_flight_was_answered_on_all_connections(scripted):
    log = []
    written = threading.Barrier(2, timeout=10)

    def one(peer):
        peer.negotiate(DISK)
        request = peer.request()
        peer.hear(request.length)
        written.wait()
        log.append("answered one")
        peer.say(done(request))
        serve_flush(peer)

    def other(peer):
        peer.negotiate(DISK)
        request = peer.request()
        peer.hear(request.length)
        log.append("answered other")
        peer.say(done(request))
        written.wait()
        serve_flush(peer)

    def serve_flush(peer):
        while (request := peer.request()).type != Command.DISC:
            assert request.type == Command.FLUSH
            log.append("flush")
            peer.say(done(request))

    uri = each_in_a_thread(scripted, one, other)
    async with await nbd.aio.connect(uri, timeout=10, connections=2) as disk:
        assert disk.connections == 2
        writes = [asyncio.ensure_future(disk.write(at, b"w" * 4096)) for at in (0, 4096)]
        await asyncio.sleep(0)  # they begin
        await disk.flush()
        assert all(write.done() for write in writes)
    assert log == ["answered other", "answered one", "flush"]


def each_in_a_thread(scripted, *scripts):
    """Serve the connections at the same time: each script in a thread of its own, on a socket of its own."""
    threads = []

    def behind(script):
        def start(peer):
            peer.socket = peer.socket.dup()
            peer.socket.settimeout(20)

            def run():
                with peer.socket:
                    script(peer)

            threads.append(threading.Thread(target=run))
            threads[-1].start()

        return start

    return scripted(*map(behind, scripts))


async def test_C12_several_connections_only_where_the_server_promises_they_are_one(scripted):
    sessions = Queue()
    uri = scripted(lambda peer: (sessions.put(peer.negotiate(ALONE)), peer.hear_end()))
    async with await nbd.aio.connect(uri, timeout=10, connections=4) as disk:
        assert disk.connections == 1
    assert sessions.qsize() == 1


async def test_C12_connections_that_show_another_disk_are_refused(scripted):
    other = {b"web01": (32 * MIB, FLAGS, 1, 4096, 1 << 25, b"")}
    uri = each_in_a_thread(
        scripted,
        lambda peer: (peer.negotiate(DISK), peer.hear_end()),
        lambda peer: (peer.negotiate(other), peer.hear_end()),
    )
    with pytest.raises(nbd.Breach, match="another size"):
        await nbd.aio.connect(uri, timeout=10, connections=2)


async def test_a_connection_of_the_pool_that_is_lost_ends_the_others(scripted):
    """A FLUSH answered by the rest would promise writes that the lost one took."""
    uri = each_in_a_thread(
        scripted,
        lambda peer: (peer.negotiate(DISK), peer.request()),
        lambda peer: (peer.negotiate(DISK), peer.hear_end()),
    )
    disk = await nbd.aio.connect(uri, timeout=10, connections=2)
    got = await asyncio.gather(disk.read(0, 4096), disk.read(4096, 4096), return_exceptions=True)
    assert [type(each) for each in got] == [nbd.Disconnected] * 2
    with pytest.raises(nbd.Disconnected):
        await disk.flush()
    await disk.close()


async def test_C25_a_cancelled_connect_closes_what_it_opened(scripted):
    arrived, heard = threading.Event(), Queue()

    def script(peer):
        arrived.set()
        heard.put(peer.hear_end())

    connecting = asyncio.ensure_future(nbd.aio.connect(scripted(script), timeout=1.0))
    await asyncio.to_thread(arrived.wait, 10)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert await asyncio.to_thread(heard.get, timeout=5) == b""


async def test_the_first_error_ends_the_asking_of_a_long_range(scripted):
    asked = []

    def script(peer):
        peer.negotiate({b"web01": (1 << 40, FLAGS, 1, 4096, 1 << 25, b"")})
        while (request := peer.request()).type != Command.DISC:
            asked.append(request.offset)
            peer.say(chunk(0x8001, struct.pack(">IH", 95, 0), request.cookie))

    async with await nbd.aio.connect(scripted(script), timeout=10, in_flight=4) as disk:
        with pytest.raises(nbd.RequestFailed, match="ENOTSUP"):
            await disk.zero(0, 1 << 40, fast=True)
    assert len(asked) <= 8
