"""Requests that are done elsewhere: out of order, bounded, without harm to anybody when clients or exports leave."""

import os
import random
import signal
import struct
import threading
import time
from pathlib import Path

import pytest

from omavol.nbd.wire import Command, Error
from omavol.serve.errors import ExportRefused
from raw_client import Raw, until

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB


def threads():
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def drop_from_cache(path):
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("structured", [True, False])
def test_reads_that_the_page_cache_does_not_have_are_right_at_every_size(serve, image, structured):
    data = image.read_bytes()
    client = serve(default=image).client(structured=structured)
    for length in (1, 4096, 64 * KIB, 64 * KIB + 1, MIB, SIZE):
        drop_from_cache(image)
        offset = random.randrange(SIZE - length + 1)
        assert client.read(offset, length) == data[offset : offset + length]


def test_x1_cookies_come_back_with_their_own_data_in_any_order(serve, memory):
    """Delays by size of a shared rate: small requests pass large ones; each reply belongs to its cookie."""
    data = memory.read_bytes()
    client = serve(default=memory, filters=["rate:200M", "delay:read=5ms"]).client()
    luck = random.Random(9)
    asked = {}
    for cookie in range(100):
        length = luck.choice((1, 512, 4096, 64 * KIB, 200 * KIB))
        asked[cookie] = luck.randrange(SIZE - length), length
        client.send(Command.READ, *asked[cookie], cookie=cookie)
    seen = set()
    while len(seen) < len(asked):
        (reply,) = client.reply()
        offset, length = asked[reply.cookie]
        assert struct.unpack(">Q", reply.payload[:8])[0] == offset
        assert reply.payload[8:] == data[offset : offset + length]
        seen.add(reply.cookie)


def test_x26_x27_a_long_read_done_elsewhere_comes_in_chunks_that_cover_it(serve, place):
    path = place / "long"
    path.write_bytes(os.urandom(11 * MIB))
    client = serve(default=path, filters=["delay:1ms"]).client()
    client.send(Command.READ, 5, 11 * MIB - 5, cookie=3)
    chunks = client.reply()
    assert len(chunks) >= 3 and [chunk.flags for chunk in chunks] == [0] * (len(chunks) - 1) + [1]
    assert b"".join(chunk.payload[8:] for chunk in chunks) == path.read_bytes()[5:]


@pytest.mark.parametrize("structured", [True, False])
def test_more_reads_than_there_are_pipes_all_bring_their_own_bytes(serve, place, structured):
    """Each of three connections has as many bytes elsewhere as it may; who finds no pipe is served from memory."""
    path = place / "many"
    path.write_bytes(os.urandom(16 * MIB))
    data = path.read_bytes()
    served = serve(default=path, filters=["delay:read=1ms"])
    clients = [served.client(structured=structured) for _ in range(3)]
    asked = {}
    for number, client in enumerate(clients):
        for cookie in range(40):
            asked[number, cookie] = random.randrange(16 * MIB - 300 * KIB), random.randrange(65 * KIB, 300 * KIB)
            client.send(Command.READ, *asked[number, cookie], cookie=cookie)
    for number, client in enumerate(clients):
        for _ in range(40):
            if structured:
                (reply,) = client.reply()
                offset, length = asked[number, reply.cookie]
                assert reply.payload[8:] == data[offset : offset + length]
            else:
                header = client.hear(16)
                offset, length = asked[number, int.from_bytes(header[8:], "big")]
                assert header[4:8] == bytes(4) and client.hear(length) == data[offset : offset + length]


