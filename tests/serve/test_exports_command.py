"""`omavol exports`: the live table from the command line, as an operator uses it."""

import hashlib
import json
import subprocess
import threading
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from omavol.nbd.wire import Command
from raw_client import Raw

MIB = 1 << 20


def exports(*arguments, status=0):
    """What it prints, and on a failure the one line on stderr."""
    done = subprocess.run([OMAVOL, "exports", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done
    if status:
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    return done.stdout if not status else done.stderr


@pytest.fixture
def control(command, place):
    """A server with nothing in its table yet; its control socket."""
    command("--unix", place / "s", "--control", place / "control")
    return place / "control"


def test_an_export_is_added_listed_and_removed(control, place, image):
    assert exports("add", "web01", image, "-r", "--description", "a disk", "--control", control) == "web01: is served\n"
    with Raw(place / "s", "web01") as client:
        assert client.read(0, 512) == image.read_bytes()[:512]
        shown = exports("list", "--control", control).splitlines()
        assert shown[0].split()[:3] == ["NAME", "SIZE", "ACCESS"]
        assert shown[1].split()[:5] == ["web01", "4.0", "MiB", "read", "1"]
        row = json.loads(exports("list", "--json", "--control", control))["exports"][0]
        assert (row["name"], row["size"], row["connections"], row["bytes_read"]) == ("web01", 4 * MIB, 1, 512)
    assert exports("remove", "web01", "--control", control) == "web01: is not served any more\n"
    assert json.loads(exports("list", "--json", "--control", control))["exports"] == []


def test_remove_returns_only_when_the_descriptor_is_closed(command, place, image):
    server = command("--unix", place / "s", "--control", place / "c")
    exports("add", "a", image, "--control", place / "c")
    exports("remove", "a", "--control", place / "c")
    held = [str(entry.readlink()) for entry in Path(f"/proc/{server.process.pid}/fd").iterdir()]
    assert str(image) not in held


def test_a_part_of_a_file_is_served(control, place, image):
    exports("add", "part", image, "--size", MIB, "--control", control)
    with Raw(place / "s", "part") as client:
        assert client.size == MIB


def test_a_retarget_under_load_loses_no_write(control, place):
    """Writes go on while two files take turns under the export: each is answered, and is in one of the two."""
    files = [place / "one", place / "two"]
    for file in files:
        file.write_bytes(bytes(4 * MIB))
    exports("add", "a", files[0], "--control", control)
    written: dict[int, bytes] = {}
    over = threading.Event()

    def write() -> None:
        with Raw(place / "s", "a") as client:
            number = 0
            while not over.is_set() or number < 64:
                block = number % 1024
                data = hashlib.sha256(number.to_bytes(8, "big")).digest() * 128
                assert client.ask(Command.WRITE, block * 4096, 4096, data) == 0
                written[block] = data
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    for turn in range(1, 6):
        exports("retarget", "a", files[turn % 2], "--control", control)
    over.set()
    writer.join(60)
    assert not writer.is_alive() and written
    contents = [file.read_bytes() for file in files]
    for block, data in written.items():
        assert data in {content[block * 4096 : block * 4096 + 4096] for content in contents}


def test_filters_are_put_before_a_live_export_and_taken_away(control, place, image):
    """A pause holds a read until it is taken away."""
    exports("add", "a", image, "--control", control)
    with Raw(place / "s", "a") as client:
        assert exports("filter", "a", "pause", "--control", control) == "a: filters: pause\n"
        client.send(Command.READ, 0, 512)
        assert json.loads(exports("list", "--json", "--control", control))["exports"][0]["filters"] == ["pause"]
        client.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)
        client.socket.settimeout(20)
        assert exports("filter", "a", "--control", control) == "a: filters: none\n"
        assert client.reply()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "a", "{place}/nothing"], "cannot open"),
        (["add", "a", "{place}"], "directory"),
        (["add", "taken", "{image}"], "served already"),
        (["add", "n", "{image}", "--size", "99999999999"], "fewer than"),
        (["add", "n" * 4097, "{image}"], "4096"),
        (["retarget", "a", "{image}"], "no export has that name"),
        (["retarget", "taken", "{small}"], "size"),
        (["filter", "taken", "delay:soon"], "filter"),
        (["filter", "a", "pause"], "no export has that name"),
        (["remove", "a"], "no export has that name"),
    ],
)
def test_what_is_refused_is_one_line(control, place, image, arguments, said):
    (place / "small").write_bytes(bytes(512))
    exports("add", "taken", image, "--control", control)
    filled = [argument.format(place=place, image=image, small=place / "small") for argument in arguments]
    assert said in exports(*filled, "--control", control, status=1)


def test_no_server_at_the_socket_is_one_line(place):
    assert "no server at" in exports("list", "--control", place / "nothing", status=1)


def test_points_are_taken_listed_and_forgotten(control, image):
    exports("add", "a", image, "--control", control)
    assert exports("point", "add", "a", "monday", "--control", control) == "a: point monday is taken\n"
    assert "already" in exports("point", "add", "a", "monday", "--control", control, status=1)
    assert "no name of a point" in exports("point", "add", "a", "x:y", "--control", control, status=1)
    exports("point", "add", "a", "tuesday", "--control", control)
    assert exports("point", "list", "a", "--control", control) == "monday\ntuesday\n"
    assert exports("point", "drop", "a", "monday", "--control", control) == "a: point monday is forgotten\n"
    assert json.loads(exports("list", "--json", "--control", control))["exports"][0]["points"] == ["tuesday"]
    assert "no such point" in exports("point", "drop", "a", "monday", "--control", control, status=1)


def test_a_retarget_to_the_same_content_keeps_the_points(control, place, image):
    (place / "moved").write_bytes(image.read_bytes())
    exports("add", "a", image, "--control", control)
    exports("point", "add", "a", "monday", "--control", control)
    uri = f"nbd+unix:///a?socket={place}/s"
    for same, answer in ((("--same-content",), "unchanged"), ((), "changed")):
        exports("retarget", "a", place / "moved", *same, "--control", control)
        shown = subprocess.run(
            [OMAVOL, "map", "--context", "x-oma:changed-since:monday", uri], capture_output=True, text=True, timeout=60
        )
        assert shown.stdout.split()[3:] == [answer]
