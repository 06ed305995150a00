"""Bad input on every command line: one clear line on standard error, a status that says so, nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
LIMIT = 30
MIB = 1 << 20
GONE = "http://127.0.0.1:1"  # nothing listens at port 1


class Place:
    """A folder with what the cases name; `listener` holds a port and a unix socket that are in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "disk").write_bytes(b"\x01" * MIB)
        (folder / "small").write_bytes(b"\x02" * 4096)
        (folder / "other").write_text("not a socket, not a folder, not a database, and long enough to be looked at")
        (folder / "token").write_text("a-token-of-nobody-at-all")
        for name, token in (
            ("empty", b""),
            ("binary", bytes(range(256))),
            ("lines", b"a\nb"),
            ("foreign", "tök".encode()),
        ):
            (folder / f"{name}-token").write_bytes(token)
        for name in ("machines/web01", "state/spoilt"):
            (folder / name).mkdir(parents=True)
        shutil.copy(folder / "disk", folder / "machines/web01/disk.raw")
        (folder / "state/spoilt/oma.sqlite").write_text("this is no database, but long enough to be looked at" * 4)
        (folder / "state/spoilt/record.sqlite").write_text("this is no database, but long enough to be looked at" * 4)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "used"))
        self.unix.listen()

    def words(self, text: str) -> str:
        return text.replace("DIR", str(self.folder)).replace("PORT", str(self.port))

    def tree(self) -> dict[str, tuple[int, int]]:
        """Every path below with its size and its kind: what a refused command must not change."""
        found = {path: path.lstat() for path in self.folder.rglob("*")}
        return {str(path): (stat.st_mode, stat.st_size if path.is_file() else 0) for path, stat in found.items()}

    def close(self) -> None:
        self.listener.close()
        self.unix.close()


@pytest.fixture(scope="module")
def place():
    folder = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    made = Place(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / arguments[0]), *arguments[1:]]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMA_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, check=False, env={**kept, **environment}
    )


