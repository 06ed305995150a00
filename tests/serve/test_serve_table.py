"""The live table: add, retarget and remove while clients work; no write is lost, no client waits for ever.

Plain and inside TLS, where bytes may stay on the way in a buffer that the socket knows nothing of.
"""

import fcntl
import os
import random
import struct
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omavol.nbd.wire import Command, Error, Option
from omavol.serve.errors import ExportRefused
from raw_client import ACK, Raw, until

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(params=["plain", "tls"])
def served(request, serve, image, pki):
    return serve(default=image, tls=pki if request.param == "tls" else None)


@pytest.fixture
def other(place):
    path = place / "other"
    path.write_bytes(bytes(SIZE))
    return path


def opened(path):
    return os.open(path, os.O_RDWR)


def refused(call, *arguments, **more):
    with pytest.raises(ExportRefused) as caught:
        call(*arguments, **more)
    return caught.value.code


class Writer(threading.Thread):
    """Writes its number over and over into blocks of its own, 16 in flight, and remembers what was answered."""

    def __init__(self, served, first, count):
        super().__init__()
        self.client = Raw(served.path, tls=served.tls)
        self.first, self.count = first, count
        self.answered = {}
        self.ended = threading.Event()
        self.failure = 0

    def run(self):
        number = 0
        try:
            while not self.ended.is_set() and not self.failure:
                batch = {}
                for cookie in range(min(16, self.count)):
                    number += 1
                    block = self.first + cookie
                    batch[cookie] = (block, number)
                    data = struct.pack("<Q", number) * 512
                    self.client.send(Command.WRITE, block * 4096, 4096, data, cookie=cookie)
                for _ in range(len(batch)):
                    (reply,) = self.client.reply()
                    self.failure = self.failure or reply.error
                    if not reply.error:
                        block, written = batch[reply.cookie]
                        self.answered[block] = written
        except OSError:
            pass
        finally:
            self.client.socket.close()


def check(writers, *paths):
    """In one of the files every block holds what was answered last, or what was sent after it and never answered."""
    files = [path.read_bytes() for path in paths]
    for writer in writers:
        for block, number in writer.answered.items():
            held = max(struct.unpack_from("<Q", data, block * 4096)[0] for data in files)
            assert held >= number, f"block {block} lost write {number}, it holds {held}"


def test_added_exports_are_there_at_once_and_names_are_unique(served, other):
    served.table.add("web01", opened(other), SIZE, description="a disk")
    assert served.client("web01").read(0, 512) == bytes(512)
    descriptor = opened(other)
    assert refused(served.table.add, "web01", descriptor, SIZE) == "export_exists"
    assert refused(served.table.add, "big", descriptor, SIZE + 1) == "too_small"
    assert refused(served.table.add, "n" * 4097, descriptor, SIZE) == "bad_name"
    os.close(descriptor)
    assert [row.name for row in served.table.list()] == ["", "web01"]


def test_descriptors_that_cannot_do_what_is_promised_are_refused(served, other, place):
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND):
        descriptor = os.open(other, flags)
        assert refused(served.table.add, "x", descriptor, SIZE) == "bad_descriptor"
        os.close(descriptor)
    directory = os.open(place, os.O_RDONLY)
    assert refused(served.table.add, "x", directory, 0, read_only=True) == "not_a_disk"
    os.close(directory)


def test_remove_returns_after_the_descriptor_is_closed(served, other):
    def held():
        return [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and target(link) == str(other)]

    def target(link):
        try:
            return str(link.readlink())
        except OSError:
            return ""

    served.table.add("web01", opened(other), SIZE)
    clients = [served.client("web01") for _ in range(20)]
    clients[0].ask(Command.WRITE, 0, 512, b"x" * 512)
    assert held()
    last = served.table.remove("web01")
    assert not held()
    assert last.bytes_written == 512 and last.failed == 0 and last.connections == 0
    assert all(client.hears_the_end() for client in clients)
    assert refused(served.table.remove, "web01") == "unknown_export"


def test_remove_under_load_loses_no_answered_write(served, image):
    writers = [Writer(served, 16 * number, 16) for number in range(6)]
    for writer in writers:
        writer.start()
    until(lambda: all(len(writer.answered) == 16 for writer in writers))
    served.table.remove("")
    for writer in writers:
        writer.join(10)
        assert not writer.is_alive()
        assert writer.failure in (0, Error.ESHUTDOWN)
    check(writers, image)


def test_retarget_under_load_loses_no_write_and_fails_none(served, image, place):
    """Each write is in the file that was served when it began; the last file has all that were sent at the end."""
    image.write_bytes(bytes(SIZE))
    files = [image]
    writers = [Writer(served, 16 * number, 16) for number in range(4)]
    for writer in writers:
        writer.start()
    generations = [served.export().generation]
    for number in range(4):
        before = served.export().requests
        until(lambda before=before: served.export().requests > before + 100)
        files.append(place / f"fresh{number}")
        files[-1].write_bytes(bytes(SIZE))
        generations.append(served.table.retarget("", opened(files[-1]), SIZE).generation)
    before = served.export().requests
    until(lambda: served.export().requests > before + 200)
    for writer in writers:
        writer.ended.set()
        writer.join(10)
        assert not writer.is_alive() and writer.failure == 0
    check(writers, *files)
    check(writers, files[-1])
    assert generations == sorted(set(generations))


