"""The faults that other NBD servers had, tried on ours (docs/NBD.md lists them); those of clients are in tests/nbd."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from hostile_target import ENDS_WITHIN, FLAGS, MIB, SIZE, go, option, started
from omavol import _wire
from omavol.nbd.wire import Command, Error, Option, OptionError
from raw_client import ACK, META_CONTEXT, Raw, until

TIB = 1 << 40
# What no thread can block, and what the C library keeps for itself (signal(7), nptl(7)).
UNBLOCKABLE = (signal.SIGKILL, signal.SIGSTOP, 32, 33)


def asked(client: Raw, name: bytes = b"", *queries: bytes) -> bytes:
    """The data of LIST_ and SET_META_CONTEXT."""
    parts = [struct.pack(">I", len(query)) + query for query in queries]
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + b"".join(parts)


def greeted(target) -> Raw:
    client = target.client(enter=False)
    client.hear(18)
    client.say(FLAGS)
    return client


def test_a_request_longer_than_the_buffer(target):
    """CVE-2005-3534, nbd-server: a request of a length above its buffer overflowed it."""
    for structured in (True, False):
        with target.client(structured=structured) as client:
            for length in (MIB + 1, SIZE, SIZE + 1, 1 << 25, (1 << 25) + 1, 2**31, 2**32 - 1):
                client.send(Command.READ, 0, length)
                simple = 0 if structured else length
                (*_, last) = client.reply(simple)
                assert bool(last.error) is (length > SIZE)
            client.send(Command.WRITE, 0, 2**32 - 1, b"x" * 4096)
            assert client.hears_the_end()


def test_a_name_matches_whole_or_not_at_all(tmp_path):
    """CVE-2013-6410, nbd-server: addresses were matched by their beginning. We match names; there are no addresses."""
    machine_exports = {b"web01": (SIZE, 1, 0, 0, 0, b"")}
    for name in (b"", b"w", b"web0", b"web011", b"web01 ", b"Web01", b"web01/"):
        machine = _wire.ServerMachine(machine_exports)
        machine.step(b"")
        todo, _, out = machine.step(
            FLAGS + option(Option.GO, 6 + len(name), struct.pack(">I", len(name)) + name + b"\0\0")
        )
        assert todo == 0 and struct.unpack_from(">I", out, 12)[0] == OptionError.UNKNOWN


def test_a_client_that_leaves_in_negotiation_ends_itself_alone(target):
    """CVE-2013-7441, nbd-server: the root process ended with a client that left in negotiation."""
    connections = target.entries("fd")
    for cut in range(0, 40, 3):
        with target.client(enter=False) as client:
            client.say((FLAGS + option(Option.GO, 6, go("")))[:cut])
    until(lambda: target.entries("fd") <= connections)


def test_signals_that_come_in_a_heap_are_taken_by_one_thread_in_its_own_time(target):
    """CVE-2015-0847, nbd-server: signal handlers called what is not safe in one.

    Ours has none that runs in C: workers block every signal, the main thread waits for those that end the server.
    """
    for thread in Path(f"/proc/{target.process.pid}/task").iterdir():
        if int(thread.name) == target.process.pid:
            continue  # the one that waits for signals
        line = next(line for line in (thread / "status").read_text().splitlines() if line.startswith("SigBlk"))
        blocked = int(line.split()[1], 16)
        assert all(blocked >> (number - 1) & 1 for number in signal.valid_signals() if number not in UNBLOCKABLE)
    with target.client() as client:
        for _ in range(200):
            client.send(Command.READ, 0, MIB)
            for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGPIPE):
                os.kill(target.process.pid, number)
            client.reply()


def test_signals_that_end_it_may_come_twice():
    """CVE-2015-0847, the other half: many of them at once, while clients are served."""
    with started("file") as target, target.client() as client:
        client.say(client.pack(Command.READ, 0, SIZE) * 8)
        for _ in range(20):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                with suppress(ProcessLookupError):
                    os.kill(target.process.pid, number)
        assert target.end() < ENDS_WITHIN


@pytest.mark.parametrize("number", [Option.GO, Option.INFO, Option.SET_META_CONTEXT, Option.LIST_META_CONTEXT])
def test_a_name_of_4_gib(target, number):
    """CVE-2022-26495, nbd-server: a name length of 2^32-1, plus one, was an allocation of nothing."""
    with greeted(target) as client:
        assert client.option(Option.STRUCTURED_REPLY)[-1][0] == ACK
        for length in (2**32 - 1, 2**32 - 2, 2**31, 4097):
            answer = client.option(number, struct.pack(">I", length) + b"name" + bytes(8))
            assert answer[-1][0] == OptionError.INVALID
        assert client.option(Option.GO, go(""))[-1][0] == ACK


def test_a_name_longer_than_what_holds_it(target):
    """CVE-2022-26496, nbd-server: a name longer than its buffer went over the stack."""
    for length in (4097, 8192, 16300, 16384, MIB - 64):
        with greeted(target) as client:
            data = struct.pack(">I", length) + b"n" * length + bytes(2)
            assert client.option(Option.GO, data)[-1][0] in (OptionError.INVALID, OptionError.TOO_BIG)
            assert client.option(Option.GO, go(""))[-1][0] == ACK


def test_unexpected_data_in_negotiation(target):
    """CVE-2017-7539, qemu: data where none was expected, mostly with options that take none, ended the server."""
    with greeted(target) as client:
        for number in (Option.LIST, Option.STRUCTURED_REPLY, Option.STARTTLS, Option.EXTENDED_HEADERS, 77):
            for size in (1, 1000, 16384, 65536):
                assert client.option(number, b"x" * size)[-1][0] >= 2**31
        assert client.option(Option.INFO, go(""))[-1][0] == ACK
        answers = client.option(Option.ABORT, b"x" * 1000)
        assert answers == [(ACK, b"")]


def test_a_client_that_leaves_between_request_and_answer_of_negotiation(target):
    """CVE-2017-9524, qemu: a client that had gone when its answer was to be sent ended the server."""
    for _ in range(50):
        with target.client(enter=False) as client, suppress(ConnectionError):
            client.say(FLAGS, option(Option.LIST, 0) * 30, option(Option.GO, 6, go("")))


def test_a_name_of_4096_bytes(target):
    """CVE-2017-15118, qemu: the longest name that the protocol allows, into 256 bytes of stack."""
    with greeted(target) as client:
        for name in (b"n" * 4096, "\u20ac".encode() * 1365):
            data = struct.pack(">I", len(name)) + name + struct.pack(">HHHH", 3, 1, 2, 3)
            assert client.option(Option.INFO, data)[-1][0] == OptionError.UNKNOWN
            assert client.option(Option.GO, data)[-1][0] == OptionError.UNKNOWN
        client.say(option(Option.EXPORT_NAME, 4096, b"n" * 4096))
        assert client.hears_the_end()


def test_options_of_4_gib_are_not_read_to_their_end(target):
    """CVE-2017-15119, qemu: it read and dropped whatever length an option said, without a pause."""
    for number in (Option.LIST, Option.GO, 77):
        with greeted(target) as client:
            client.say(option(number, 2**32 - 1))
            with suppress(ConnectionResetError):
                while client.socket.recv(4096):
                    pass


def test_a_long_name_is_not_in_the_error_text(target):
    """CVE-2020-10761, qemu: the name, echoed in the message, made it longer than a string may be: an assertion."""
    name = b"%s%n" * 1024
    with greeted(target) as client:
        ((kind, text),) = client.option(Option.GO, struct.pack(">I", len(name)) + name + bytes(2))
        assert kind == OptionError.UNKNOWN
        assert len(text) < 100 and b"%" not in text


def test_clients_that_are_still_there_at_the_end():
    """CVE-2024-7409, qemu: the server was freed under connections in negotiation and after it."""
    with started("file") as target, greeted(target), target.client(enter=False), target.client() as busy:
        busy.say(busy.pack(Command.READ, 0, SIZE) * 50)
        assert target.end() < ENDS_WITHIN


def test_no_disk_is_opened_for_a_client_that_has_not_negotiated(target):
    """CVE-2019-14850, nbdkit: the back end was opened before the handshake, so a thousand connects cost a thousand.

    Ours is opened once, at the start: a connection costs its own descriptor.
    """
    links = Path(f"/proc/{target.process.pid}/fd")

    def opened() -> int:
        return sum(link.readlink() == target.image for link in links.iterdir())

    assert opened() == 1
    with target.client(enter=False) as one, target.client(enter=False) as two:
        one.hear(18)
        two.hear(18)
        assert opened() == 1


def test_options_in_any_order(target):
    """CVE-2019-14851, nbdkit: INFO, or contexts, in an order it had not thought of, ended it by an assertion."""
    name, query = go(""), b"base:allocation"
    with greeted(target) as client:
        contexts = asked(client, b"", query)
        assert client.option(Option.SET_META_CONTEXT, contexts)[-1][0] == OptionError.INVALID
        for _ in range(2):
            assert client.option(Option.INFO, name)[-1][0] == ACK
            assert client.option(Option.INFO, go("other"))[-1][0] == OptionError.UNKNOWN
            assert client.option(Option.GO, go("other"))[-1][0] == OptionError.UNKNOWN
            assert client.option(Option.STRUCTURED_REPLY)[-1][0] == ACK
            answers = client.option(Option.SET_META_CONTEXT, contexts)
            assert [kind for kind, _ in answers] == [META_CONTEXT, ACK]
            assert client.option(Option.LIST)[-1][0] in (ACK, OptionError.POLICY)
        assert client.option(Option.GO, name)[-1][0] == ACK
        assert client.read(0, MIB) == target.content()[:MIB]


@pytest.fixture
def large(tmp_path):
    """A sparse disk of 1 TiB with a byte in its middle; gives its socket."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(TIB)
        os.pwrite(file.fileno(), b"x", TIB // 2)
    path = tmp_path / "s"
    argv = [OMAVOL, "serve", "--unix", str(path), str(disk)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield path
        process.terminate()
        assert process.wait(20) == 0


def status(client: Raw, offset: int, length: int, flags: int = 0) -> list[tuple[int, int]]:
    client.send(Command.BLOCK_STATUS, offset, length, flags=flags)
    (chunk,) = client.reply()
    assert not chunk.error, Error.of(chunk.error)
    return list(struct.iter_unpack(">II", chunk.payload[4:]))


@pytest.mark.parametrize("one", [0, 8])
def test_block_status_of_the_largest_length(large, one):
    """CVE-2025-47711, nbdkit: an extent of 2^32-1 or more, where the length was rounded, ended it by an assertion."""
    with Raw(large, contexts=True) as client:
        for offset in (0, 1, 511, 4096, TIB - 2**32 + 1, TIB // 2 - 2**31):
            extents = status(client, offset, 2**32 - 1, one)
            assert extents and all(length for length, _ in extents)
            assert sum(length for length, _ in extents[:-1]) < 2**32 - 1
            if one:
                assert len(extents) == 1 and extents[0][0] <= 2**32 - 1


def test_block_status_does_not_overflow_32_bits(large):
    """CVE-2025-47712, nbdkit: a length near 2^32 at an offset off the block wrapped to 0: an endless answer."""
    with Raw(large, contexts=True) as client:
        for length in range(2**32 - 513, 2**32, 64):
            for offset in (1, 513, 4095):
                assert 0 < sum(part for part, _ in status(client, offset, length)) <= TIB - offset
        assert client.ask(Command.BLOCK_STATUS, TIB - 1, 2**32 - 1) == Error.EINVAL


def test_flags_out_of_place(target):
    """Seen in nbdkit 1.48: FAST_ZERO that it had not offered ended it by an assertion (X11, X42)."""
    with target.client() as client:
        for command in (Command.READ, Command.FLUSH, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES, 9):
            for bit in range(16):
                length = 0 if command in (Command.FLUSH, Command.TRIM, Command.WRITE_ZEROES) else 512
                client.ask(command, 0, length, flags=1 << bit)
        assert client.read(0, MIB) == target.content()[:MIB]
