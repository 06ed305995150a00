"""The newest peers run beside the installed ones, whatever the system's own libraries are."""

import subprocess

import pytest
from benchmarks.servers import wait_for_socket
from tests.peers import INSTALLED, NEWEST

PROGRAMS = {"nbdkit": "--version", "qemu-nbd": "--version", "qemu-img": "--version", "nbdcopy": "--version"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_generations_run_and_the_newest_is_newer(program):
    versions = []
    for peers in (INSTALLED, NEWEST):
        argv = peers.command(program, PROGRAMS[program])
        told = subprocess.run(argv, env=peers.environment(), capture_output=True, text=True, check=True).stdout
        number = next(word for word in told.replace(")", " ").split() if word[0].isdigit() and "." in word)
        versions.append([int(part) for part in number.rstrip(",").split(".")[:2]])
    assert versions[1] > versions[0]


@pytest.mark.parametrize("peers", [INSTALLED, NEWEST], ids=lambda peers: peers.label)
def test_libnbds_python_reads_from_nbdkit_with_a_filter(peers, tmp_path):
    path = tmp_path / "sock"
    server = subprocess.Popen(peers.nbdkit("-U", path, "--filter=delay", "memory", "1M", "rdelay=1ms"))
    code = f"import nbd; h = nbd.NBD(); h.connect_uri('nbd+unix:///?socket={path}'); print(len(h.pread(65536, 0)))"
    try:
        wait_for_socket(path, server)
        done = subprocess.run(
            peers.python("-c", code) if peers.newest else ["/usr/bin/python3", "-c", code],
            env=peers.environment(),
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == "65536", done.stderr
    finally:
        server.kill()
        server.wait()
