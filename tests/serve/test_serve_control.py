"""The control socket: descriptors in, exports out, one answer a command, whatever is sent."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from omavol.nbd.wire import Command, Error, Option, OptionError
from omavol.serve.client import ControlClient
from omavol.serve.errors import ControlFailed, ControlRefused
from raw_client import SERVER, Raw

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def server(command, place):
    return command("--unix", place / "s", "--control", place / "c")


@pytest.fixture
def control(server, place):
    with ControlClient(place / "c", timeout=20) as client:
        yield client


@pytest.fixture
def opened(image):
    """A function that opens the image; what it gives is closed at the end."""
    descriptors = []

    def open_image(path=image, flags=os.O_RDWR):
        descriptors.append(os.open(path, flags))
        return descriptors[-1]

    yield open_image
    for descriptor in descriptors:
        os.close(descriptor)


def refusal(call, *arguments, **more):
    with pytest.raises(ControlRefused) as caught:
        call(*arguments, **more)
    return caught.value.code


def test_it_says_who_it_is(control, place):
    hello = control.hello()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert hello.incarnation.startswith(boot) and hello.exports == []
    assert hello.listeners == [f"nbd+unix:///?socket={place}/s"]


def test_another_life_is_another_incarnation(command, place):
    lives = set()
    for number in range(2):
        server = command("--unix", place / f"s{number}", "--control", place / f"c{number}")
        with ControlClient(place / f"c{number}") as client:
            lives.add(client.hello().incarnation)
        assert server.stop() == 0
    assert len(lives) == 2


def test_a_descriptor_becomes_an_export_and_goes_again(control, opened, place, image):
    done = control.add("0123abcd", opened(), SIZE, description="web01")
    assert done.export.generation > 0 and done.incarnation == control.hello().incarnation
    with Raw(place / "s", "0123abcd") as client:
        assert client.ask(Command.WRITE, 0, 512, b"c" * 512) == 0
        assert client.ask(Command.FLUSH) == 0
        assert control.list().exports[0].connections == 1
        last = control.remove("0123abcd").export
        assert client.hears_the_end()
    assert (last.bytes_written, last.flushes, last.failed) == (512, 1, 0)
    assert image.read_bytes()[:512] == b"c" * 512
    assert control.list().exports == []


def test_what_may_change_a_byte_is_counted_and_nothing_else(control, opened, place):
    """By it the daemon knows that a session changed nothing: a client that looked and left tears no volume."""
    control.add("0123abcd", opened(), SIZE)
    with Raw(place / "s", "0123abcd") as client:
        assert client.ask(Command.READ, 0, 512) == 0
        assert client.ask(Command.WRITE, SIZE, 512, b"c" * 512) == Error.ENOSPC
        assert client.ask(Command.FLUSH) == 0
        client.send(Command.DISC)
        assert client.hears_the_end()
    assert control.list().exports[0].changes == 0
    with Raw(place / "s", "0123abcd") as client:
        for command in (Command.TRIM, Command.WRITE_ZEROES):
            assert client.ask(command, 0, 4096) == 0
        assert client.ask(Command.WRITE, 0, 512, b"c" * 512) == 0
    last = control.remove("0123abcd").export
    assert (last.changes, last.bytes_written) == (3, 512)


def test_retarget_moves_to_another_descriptor(control, opened, place):
    fresh = place / "fresh"
    fresh.write_bytes(b"f" * SIZE)
    before = control.add("disk", opened(), SIZE).export.generation
    with Raw(place / "s", "disk") as client:
        assert control.retarget("disk", opened(fresh), SIZE).export.generation > before
        assert client.read(0, 4) == b"ffff"


def test_h24_names_are_secrets(control, opened, place):
    control.add("secret", opened(), SIZE)
    with Raw(place / "s", enter=False) as client:
        client.hear(18)
        client.say(b"\0\0\0\3")
        assert [kind for kind, _ in client.option(Option.LIST)] == [OptionError.POLICY]
        assert SERVER not in [kind for kind, _ in client.option(Option.LIST)]


def test_refusals_have_codes(control, opened, place):
    control.add("disk", opened(), SIZE)
    directory = opened(place, os.O_RDONLY)
    cases = {
        "export_exists": (control.add, "disk", opened(), SIZE),
        "too_small": (control.add, "big", opened(), SIZE + 1),
        "bad_name": (control.add, "n\0", opened(), SIZE),
        "bad_descriptor": (control.add, "x", opened(flags=os.O_RDONLY), SIZE),
        "unknown_export": (control.remove, "nobody"),
        "size_differs": (control.retarget, "disk", opened(), SIZE - 1),
    }
    for code, (call, *arguments) in cases.items():
        assert refusal(call, *arguments) == code
    assert refusal(control.add, "x", directory, 0, read_only=True) == "not_a_disk"
    assert [export.name for export in control.list().exports] == ["disk"]


def descriptors_of(pid):
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def talk(place, packet, descriptors=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(20)
        peer.connect(str(place / "c"))
        socket.send_fds(peer, [packet], descriptors)
        return json.loads(peer.recv(1 << 20))


NONSENSE = [
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"command":"format"}',
    b'{"command":"add"}',
    b'{"command":"add","name":"x","size":-1}',
    b'{"command":"add","name":"x","size":4096}',
    b'{"command":"remove","name":7}',
]


@pytest.mark.parametrize("packet", NONSENSE)
def test_nonsense_is_refused_in_a_line(server, place, packet):
    answer = talk(place, packet)
    assert (answer["answer"], answer["code"]) == ("refused", "bad_request") and answer["detail"]


def test_descriptors_nobody_asked_for_are_closed(server, control, opened, place):
    count = descriptors_of(server.process.pid)
    for _ in range(20):
        assert talk(place, b'{"command":"hello"}', [opened(), opened()])["code"] == "bad_request"
        assert talk(place, b"{", [opened()])["code"] == "bad_request"
        assert refusal(control.add, "big", opened(), SIZE + 1) == "too_small"
    assert descriptors_of(server.process.pid) <= count + 1


def test_the_socket_is_for_its_owner_alone(server, place):
    assert stat.S_IMODE((place / "c").stat().st_mode) == 0o600


def test_the_client_says_when_nobody_answers(place):
    with pytest.raises(ControlFailed):
        ControlClient(place / "nobody")


def test_it_needs_no_privileges_and_outlives_its_callers(command, place, image):
    """Root binds and becomes nobody; what only root can open is served from the descriptor that was handed in."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    image.chmod(0o600)
    server = command("--unix", place / "s", "--control", place / "c", "--user", "nobody")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status
    with ControlClient(place / "c") as control, image.open("r+b") as file:
        control.add("disk", file.fileno(), SIZE)
    with Raw(place / "s", "disk") as client:
        assert client.read(0, 512) == image.read_bytes()[:512]
    assert server.stop() == 0