def test_a_request_ends_on_the_generation_it_began_with(served, image, other):
    """Half a WRITE is on its way when the retarget comes: it goes where it began, the next one to the new file."""
    client = served.client()
    client.send(Command.WRITE, 0, MIB, b"a" * 1000)
    time_of_retarget = threading.Thread(target=served.table.retarget, args=("", opened(other), SIZE))
    time_of_retarget.start()
    client.say(b"a" * (MIB - 1000))
    assert client.reply()[0].error == 0
    time_of_retarget.join(10)
    assert client.ask(Command.WRITE, MIB, 512, b"b" * 512) == 0
    begun_on_old = image.read_bytes()[:MIB] == b"a" * MIB
    begun_on_new = other.read_bytes()[:MIB] == b"a" * MIB
    assert begun_on_old != begun_on_new
    assert other.read_bytes()[MIB : MIB + 512] == b"b" * 512


def test_retarget_keeps_idle_clients_and_wants_the_same_size(served, image, place):
    clients = [served.client() for _ in range(10)]
    small = place / "small"
    small.write_bytes(bytes(SIZE // 2))
    descriptor = opened(small)
    assert refused(served.table.retarget, "", descriptor, SIZE // 2) == "size_differs"
    assert refused(served.table.retarget, "nobody", descriptor, SIZE // 2) == "unknown_export"
    os.close(descriptor)
    fresh = place / "fresh"
    fresh.write_bytes(b"n" * SIZE)
    served.table.retarget("", opened(fresh), SIZE)
    assert {client.read(0, 4) for client in clients} == {b"nnnn"}


def test_d6_a_client_that_takes_nothing_is_hung_up_on_after_two_seconds_and_counted(served):
    client = served.client()
    client.say(*(client.pack(Command.READ, 0, SIZE, cookie=n) for n in range(16)))
    until(lambda: served.export().connections == 1)
    client.hear(1)
    begun = time.monotonic()
    last = served.table.remove("")
    assert 1.5 < time.monotonic() - begun < 6
    assert last.stalled_clients == 1


def on_the_way(client):
    """Bytes that wait in the client's socket."""
    return int.from_bytes(fcntl.ioctl(client.socket.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def knows_the_default(served):
    with served.client(enter=False) as client:
        client.greet()
        return client.option(Option.INFO, bytes(6))[-1][0] == ACK


def more_than_the_socket_takes(served):
    """A client that is owed an answer of which the last 32 KiB, or less, do not go into its socket."""
    with served.client(structured=False) as first:
        first.send(Command.READ, 0, SIZE)
        looks = [0, -1]

        def rests():
            looks.append(on_the_way(first))
            return looks[-1] == looks[-2] > 0

        until(rests)
        length = looks[-1] + 16 * KIB
    client = served.client(structured=False)
    client.send(Command.READ, 0, length)
    until(lambda: on_the_way(client) >= looks[-1] * 0.9)
    return client, length


def test_an_answer_that_is_taken_late_is_whole_though_the_export_goes(served, image):
    client, length = more_than_the_socket_takes(served)
    remover = threading.Thread(target=served.table.remove, args=("",))
    remover.start()
    until(lambda: not knows_the_default(served))
    assert client.hear(16 + length)[16:] == image.read_bytes()[:length]
    remover.join(10)
    assert not remover.is_alive()


def test_d6_a_client_that_leaves_the_end_of_an_answer_is_hung_up_on_and_counted(served):
    more_than_the_socket_takes(served)
    begun = time.monotonic()
    last = served.table.remove("")
    assert 1.5 < time.monotonic() - begun < 6
    assert last.stalled_clients == 1


def test_d6_a_client_that_stops_inside_a_write_does_not_hold_a_retarget(served, other):
    client = served.client()
    client.send(Command.WRITE, 0, MIB, b"a" * 1000)
    idle = served.client()
    assert len(idle.read(0, 512)) == 512
    begun = time.monotonic()
    served.table.retarget("", opened(other), SIZE)
    assert time.monotonic() - begun < 6
    assert client.hears_the_end()
    assert idle.read(0, 512) == bytes(512)


def test_a_slow_reader_that_does_take_data_is_not_hung_up_on(served, image):
    client = served.client(structured=False)
    client.say(*(client.pack(Command.READ, 0, SIZE, cookie=n) for n in range(2)))
    remover = threading.Thread(target=served.table.remove, args=("",))
    client.hear(16)
    remover.start()
    data = bytearray()
    while len(data) < SIZE:
        data += client.hear(min(MIB, SIZE - len(data)))
        time.sleep(random.choice((0.1, 0.3)))
    assert data == image.read_bytes()
    client.socket.close()
    remover.join(10)
    assert not remover.is_alive()


def test_operations_on_one_export_exclude_each_other(served, other):
    client = served.client()
    client.send(Command.WRITE, 0, MIB, b"a" * 1000)
    until(lambda: served.export().connections == 1)

    def retarget():
        descriptor = opened(other)
        try:
            served.table.retarget("", descriptor, SIZE)
        except ExportRefused as error:
            os.close(descriptor)
            return error.code
        return "done"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(lambda _: retarget(), range(2)))
    assert outcomes in (["done", "export_busy"], ["done", "done"])
