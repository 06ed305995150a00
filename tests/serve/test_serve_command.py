"""`omavol serve` on the command line: what it prints, and one clear line for everything that is wrong."""

import os
import socket
import stat
import subprocess

import pytest
from benchmarks.servers import OMAVOL

from omavol.nbd.uri import parse
from omavol.serve.errors import AddressUnusable, BadAddress
from omavol.serve.listeners import TcpAddress, listen_tcp, listen_unix
from raw_client import Raw


def fails(*arguments, user=None):
    """The one line on stderr of a server that does not start."""
    ended = subprocess.run(
        [OMAVOL, "serve", *map(str, arguments)], capture_output=True, text=True, timeout=60, user=user
    )
    assert ended.returncode == 1, ended
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr and not ended.stdout
    return ended.stderr


def test_every_export_is_printed_at_every_listener(command, place, image):
    server = command("--unix", place / "a", "--unix", place / "b", "--tcp", "127.0.0.1:0", image, f"x={image}", lines=6)
    assert server.uris[:4] == [
        f"nbd+unix:///?socket={place}/a",
        f"nbd+unix:///x?socket={place}/a",
        f"nbd+unix:///?socket={place}/b",
        f"nbd+unix:///x?socket={place}/b",
    ]
    assert parse(server.uris[4]).port > 0
    assert server.stop() == 0
    assert not (place / "a").exists() and not (place / "b").exists()


def test_two_names_may_be_one_file_and_paths_may_hold_equals_signs(command, place, image):
    odd = place / "a=b"
    odd.write_bytes(b"=" * 512)
    server = command("--unix", place / "s", odd, f"web01={image}", lines=2)
    with Raw(place / "s") as client, Raw(place / "s", "web01") as named:
        assert client.read(0, 512) == b"=" * 512 and named.size == image.stat().st_size
    assert server.stop() == 0


def test_what_cannot_be_served_is_one_line(place, image):
    where = ("--unix", place / "s")
    assert "No such file" in fails(*where, place / "nothing")
    assert "directory" in fails(*where, place)
    assert "directory" in fails(*where, "--read-only", place)
    assert "given twice" in fails(*where, image, image)
    assert "given twice" in fails(*where, f"a={image}", f"a={image}")
    assert "neither a regular file nor a block device" in fails(*where, "-r", "/dev/zero")
    assert "4096" in fails(*where, f"{'n' * 4097}={image}")
    assert "how large" in fails(*where, "null:many")
    assert "give the files" in fails(*where)
    assert not (place / "s").exists()


def test_a_file_that_may_only_be_read_is_told_so(place, image):
    if os.geteuid() != 0:
        pytest.skip("only root can start it as a user who may not")
    place.chmod(0o755)
    image.chmod(0o644)
    socket_place = place / "open"
    socket_place.mkdir()
    socket_place.chmod(0o777)
    script = f"import os, sys; os.setuid(65534); os.execv({OMAVOL!r}, sys.argv[1:])"
    ended = subprocess.run(
        ["/usr/bin/python3", "-c", script, "omavol", "serve", "--unix", socket_place / "s", image],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "Permission denied" in ended.stderr and str(image) not in ended.stderr:
        pytest.skip("another user cannot reach the virtual environment here")
    assert ended.returncode == 1 and "--read-only" in ended.stderr


def test_addresses_in_use_or_wrong_are_one_line(command, place, image):
    server = command("--tcp", "127.0.0.1:0", "--unix", place / "s", image, lines=2)
    port = next(parse(uri).port for uri in server.uris if uri.startswith("nbd:"))
    assert "in use" in fails("--tcp", f"127.0.0.1:{port}", image)
    assert "another server" in fails("--unix", place / "s", image)
    assert "65535" in fails("--tcp", "127.0.0.1:65536", image)
    assert "HOST:PORT" in fails("--tcp", "::1", image)
    assert "not an address" in fails("--tcp", "no-such-host.invalid:1", image)
    assert "No such file" in fails("--unix", place / "nowhere" / "s", image)
    assert "longer than" in fails("--unix", "/tmp/" + "x" * 120, image)
    assert "not a socket" in fails("--unix", image, image)
    assert image.exists() and server.stop() == 0


def test_nobody_is_asked_to_become_somebody_unknown(place, image):
    assert "no user" in fails("--unix", place / "s", "--user", "no-such-user-here", image)


def test_a_stale_socket_is_replaced_a_live_one_is_not(place):
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(place / "s"))
    stale.close()
    first = listen_unix(str(place / "s"), mode=0o666)
    assert stat.S_IMODE((place / "s").stat().st_mode) == 0o666
    with pytest.raises(AddressUnusable):
        listen_unix(str(place / "s"))
    first.close()
    assert not (place / "s").exists()


def test_localhost_is_both_families_at_one_port():
    listeners = listen_tcp(TcpAddress("localhost", 0))
    assert len({listener.uri.port for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("text", ["", ":1", "a:b", "h:-1", "h:70000", "h:²", "[::1", "::1"])
def test_bad_addresses_are_refused(text):
    if text == "[::1":
        text = "[::1]:x"
    with pytest.raises(BadAddress):
        TcpAddress.parse(text)
