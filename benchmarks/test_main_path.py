"""The main job's own path: a qcow2 served by qemu-nbd, copied with digests into `omavol serve`.

The peer is nbdcopy --flush from the same qemu-nbd into nbdkit, which hashes nothing. Alike: 2 GiB in the page cache of
tmpfs, unix sockets, 4 connections an end, structured replies, both destinations flushed. Ours runs in a process that
is already there, as the agent is; nbdcopy's start (some 10 ms) is in its time. qemu-nbd bounds both.
"""

import subprocess

import pytest

from benchmarks.aims import Faster
from benchmarks.job import JobLane
from benchmarks.race import command_lane
from benchmarks.servers import nbdkit_file, omavol_serve, qemu_nbd


@pytest.fixture
def qcow2(memory, image):
    path = memory / "image.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, path], check=True)
    yield path
    path.unlink()


@pytest.fixture
def destinations(memory, image):
    paths = [memory / "main-ours", memory / "main-peer"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(image.stat().st_size)
    yield paths
    for path in paths:
        path.unlink()


def test_main_path_with_digests(qcow2, destinations, sockets, race):
    with (
        qemu_nbd(qcow2, sockets, fmt="qcow2") as source,
        omavol_serve(destinations[0], sockets) as ours,
        nbdkit_file(destinations[1], sockets) as nbdkit,
    ):
        peer = ["nbdcopy", "--connections=4", "--flush", source.uri, nbdkit.uri]
        race(
            "qcow2 to volume with digests, against nbdcopy to nbdkit without",
            aims=[Faster(1.2)],
            ours=JobLane("omavol, with digests", source, ours).lane,
            peers=[command_lane("nbdcopy, without", peer, server=nbdkit.pid)],
        )
