"""Sequential writes of a whole file over 4 connections, flushed.

Alike for all: the source in the page cache, 4 connections, a unix socket, the same destination file overwritten in
every round, FLUSH answered at the end (fdatasync at each server). nbdcopy is the release of the server it writes to.
"""

from dataclasses import replace

from benchmarks.aims import Faster, Thrift, seconds
from benchmarks.copies import engine_lane, nbdcopy_lane, omavol_lane
from benchmarks.servers import contenders, generations, nbdkit_file


def by_nbdcopy(image, server):
    return nbdcopy_lane(image, server, server, "--flush")


def with_start(outcome):
    return f"as the program `omavol copy`, Python's start included: {seconds(outcome.cost('omavol copy'))}"


def test_sequential_write_by_nbdcopy(race, image, scratch, sockets, on):
    """Aim 1.5x the better peer. Bound by nbdcopy, which reads and sends every byte, and by the copy into the file.

    Our server splices the payload from the socket to the file: one copy, none through memory of its own.
    """
    with contenders(scratch, sockets, writable=True) as all_of_them:
        race(
            f"sequential write by nbdcopy --flush{on}",
            ours=by_nbdcopy(image, replace(all_of_them.ours, peers=generations()[-1])),
            peers=[by_nbdcopy(image, peer) for peer in all_of_them.peers],
            aims=[Faster(1.5)],
        )


def test_sequential_write_own_pair(race, image, scratch, sockets, on):
    """Aim 2x the best pair of peers. Bound by the server's copy into the page cache.

    The engine sends the file's pages by reference, `omavol serve` splices them: one copy in all. It runs in a process
    that is already there; nbdcopy's start (some 10 ms) is in its time. `omavol copy`, with Python's start, is noted.
    """
    with contenders(scratch, sockets, writable=True) as all_of_them:
        ours = all_of_them.ours
        race(
            f"sequential write, own pair{on}",
            ours=engine_lane(image, ours, ours),
            peers=[
                omavol_lane(image, ours, ours, aside=True),
                *(by_nbdcopy(image, peer) for peer in all_of_them.peers),
            ],
            aims=[Faster(2)],
            note=with_start,
        )


def test_upload_into_nbdkit(race, image, memory, sockets):
    """The client alone differs, nbdkit bounds it. A row of our own: aim 1.4x at 0.3x of the client's processor time.

    The engine runs in a process that is already there, as in the row above: Python's start costs 0.1 s of processor
    time, which is as much as sending 1 GiB. `omavol copy` is noted.
    """
    destination = memory / "uploaded"
    with destination.open("wb") as file:
        file.truncate(image.stat().st_size)
    with nbdkit_file(destination, sockets) as server:
        race(
            "upload into nbdkit, the client alone differs",
            ours=engine_lane(image, server, replace(server, name="omavol's engine", family="omavol")),
            peers=[omavol_lane(image, server, server, aside=True), by_nbdcopy(image, replace(server, name="nbdcopy"))],
            aims=[Faster(1.4), Thrift(0.3, "client", image.stat().st_size)],
            note=with_start,
        )
    destination.unlink()
