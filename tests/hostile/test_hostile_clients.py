"""Clients in bad faith against a running server of every flavour: nobody else may notice (H11, H54, X14, X54, D5)."""

from __future__ import annotations

import itertools
import random
import socket
import struct
from contextlib import ExitStack, suppress

import pytest

from hostile_target import ENDS_WITHIN, FLAGS, FLAVOURS, MIB, SIZE, STAGES, go, option
from omavol.nbd.wire import Command, Option
from raw_client import until

COMMANDS = [*Command, 9, 0xFFFF]


def leave(client, how):
    if how == "half-close":
        client.socket.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while client.socket.recv(1 << 20):
                pass
    client.socket.close()


def no_change(client, command, target, **more):
    """A request of any command that leaves every byte as it was."""
    payload = target.content()[:4096] if command == Command.WRITE else b""
    length = 0 if command in (Command.FLUSH, Command.DISC, Command.TRIM, Command.WRITE_ZEROES) else 4096
    return client.pack(command, 0, length, **more) + payload


@pytest.mark.parametrize("how", ["close", "half-close"])
def test_x54_clients_that_leave_at_any_stage(target, unharmed, how):
    for stage in list(STAGES.values()) * 4:
        client = target.client(enter=False)
        stage(client, target)
        leave(client, how)


def test_h54_h55_clients_that_fall_silent_at_every_stage(target, unharmed):
    with ExitStack() as stack:
        for stage in STAGES.values():
            for _ in range(3):
                stage(stack.enter_context(target.client(enter=False)), target)
        unharmed()


@pytest.mark.parametrize("stage", STAGES)
def test_x5_x6_garbage_at_any_stage(target, unharmed, stage):
    """Up to 64 KiB of noise; where a payload is awaited it is a payload, so the last bytes of the image may differ."""
    luck = random.Random(stage)
    for size in (1, 28, 4096, 65536):
        client = target.client(enter=False)
        STAGES[stage](client, target)
        with suppress(OSError):
            client.say(luck.randbytes(size))
            leave(client, luck.choice(("close", "half-close")))
        client.socket.close()


def test_h11_an_option_of_4_gib_ends_its_connection(target, unharmed):
    """It is neither allocated nor read to its end (CVE-2017-15119): the server closes first."""
    for number in (*Option, 4, 77, 0, 2**32 - 1):
        with target.client(enter=False) as client:
            client.greet()
            client.say(option(number, 2**32 - 1, b"x" * 4096))
            with suppress(ConnectionResetError):
                while client.socket.recv(1 << 20):
                    pass


@pytest.mark.parametrize("structured", [True, False])
def test_x10_requests_of_4_gib(target, unharmed, structured):
    """At offsets that overflow too; what is answered is an error, what is not ends this connection alone."""
    for command, offset in itertools.product(COMMANDS, (0, 1, SIZE, 2**63, 2**64 - 1)):
        with target.client(structured=structured) as client, suppress(ConnectionError):
            client.send(command, offset, 2**32 - 1)
            if command in (Command.WRITE, Command.DISC):
                assert client.hears_the_end()
                continue
            (reply,) = client.reply()
            assert reply.error
            assert client.read(0, 4096) == target.content()[:4096]


def test_a_flood_of_options_ends_its_connection(target, unharmed):
    """100,000 options that are all refused; then as many that are all granted. The replies are not read."""
    for data in (option(77, 0), option(Option.STRUCTURED_REPLY, 0), option(Option.LIST, 0)):
        with target.client(enter=False) as client, suppress(ConnectionError):
            client.greet()
            client.say(data * 100_000)
            raise AssertionError("all of it was taken")


def test_h55_a_thousand_connections_that_sleep(target, unharmed):
    with ExitStack() as stack:
        for number in range(1000):
            client = stack.enter_context(target.client(enter=number % 2 == 0))
            if number % 4 == 1:
                client.say(FLAGS)
        unharmed()


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_x54_a_client_that_leaves_with_replies_in_flight(target, unharmed, command, structured):
    """nbdkit aborts on this. Some replies are waiting for the socket, some requests for a worker, when it goes."""
    for _ in range(3):
        with target.client(structured=structured) as client:
            big = client.pack(Command.READ, 0, SIZE)
            with suppress(BlockingIOError, ConnectionError):
                client.socket.setblocking(False)
                client.say(big, *(no_change(client, command, target, cookie=n) for n in range(200)), big)


def test_d5_clients_that_ask_without_end_and_never_read(target, unharmed):
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(target.client())
            client.socket.setblocking(False)
            with suppress(BlockingIOError):
                for _ in range(10_000):
                    client.say(client.pack(Command.READ, 0, SIZE))
        unharmed()


def test_x14_refused_payloads_keep_step(target, unharmed):
    """Writes outside the export, their payload made of requests: none of these is obeyed."""
    with target.client() as client:
        trap = client.pack(Command.WRITE_ZEROES, 0, MIB)
        for offset in (SIZE, 2**64 - 4096, SIZE - 1):
            payload = (trap * 147)[:4096]
            assert client.ask(Command.WRITE, offset, 4096, payload)
        assert client.read(0, MIB) == target.content()[:MIB]


def test_x53_nothing_behind_disc_is_obeyed(target, unharmed):
    before = target.content()
    with target.client() as client:
        client.say(client.pack(Command.DISC), client.pack(Command.WRITE_ZEROES, 0, MIB))
        assert client.hears_the_end()
    assert target.content() == before


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_x56_sigterm_ends_it_whatever_its_clients_are_at(start, flavour):
    """nbdkit and qemu-nbd outlive SIGTERM while a client does not read (CVE-2024-7409: clients at shutdown)."""
    target = start(flavour)
    with ExitStack() as stack:
        for stage in STAGES.values():
            stage(stack.enter_context(target.client(enter=False)), target)
        late = stack.enter_context(target.client())
        late.say(late.pack(Command.READ, 0, SIZE) * 4)
        until(lambda: target.entries("fd") > len(STAGES))
        assert target.end() < ENDS_WITHIN
    assert not target.socket.exists()


def test_h6_h16_names_that_are_no_names(target, unharmed):
    """Too long, with NUL, not UTF-8, longer than the option that has them (CVE-2022-26496, CVE-2017-15118)."""
    for name in (b"n" * 4096, b"n" * 4097, b"n" * 16384, b"a\0b", b"\xff\xfe", b"\xed\xa0\x80"):
        with target.client(enter=False) as client:
            client.greet()
            for number in (Option.GO, Option.INFO):
                data = struct.pack(">I", len(name)) + name + bytes(2)
                assert client.option(number, data)[-1][0] >= 2**31
                assert client.option(number, struct.pack(">I", 2**32 - 1) + name[:10])[-1][0] >= 2**31
            assert client.option(Option.INFO, go(target.export))[-1][0] == 1
            with suppress(ConnectionError):  # the end may come before all is said
                client.say(option(Option.EXPORT_NAME, len(name), name))
            assert client.hears_the_end()
