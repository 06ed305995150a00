"""Clients in great number, in no hurry, in bad faith: each costs little, and none costs another anything."""

import ctypes
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from omavol._fastio import CONNECTION_SIZE
from omavol.nbd.wire import Command
from omavol.serve.limits import Limits, own_limits
from raw_client import Raw, until

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB


def resident(pid):
    """Bytes of memory that are the process's alone (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Private_", "Anonymous:"))) * KIB


def entries(directory):
    return sum(1 for _ in Path(directory).iterdir())


def greeted(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(path))
    assert client.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGIC")
    return client


def test_h55_a_parked_connection_is_a_small_struct():
    assert CONNECTION_SIZE <= 256


def test_h55_500_idle_connections_cost_no_thread_and_no_buffer(command, place, image):
    server = command("--unix", place / "s", image)
    pid = server.process.pid
    with Raw(place / "s") as first:
        assert len(first.read(0, MIB)) == MIB
        before, threads = resident(pid), entries(f"/proc/{pid}/task")
        clients = [Raw(place / "s") for _ in range(250)]
        waiting = [greeted(place / "s") for _ in range(250)]
        grown = resident(pid) - before
        assert entries(f"/proc/{pid}/task") == threads
        assert len(first.read(0, MIB)) == MIB
        for client in (*(client.socket for client in clients), *waiting):
            client.close()
    # 8 workers touch a page or two of their buffers for the first time; 500 stacks or buffers would be far above.
    assert grown < 2 * MIB, f"500 connections cost {grown} bytes"


def test_connections_beyond_the_limit_are_closed_and_counted_and_room_comes_back(serve, image):
    served = serve(default=image, limits=Limits(connections=3))
    clients = [served.client() for _ in range(3)]
    beyond = Raw(served.path, enter=False)
    assert beyond.hears_the_end()
    beyond.socket.close()
    assert served.table.turned_away == 1
    clients.pop().socket.close()
    until(lambda: served.table.connections == 2)
    assert len(served.client().read(0, 512)) == 512


def test_h54_a_handshake_that_dawdles_is_ended(serve, image):
    served = serve(default=image, limits=Limits(handshake=0.3))
    slow, partial, good = greeted(served.path), greeted(served.path), served.client()
    partial.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 100) + b"half")
    assert slow.recv(1) == b"" and partial.recv(1) == b""
    slow.close()
    partial.close()
    assert len(good.read(0, 512)) == 512
    until(lambda: served.table.connections == 1)


def test_limits_leave_descriptors_for_the_rest():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert own_limits(10**6).connections < resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= soft
    assert own_limits(10).connections == 10


def test_d5_a_client_that_writes_flat_out_and_reads_later_does_not_lock(served, image):
    """16 MiB of replies wait for it while it sends 48 MiB of writes: the server takes them all."""
    client = served.client()
    for cookie in range(4):
        client.send(Command.READ, 0, SIZE, cookie=cookie)
    for cookie in range(48):
        client.send(Command.WRITE, (cookie % 4) * MIB, MIB, bytes([cookie]) * MIB, cookie=100 + cookie)
    seen = []
    while len(seen) < 52:
        chunk = client.chunk()
        if chunk.flags & 1:
            assert chunk.error == 0
            seen.append(chunk.cookie)
    assert sorted(seen) == [0, 1, 2, 3, *range(100, 148)]
    assert image.read_bytes() == b"".join(bytes([44 + n]) * MIB for n in range(4))


def test_d5_a_client_that_never_reads_holds_nobody_else(served):
    """More such clients than workers; each is waited for by nobody, and what waits for it is bounded."""
    stuck = [served.client() for _ in range(20)]
    for client in stuck:
        client.say(*(client.pack(Command.READ, 0, SIZE, cookie=n) for n in range(64)))
    begun = time.monotonic()
    for _ in range(20):
        other = served.client()
        assert len(other.read(0, 64 * KIB)) == 64 * KIB
        other.socket.close()
    assert time.monotonic() - begun < 10


def test_a_flood_of_requests_nobody_reads_the_answers_of_is_held_back(served):
    """The server stops reading at its bound; when the client takes its replies all requests are answered."""
    client = served.client()
    client.socket.setblocking(False)
    sent = 0
    batch = b"".join(client.pack(Command.READ, 0, 64 * KIB, cookie=n) for n in range(1000))
    try:
        while sent < 200 * len(batch):
            sent += client.socket.send(batch[sent % len(batch) :])
    except BlockingIOError:
        pass
    assert sent < 200 * len(batch), "it took requests without a bound"
    client.socket.settimeout(20)
    whole = sent // 28
    done = 0
    while done < min(whole, 3000):
        done += client.chunk().flags & 1


@pytest.mark.parametrize("after", [1000, 28, 28 + 4096, 28 + MIB - 1])
def test_x54_clients_that_vanish_inside_a_write_leak_nothing(served, after):
    descriptors = entries("/proc/self/fd")
    for _ in range(30):
        client = Raw(served.path)
        client.say((client.pack(Command.WRITE, 0, MIB) + b"v" * MIB)[:after])
        client.socket.close()
    until(lambda: served.table.connections == 0)
    assert entries("/proc/self/fd") == descriptors
    assert len(served.client().read(0, 512)) == 512


def test_x54_clients_that_vanish_with_replies_in_flight_leak_nothing(served):
    for _ in range(30):
        client = Raw(served.path)
        client.say(*(client.pack(Command.READ, 0, SIZE, cookie=n) for n in range(8)))
        client.hear(100)
        client.socket.close()
    until(lambda: served.table.connections == 0)


def test_a_thousand_connects_and_hang_ups(served):
    for number in range(1000):
        client = Raw(served.path, enter=number % 3 == 0)
        client.socket.close()
    until(lambda: served.table.connections == 0)
    assert len(served.client().read(0, 512)) == 512


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_x55_x56_a_signal_ends_it_though_a_client_does_not_read(command, place, image, sent):
    server = command("--unix", place / "s", image)
    with Raw(place / "s") as stuck, Raw(place / "s"), Raw(place / "s", enter=False):
        stuck.say(*(stuck.pack(Command.READ, 0, SIZE, cookie=n) for n in range(16)))
        stuck.hear(1)
        begun = time.monotonic()
        server.process.send_signal(sent)
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 8
    assert not (place / "s").exists()


def test_many_clients_at_once_all_get_their_bytes(served, image):
    """More busy clients than workers: they take turns."""
    data = image.read_bytes()
    clients = [served.client() for _ in range(40)]
    for client in clients:
        client.say(*(client.pack(Command.READ, 4096 * n, 4096, cookie=n) for n in range(64)))
    for client in clients:
        for n in range(64):
            chunk = client.chunk()
            assert chunk.payload[8:] == data[4096 * chunk.cookie : 4096 * (chunk.cookie + 1)]
            assert chunk.cookie == n


def test_busy_clients_on_every_worker_do_not_keep_a_new_one_out(serve, image):
    """Two workers, two clients that always have requests waiting, and a third who only now comes."""
    served = serve(default=image, limits=Limits(workers=2))
    over = threading.Event()

    def hurry(client):
        batch = b"".join(client.pack(Command.READ, 4096 * n, 4096) for n in range(64))
        client.say(batch)
        while not over.is_set():
            client.say(batch)
            client.hear(64 * (28 + 4096))
        client.hear(64 * (28 + 4096))

    busy = [threading.Thread(target=hurry, args=(served.client(),)) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        for _ in range(5):
            late = served.client()
            assert len(late.read(0, MIB)) == MIB
            late.socket.close()
    finally:
        over.set()
        for thread in busy:
            thread.join(20)


def test_a_client_is_served_while_python_does_not_move(served, image):
    """From accept to the last reply no Python: nbdinfo and nbdcopy get all they want while the GIL is held."""
    argv = f"nbdinfo --size '{served.uri}' && nbdcopy '{served.uri}' null:"
    process = subprocess.Popen(["timeout", "20", "sh", "-c", argv], stdout=subprocess.DEVNULL)
    wait_and_keep_the_gil = ctypes.PyDLL(None).waitid
    assert wait_and_keep_the_gil(os.P_PID, process.pid, ctypes.create_string_buffer(128), os.WEXITED | os.WNOWAIT) == 0
    assert process.wait(20) == 0
