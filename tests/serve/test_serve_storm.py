"""Everything at once, for a few seconds: clients of every temper while exports come, move and go."""

import contextlib
import os
import random
import socket
import threading
import time

import pytest

from omavol.nbd.wire import Command
from omavol.serve.errors import ExportRefused
from omavol.serve.limits import Limits
from raw_client import Raw, until

MIB = 1 << 20
SIZE = 4 * MIB
SECONDS = 3.0
NAMES = ("a", "b", "c")


def polite(client, luck):
    for _ in range(luck.randrange(20)):
        length = luck.choice((512, 4096, 65536, 65537, MIB))
        if luck.random() < 0.5:
            client.send(Command.READ, luck.randrange(SIZE - length), length)
        else:
            client.send(Command.WRITE, luck.randrange(SIZE - length), length, bytes(length), flags=luck.choice((0, 1)))
        client.reply()
    client.send(Command.DISC)


def rude(client, luck):
    """Requests in a heap, part of the answers taken, and gone."""
    client.say(*(client.pack(Command.READ, 0, luck.choice((4096, MIB)), cookie=n) for n in range(luck.randrange(64))))
    with contextlib.suppress(TimeoutError):
        client.socket.settimeout(0.01)
        client.hear(luck.randrange(1, 3 * MIB))


def broken(client, luck):
    client.send(Command.WRITE, 0, MIB, bytes(luck.randrange(MIB)))


def bystander(client, luck):
    time.sleep(luck.random() / 20)


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_everything_at_once_leaves_nothing_behind(serve, place, image, pki, secured):
    limits = Limits(connections=40, workers=8, handshake=1.0)
    served = serve(default=image, limits=limits, tls=pki if secured else None)
    descriptors = len(list(os.scandir("/proc/self/fd")))
    over = time.monotonic() + SECONDS
    failures = []

    def clients(seed):
        luck = random.Random(seed)
        while time.monotonic() < over:
            try:
                client = Raw(served.path, enter=False, tls=served.tls)
            except OSError as error:
                failures.append(error)
                return
            # The export may be gone, the server full: what a client then sees is an end, never a wait.
            with contextlib.suppress(OSError, AssertionError), client:
                if luck.random() < 0.1:
                    client.say(os.urandom(luck.randrange(64)))
                    client.socket.shutdown(socket.SHUT_WR)
                    continue
                client.enter(luck.choice(("", *NAMES)), contexts=luck.random() < 0.5)
                luck.choice((polite, polite, rude, broken, bystander))(client, luck)

    def owner(name):
        luck = random.Random(name)
        while time.monotonic() < over:
            file = os.open(image, os.O_RDWR)
            try:
                served.table.add(name, file, SIZE)
                for _ in range(luck.randrange(3)):
                    file = os.open(image, os.O_RDWR)
                    served.table.retarget(name, file, SIZE)
                    assert served.table.list()
                served.table.remove(name)
            except ExportRefused as error:
                os.close(file)
                failures.append(error)

    threads = [threading.Thread(target=clients, args=(seed,)) for seed in range(12)]
    threads += [threading.Thread(target=owner, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures
    until(lambda: served.table.connections == 0)
    assert [row.name for row in served.table.list()] == [""]
    assert served.export().connections == 0
    assert len(list(os.scandir("/proc/self/fd"))) == descriptors
    assert served.client().read(0, SIZE) == image.read_bytes()
