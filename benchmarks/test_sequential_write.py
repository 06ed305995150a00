"""`omavol copy` of a file, against nbdcopy --flush.

Alike for all: 2 GiB in the page cache of tmpfs, 4 connections, a unix socket, the destination flushed at the end, the
same destination file overwritten in every round. The first row has nbdkit as everybody's server, so that the client
alone differs (the server then bounds it); the second compares whole pairs: ours against nbdcopy into nbdkit.
"""

import pytest

from benchmarks.race import command_lane
from benchmarks.servers import OMAVOL, nbdkit_file, omavol_serve


@pytest.fixture
def destination(memory, image):
    path = memory / "destination"
    with path.open("wb") as file:
        file.truncate(image.stat().st_size)
    yield path
    path.unlink()


def ours(image, server):
    return [OMAVOL, "copy", "--connections", "4", str(image), server.uri]


def nbdcopy(image, server):
    return ["nbdcopy", "--connections=4", "--flush", str(image), server.uri]


def test_upload_into_nbdkit(image, destination, sockets, race):
    with nbdkit_file(destination, sockets) as server:
        outcome = race(
            "upload into nbdkit, the client alone differs",
            aim=1.4,
            ours=command_lane("omavol copy", ours(image, server), server=server.pid),
            peers=[command_lane("nbdcopy", nbdcopy(image, server), server=server.pid)],
            note=lambda outcome: f"client CPU {outcome.cpu_share('client'):.2f}x nbdcopy's (aim 0.3x)",
        )
    assert outcome.reaches_floor
    assert outcome.cpu_share("client") <= 0.6


def test_upload_own_pair(image, destination, memory, sockets, race):
    other = memory / "other-destination"
    other.touch()
    with other.open("r+b") as file:
        file.truncate(image.stat().st_size)
    with omavol_serve(destination, sockets) as server, nbdkit_file(other, sockets) as nbdkit:
        outcome = race(
            "upload, own pair against nbdcopy into nbdkit",
            aim=2.0,
            ours=command_lane("omavol copy into omavol serve", ours(image, server), server=server.pid),
            peers=[command_lane("nbdcopy into nbdkit", nbdcopy(image, nbdkit), server=nbdkit.pid)],
        )
    other.unlink()
    assert outcome.reaches_floor
