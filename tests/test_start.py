"""A command starts with what it needs and no more: each module named here costs every start a millisecond or more."""

import subprocess
import sys

import pytest

# Ends as the command ends; the modules of the process are the last line of its output.
_TOLD = """
import sys
from omavol.cli import main
sys.argv = ["omavol", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules)
"""
_BY_NOBODY = {"asyncio", "email", "hashlib", "secrets", "shutil", "sqlite3", "ssl", "subprocess", "tempfile"}
_BY_A_COPY = _BY_NOBODY | {
    *("click", "dataclasses", "inspect", "json", "msgspec", "pathlib", "zlib"),
    *("omavol.copy.digests", "omavol.nbd.connection", "omavol.nbd.session", "omavol.nbd.tls", "omavol.serve"),
}
_BY_A_COPY_OF_FILES = _BY_A_COPY | {"socket", "urllib", "omavol.nbd"}
_BY_SERVE = _BY_NOBODY | {"omavol.copy", "omavol.nbd.client", "omavol.serve.control", "omavol.serve.incarnation"}


@pytest.fixture
def start(tmp_path):
    """Starts `omavol`; it is gone when the test ends. `disk.img` is there."""
    (tmp_path / "disk.img").write_bytes(bytes(range(256)) * 256)
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _TOLD, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def server(start):
    """`omavol serve` of the disk, which has said its URI."""
    process = start("serve", "--unix", "sock", "disk.img")
    assert process.stdout.readline().startswith("nbd+unix://")
    return process


def modules(process: subprocess.Popen[str]) -> set[str]:
    """What a command has imported by its end, which is a success."""
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return set(told.splitlines()[-1].split())


def test_a_copy_into_an_export_imports_no_more_than_it_needs(start, server, tmp_path):
    found = modules(start("copy", "disk.img", f"nbd+unix:///?socket={tmp_path / 'sock'}"))
    assert "omavol.nbd.client" in found and not found & _BY_A_COPY


def test_a_copy_between_files_knows_nothing_of_nbd(start, tmp_path):
    found = modules(start("copy", "disk.img", "copy.img"))
    assert "omavol.copy.engine" in found and not found & _BY_A_COPY_OF_FILES
    assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_a_server_imports_no_more_than_it_needs(server):
    server.terminate()
    found = modules(server)
    assert "omavol.serve.table" in found and not found & _BY_SERVE
