"""How `omavol serve` is started by others, and what ends it."""

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from raw_client import Raw


@pytest.fixture
def closing():
    with contextlib.ExitStack() as stack:
        yield stack


def ended(process, limit=20):
    """Its exit status, waited for."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def test_once_ends_when_the_last_client_has_left(command, place, image):
    server = command("--once", "--unix", place / "s", image)
    with Raw(place / "s") as first, Raw(place / "s") as second:
        assert first.read(0, 512) == second.read(0, 512)
    assert ended(server.process) == 0
    assert not (place / "s").exists()


def test_once_takes_no_notice_of_who_only_looks(command, place, image):
    server = command("--once", "--unix", place / "s", image)
    with socket.socket(socket.AF_UNIX) as looker:
        looker.connect(str(place / "s"))
        assert looker.recv(8) == b"NBDMAGIC"
    with Raw(place / "s") as client:
        assert client.size == image.stat().st_size
    assert ended(server.process) == 0


def test_a_captive_command_finds_the_uri_and_its_status_is_the_servers(image):
    script = 'test -S "$unixsocket" && nbdinfo --size "$uri" && exit 7'
    done = subprocess.run([OMAVOL, "serve", "--run", script, image], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, f"{image.stat().st_size}\n"), done.stderr


def test_a_captive_command_is_ended_with_the_server(place, image):
    process = subprocess.Popen(
        [OMAVOL, "serve", "--run", "echo ready; exec sleep 1000", image], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert ended(process) == 128 + 15
    assert process.stdout.read() == ""  # nobody holds the pipe any more
    process.stdout.close()


def test_a_client_at_standard_input_is_served_and_ends_it(image):
    ours, theirs = socket.socketpair()
    with ours:
        process = subprocess.Popen([OMAVOL, "serve", "--single", image], stdin=theirs, stdout=subprocess.PIPE)
        theirs.close()
        assert ours.recv(8) == b"NBDMAGIC"
    assert ended(process) == 0
    assert process.stdout.read() == b""
    process.stdout.close()


def test_standard_input_that_is_no_socket_is_one_line(image):
    done = subprocess.run(
        [OMAVOL, "serve", "--single", image], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no connected socket" in done.stderr


def test_libnbds_client_starts_it_by_connect_command(image):
    script = (
        "import nbd, sys; h = nbd.NBD(); h.connect_command([sys.argv[1], 'serve', '-s', sys.argv[2]]);"
        "print(h.get_size()); h.shutdown()"
    )
    done = subprocess.run(["/usr/bin/python3", "-c", script, OMAVOL, image], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{image.stat().st_size}\n", done.stderr


def test_libnbds_client_starts_it_by_socket_activation(image):
    done = subprocess.run(
        ["nbdinfo", "--size", "--", "[", OMAVOL, "serve", "-r", image, "]"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{image.stat().st_size}\n"), done.stderr


def test_several_listening_sockets_are_handed_in_and_stay_their_makers(place, image, closing):
    paths = [place / "a", place / "b"]
    listeners = [closing.enter_context(socket.create_server(str(p), family=socket.AF_UNIX)) for p in paths]
    script = (
        "import fcntl, os, sys; fds = list(map(int, sys.argv[2:4]));"
        "spare = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in fds];"
        "[os.dup2(fd, 3 + i) for i, fd in enumerate(spare)];"
        "os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.argv[1], [sys.argv[1], 'serve', sys.argv[4]])"
    )
    numbers = [listener.fileno() for listener in listeners]
    process = subprocess.Popen(
        [sys.executable, "-c", script, OMAVOL, *map(str, numbers), image],
        pass_fds=numbers,
    )
    try:
        for path in paths:
            with Raw(path) as client:
                assert client.size == image.stat().st_size
    finally:
        process.terminate()
    assert ended(process) == 0
    assert all(path.exists() for path in paths)


def test_sockets_meant_for_another_process_are_left_alone(command, place, image, monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert command("--unix", place / "s", image).uris == [f"nbd+unix:///?socket={place}/s"]


def test_what_is_handed_in_and_does_not_listen_is_one_line(image):
    script = (
        "import os, sys; os.dup2(os.open('/dev/null', os.O_RDWR), 3);"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.argv[1], [sys.argv[1], 'serve', sys.argv[2]])"
    )
    done = subprocess.run([sys.executable, "-c", script, OMAVOL, image], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "LISTEN_FDS" in done.stderr


def test_it_ends_with_the_process_that_started_it(place, image):
    script = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE);"
        "p.stdout.readline(); print(p.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, OMAVOL, "serve", "--exit-with-parent", "--unix", place / "s", image],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    try:
        server = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return  # it was quicker than we
    ready, _, _ = select.select([server], [], [], 20)
    os.close(server)
    assert ready


def test_the_pid_file_is_written_once_clients_are_served_and_goes_with_the_server(command, place, image):
    server = command("--pidfile", place / "pid", "--unix", place / "s", image)
    assert int((place / "pid").read_text()) == server.process.pid
    assert server.stop() == 0
    assert not (place / "pid").exists()


def test_a_service_manager_is_told(place, image, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(20)
        process = subprocess.Popen(
            [OMAVOL, "serve", "--unix", place / "s", image],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": str(place / "notify")},
        )
        assert manager.recv(100) == b"READY=1"
        process.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        assert ended(process) == 0


def test_one_client_may_not_take_every_connection(command, place, image):
    command("--connections-per-client", 2, "--unix", place / "s", "--tcp", "127.0.0.1:0", image, lines=2)
    with Raw(place / "s"), Raw(place / "s") as second:
        with socket.socket(socket.AF_UNIX) as third:
            third.connect(str(place / "s"))
            third.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert third.recv(8) == b""
        assert len(second.read(0, 512)) == 512


def test_a_vsock_is_listened_on_where_the_kernel_has_one(image):
    argv = [OMAVOL, "serve", "--vsock", "10809", "--run", 'echo "$uri"', image]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if Path("/dev/vsock").exists():
        assert done.stdout.startswith("nbd+vsock://") and done.stdout.endswith(":10809/\n"), done.stderr
    else:
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "this kernel has no vsock" in done.stderr


def test_a_vsock_address_that_is_none_is_one_line(image):
    done = subprocess.run([OMAVOL, "serve", "--vsock", "1:2:3", image], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "PORT or CID:PORT" in done.stderr
