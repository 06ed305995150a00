"""Sequential reads of a whole image over 4 connections.

Alike for all: structured replies, the image in the page cache, 4 connections, into null: (nothing is kept, nothing
flushed). nbdcopy is the release of the server it reads from; ours is read by the newest.
"""

from dataclasses import replace

from benchmarks.aims import Faster, Thrift, seconds
from benchmarks.copies import engine_lane, nbdcopy_lane, omavol_lane
from benchmarks.servers import contenders, generations


def by_nbdcopy(server):
    return nbdcopy_lane(server, "null:", server)


def best_nbdcopy(ours):
    """Our server, read by the newest nbdcopy."""
    return by_nbdcopy(replace(ours, peers=generations()[-1]))


def with_start(outcome):
    return f"as the program `omavol copy`, Python's start included: {seconds(outcome.cost('omavol copy'))}"


def test_sequential_read_by_nbdcopy(race, stored, sockets, on):
    """Aim 2x, at a quarter of the server's processor time.

    nbdcopy bounds it, near 3x: it copies every byte out of its socket into fresh memory. sendfile queues references
    to the pages, so that our server touches none; its time is headers, page references and wake-ups. The peers copy
    each byte twice, from the page cache into a buffer and from there into the socket.
    """
    with contenders(stored, sockets) as all_of_them:
        race(
            f"sequential read by nbdcopy{on}",
            ours=best_nbdcopy(all_of_them.ours),
            peers=[by_nbdcopy(peer) for peer in all_of_them.peers],
            aims=[Faster(2), Thrift(0.25, "server", stored.stat().st_size)],
        )


def test_sequential_read_own_client(race, stored, sockets, on):
    """Aim 3x nbdcopy with the better peer. Bound by the client's one copy of each byte out of the socket.

    The copy engine receives into buffers that stay in the cache. It runs in a process that is already there, as the
    agent's does; nbdcopy's start (some 10 ms) is in its time. `omavol copy`, with Python's start, is noted beside it.
    """
    with contenders(stored, sockets) as all_of_them:
        ours = all_of_them.ours
        race(
            f"sequential read, own client{on}",
            ours=engine_lane(ours, "null:", ours),
            peers=[omavol_lane(ours, "null:", ours, aside=True), *map(by_nbdcopy, all_of_them.peers)],
            aims=[Faster(3)],
            note=with_start,
        )


def test_sequential_read_over_tcp(race, image, sockets):
    """Aim 1.5x, over loopback, by nbdcopy. Bound by the receiver's copy and by TCP itself, which all pay alike."""
    with contenders(image, sockets, tcp=True) as all_of_them:
        race(
            "sequential read by nbdcopy, TCP",
            ours=best_nbdcopy(all_of_them.ours),
            peers=[by_nbdcopy(peer) for peer in all_of_them.peers],
            aims=[Faster(1.5)],
        )


def test_sequential_read_own_client_over_tcp(race, image, sockets):
    """Aim 1.5x, over loopback, our engine against nbdcopy with the better peer. Bound as the row before."""
    with contenders(image, sockets, tcp=True) as all_of_them:
        race(
            "sequential read, own client, TCP",
            ours=engine_lane(all_of_them.ours, "null:", all_of_them.ours),
            peers=[by_nbdcopy(peer) for peer in all_of_them.peers],
            aims=[Faster(1.5)],
        )