AGENT = "omavol agent --state DIR/state/agent"
OMACTL = "--state DIR/state/spoilt --token-file DIR/token"
# The command line, words of its one line, its exit status. 2 is a usage mistake, where the usage comes first.
REFUSED: list[tuple[str, str, int]] = [
    ("omavol dance", "No such command", 2),
    ("omavol serve --unix DIR/s", "give the files to serve", 1),
    ("omavol serve --unix DIR/s DIR/nothing", "DIR/nothing: No such file", 1),
    ("omavol serve --unix DIR/s DIR/disk other=DIR/machines", "directory", 1),
    ("omavol serve --unix DIR/used DIR/disk", "another server", 1),
    ("omavol serve --unix DIR/other DIR/disk", "not a socket", 1),
    ("omavol serve --unix DIR/s --tcp 127.0.0.1:PORT DIR/disk", "in use", 1),
    ("omavol serve --unix DIR/s --control DIR/used", "another server", 1),
    ("omavol serve --unix DIR/s --control DIR/nowhere/c", "No such file", 1),
    ("omavol serve --unix DIR/s --connections 0 DIR/disk", "--connections", 2),
    ("omavol copy DIR/disk", "Missing argument 'DST'", 2),
    ("omavol copy DIR/nothing DIR/new", "source DIR/nothing", 1),
    ("omavol copy DIR/machines DIR/new", "not a file or block device", 1),
    ("omavol copy DIR/disk DIR/machines", "directory", 1),
    ("omavol copy DIR/disk DIR/nowhere/new", "No such file", 1),
    ("omavol copy DIR/disk /dev/full", "/dev/full", 1),
    ("omavol copy DIR/disk nbd://127.0.0.1:1/x", "Connection refused", 1),
    ("omavol copy nbd+unix:///?socket=DIR/nothing DIR/new", "No such file", 1),
    ("omavol copy DIR/disk nbds://127.0.0.1:1/x", "cannot connect to 127.0.0.1 port 1", 1),
    ("omavol copy DIR/disk http://127.0.0.1/x", "NBD", 1),
    ("omavol copy --connections 0 DIR/disk DIR/new", "--connections", 2),
    ("omavol info DIR/disk", "not an NBD URI", 1),
    ("omavol info nbd://127.0.0.1:1/x", "Connection refused", 1),
    ("omavol info nbd://no-such-host.invalid/x", "no-such-host.invalid", 1),
    ("omavol attach DIR/disk", "not an NBD URI", 1),
    ("omavol attach nbds://127.0.0.1:1/x", "has no TLS", 1),
    ("omavol attach --device DIR/disk nbd://127.0.0.1:1/x", "none of the kernel's NBD devices", 1),
    ("omavol attach --connections 17 nbd://127.0.0.1:1/x", "--connections", 2),
    ("omavol detach DIR/disk", "none of the kernel's NBD devices", 1),
    ("omavol map DIR/nothing", "No such file", 1),
    ("omavol map DIR/machines", "neither a file nor a block device", 1),
    ("omavol map nbd://127.0.0.1:1/x", "Connection refused", 1),
    ("omavol daemon", "--state", 2),
    ("omavol daemon --state DIR/other", "other", 2),
    ("omavol daemon --state DIR/other/below", "cannot be used", 1),
    ("omavol daemon --state DIR/state/spoilt --unix DIR/s", "record", 1),
    ("omavol daemon --state DIR/state/d --unix DIR/used", "living process", 1),
    ("omavol daemon --state DIR/state/d --unix DIR/nowhere/s", "cannot be bound", 1),
    ("omavol agent", "--inventory", 2),
    (f"{AGENT} --inventory DIR/nothing", "does not exist", 2),
    (f"{AGENT} --inventory DIR/disk", "is a file", 2),
    (f"{AGENT} --inventory DIR/machines --port PORT", "Address already in use", 1),
    (f"{AGENT} --inventory DIR/machines --port 70000", "--port", 2),
    (f"{AGENT} --inventory DIR/machines --host no-such-host.invalid", "no-such-host.invalid", 1),
    ("omavol agent --inventory DIR/machines --port 0 --state DIR/other/below", "Not a directory", 1),
    ("omactl dance", "No such command", 2),
    ("omactl serve --port PORT --state DIR/state/c", "Address already in use", 1),
    ("omactl serve --port 0 --host no-such-host.invalid --state DIR/state/c", "no-such-host.invalid", 1),
    ("omactl serve --port 0 --state DIR/other/below", "Not a directory", 1),
    ("omactl serve --port 0 --state DIR/state/spoilt", "database cannot be used", 1),
    ("omactl serve --port 0 --database nonsense --state DIR/state/c", "database cannot be used", 1),
    ("omactl serve --port 0 --state DIR/state/c --source lab", "--source-token-file", 2),
    (f"omactl serve --port 0 --state DIR/state/c --source lab={GONE} --source-token-file DIR/nothing", "not exist", 2),
    ("omactl serve --port 0 --state DIR/state/c --source lab=disk --source-token-file DIR/token", "NAME=URL", 2),
    ("omactl migrate --state DIR/other/below", "cannot be used", 1),
    *(
        (line, "/proc/oma", 1)  # a folder in which not even root makes anything
        for line in (
            "omavol copy DIR/disk /proc/oma",
            "omavol serve --unix /proc/oma DIR/disk",
            "omavol daemon --state /proc/oma",
            "omavol agent --inventory DIR/machines --port 0 --state /proc/oma",
            "omactl serve --port 0 --state /proc/oma",
        )
    ),
    *((f"omactl {asked} {OMACTL} --url {GONE}", "Is `omactl serve` running?", 1) for asked in ("discover", "jobs")),
    *((f"omactl {asked} {OMACTL} --url {GONE} x", "Is `omactl serve` running?", 1) for asked in ("job", "replicate")),
    (f"omactl link {OMACTL} --url nonsense", "nonsense", 1),
    (f"omactl link {OMACTL} --url http://[::1", "no address", 1),
    ("omactl contexts --state DIR/nothing", "no token", 1),
    *(
        (f"omactl jobs --url {GONE} --token-file DIR/{name}-token", f"{name}-token holds none", 1)
        for name in ("empty", "binary", "lines", "foreign")
    ),
    ("omactl contexts --token-file DIR/machines", "is a directory", 2),
    (f"omactl jobs {OMACTL} --limit 0", "--limit", 2),
    (f"omactl cancel {OMACTL}", "Missing argument", 2),
]


@pytest.mark.parametrize(("line", "words", "status"), REFUSED, ids=[line for line, _, _ in REFUSED])
def test_a_command_that_cannot_be_done_is_one_line_and_leaves_nothing(place, line, words, status):
    before = place.tree()
    ended = run(*place.words(line).split())
    said = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (status, ""), ended
    assert place.words(words) in said[-1], ended.stderr
    assert len(said) == 1 or (status == 2 and said[0].startswith("Usage:")), ended.stderr
    left = {
        path for path in place.tree().items() - before.items() if not path[0].startswith(str(place.folder / "state"))
    }
    assert not left
    assert not [path for path in (place.folder / "state").rglob("*") if path.is_socket()]


@pytest.mark.parametrize("program", ["omavol", "omactl"])
def test_the_version_costs_little_more_than_python_itself(program):
    """Best of some, in turn with an interpreter that does nothing: what is between them is ours, and below 60 ms."""
    ours = [str(BIN / program), "--version"]
    assert least(ours) - least([sys.executable, "-c", "pass"]) < 0.06


def test_the_help_of_copy_comes_at_once():
    """It costs click, some 60 ms; a server's libraries would cost several times that."""
    assert least([str(BIN / "omavol"), "copy", "--help"]) - least([sys.executable, "-c", "pass"]) < 0.3


def least(command: list[str], rounds: int = 7) -> float:
    """Seconds of the fastest run."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    return min(once() for _ in range(rounds))