def test_x28_a_read_elsewhere_past_the_end_of_a_file_cut_short_fails_and_the_next_is_served(serve, place):
    path = place / "cut"
    path.write_bytes(b"k" * SIZE)
    client = serve(default=path, filters=["delay:read=1ms"]).client()
    os.truncate(path, MIB)
    for length in (4096, 200 * KIB, 2 * MIB):
        assert client.ask(Command.READ, MIB - 4096 // 2, length) == Error.EIO
        assert client.read(MIB - length if length < MIB else 0, min(length, MIB)) == b"k" * min(length, MIB)


def test_a_slow_flush_does_not_stop_the_reads_of_its_connection(serve, image):
    client = serve(default=image, filters=["delay:flush=400ms"]).client()
    client.send(Command.FLUSH, cookie=1)
    begun = time.monotonic()
    for cookie in range(10, 20):
        client.send(Command.READ, 0, 4096, cookie=cookie)
        assert client.reply()[-1].cookie == cookie
    assert time.monotonic() - begun < 0.4
    assert client.reply()[-1].cookie == 1


def test_a_greedy_client_is_not_read_from_past_its_bound_and_gets_all_in_the_end(serve, memory):
    """A thousand writes of 1 MiB at a paused export: the server takes 16 MiB of them and what its socket holds."""
    served = serve(default=memory, filters=["pause"])
    client, other = served.client(), served.client()
    client.socket.setblocking(False)
    packet = client.pack(Command.WRITE, 0, MIB) + bytes(MIB)
    sent = 0
    still = time.monotonic() + 0.5
    while time.monotonic() < still:
        try:
            sent += client.socket.send(packet[sent % len(packet) :])
            still = time.monotonic() + 0.5
        except BlockingIOError:
            time.sleep(0.01)
    assert 16 * MIB <= sent < 24 * MIB
    served.table.set_filters("", [])
    assert len(other.read(0, 512)) == 512
    client.socket.settimeout(20)
    client.say(packet[sent % len(packet) :])
    answered = [client.reply()[-1].error for _ in range(sent // len(packet) + 1)]
    assert not any(answered)


def test_an_idle_server_has_no_thread_for_it(serve, memory):
    served = serve(default=memory)
    client = served.client()
    client.read(0, 512)
    before = threads()
    served.table.set_filters("", ["delay:read=1ms"])
    client.say(*(client.pack(Command.READ, 0, 4096, cookie=n) for n in range(64)))
    for _ in range(64):
        assert not client.chunk().error
    assert threads() > before
    until(lambda: threads() == before)


def test_x54_clients_that_leave_with_jobs_under_way_leak_nothing(serve, image):
    served = serve(default=image, filters=["delay:2ms"])
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for number in range(60):
        client = Raw(served.path)
        for cookie in range(8):
            client.send(Command.READ, cookie * 64 * KIB, 300 * KIB, cookie=cookie)
            client.send(Command.WRITE, MIB, 64 * KIB, b"v" * (64 * KIB), cookie=100 + cookie)
        if number % 3:
            client.hear(number)
        client.socket.close()
    until(lambda: served.table.connections == 0)
    until(lambda: sum(1 for _ in Path("/proc/self/fd").iterdir()) == descriptors)  # pipes go when the pool rests
    assert len(served.client().read(0, 512)) == 512


def test_x55_x56_a_signal_ends_it_within_its_bound_though_filters_hold_requests(command, place, image):
    server = command("--unix", place / "s", "--filter", "delay:read=3600s", "--filter", "pause", image)
    with Raw(place / "s") as client:
        for cookie in range(8):
            client.send(Command.READ, 0, 4096, cookie=cookie)
            client.send(Command.WRITE, 0, 4096, bytes(4096), cookie=8 + cookie)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [client.reply()[-1].error for _ in range(16)] == [Error.ESHUTDOWN] * 16
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 5


STORM = ["delay:1ms", "delay:read=3ms,write=1ms", "error:EIO,probability=20%", "rate:500M", "pause"]


def test_a_storm_of_filters_retargets_and_leaving_clients_ends_with_everybody_served(serve, image, place):
    """Whatever passes whatever: each answer is its request's, nobody hangs, and the last file holds the last writes."""
    files = [image, place / "other"]
    files[1].write_bytes(image.read_bytes())
    served = serve(default=image)
    over = threading.Event()
    faults = []

    def work(seed):
        luck = random.Random(seed)
        while not over.is_set():
            with Raw(served.path) as client:
                for cookie in range(luck.randrange(1, 30)):
                    length = luck.choice((512, 4096, 100 * KIB))
                    write = luck.random() < 0.3
                    body = bytes(length) if write else b""
                    client.send(Command.WRITE if write else Command.READ, 0, length, body, cookie=cookie)
                if luck.random() < 0.5:
                    continue
                wanted = set(range(cookie + 1))
                while wanted:
                    reply = client.reply()[-1]
                    if reply.cookie not in wanted or reply.error not in (0, Error.EIO):
                        faults.append(reply)
                    wanted.discard(reply.cookie)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    luck = random.Random(5)
    for number in range(40):
        served.table.set_filters("", luck.sample(STORM, luck.randrange(len(STORM))))
        if number % 4 == 0:
            served.table.retarget("", os.open(files[number // 4 % 2], os.O_RDWR), SIZE)
        time.sleep(0.02)
    over.set()
    served.table.set_filters("", [])
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()
    assert not faults
    until(lambda: served.table.connections == 0)
    client = served.client()
    assert client.ask(Command.WRITE, 0, 4, b"last") == 0
    assert client.read(0, 4) == b"last"


def test_remove_while_filters_change_ends_in_time(serve, memory):
    served = serve(default=memory, filters=["delay:5ms"])
    client = served.client()
    over = threading.Event()

    def change():
        while not over.is_set():
            try:
                served.table.set_filters("", ["pause"] if random.random() < 0.5 else ["delay:1ms"])
            except ExportRefused:
                return

    changer = threading.Thread(target=change)
    changer.start()
    client.say(*(client.pack(Command.READ, 0, 4096, cookie=n) for n in range(64)))
    until(lambda: served.export().requests == 64)
    served.table.remove("")
    over.set()
    changer.join(10)
    told = [client.reply()[-1].error for _ in range(64)]
    assert set(told) <= {0, Error.ESHUTDOWN}
    assert client.hears_the_end()