FAIL_POINTS = ["serve.export-added", "serve.export-removing", "serve.write-received", "serve.write-done"]


@pytest.mark.parametrize("name", [*FAIL_POINTS, "serve.before-flush"])
def test_it_dies_at_its_named_places(command, place, image, opened, monkeypatch, name):
    log = place / "log"
    monkeypatch.setenv("OMA_FAILPOINT", name)
    monkeypatch.setenv("OMA_FAILPOINT_LOG", str(log))
    server = command("--unix", place / "s", "--control", place / "c")
    with ControlClient(place / "c") as control:
        try:
            control.add("disk", opened(), SIZE)
            with Raw(place / "s", "disk") as client:
                client.ask(Command.WRITE, 0, 512, b"p" * 512)
                client.ask(Command.FLUSH)
            control.remove("disk")
        except (ControlFailed, OSError):
            pass
    assert server.process.wait(20) == -9
    assert log.read_text().splitlines() == [name]
    assert (image.read_bytes()[:512] == b"p" * 512) == (name not in ("serve.export-added", "serve.write-received"))


def test_a_control_server_that_begins_with_paths_keeps_no_names_secret(command, place, image):
    server = command("--unix", place / "s", "--control", place / "c", f"web01={image}")
    assert server.uris == [f"nbd+unix:///web01?socket={place}/s"]
    with Raw(place / "s", enter=False) as client, ControlClient(place / "c") as control:
        client.hear(18)
        client.say(b"\0\0\0\3")
        assert [kind for kind, _ in client.option(Option.LIST)] == [SERVER, 1]
        assert [export.name for export in control.list().exports] == ["web01"]
        assert control.list().limits["connections"] > 0
