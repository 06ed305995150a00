"""Whole connections: connect, negotiate, read 4 KiB, leave. One at a time."""

from benchmarks.aims import Faster, rate
from benchmarks.loads import load_lane
from benchmarks.servers import contenders


def test_connect_read_close(race, image, sockets):
    """Aim 1x qemu-nbd, the quick one. Bound by wake-ups: greeting, two options and the READ are four round trips.

    Alike: a unix socket, structured replies and GO asked one after the other, DISC at the end, which nobody waits for.
    No thread is started and no buffer allocated for a connection of ours; nbdkit starts its 16 threads.
    """
    with contenders(image, sockets) as all_of_them:
        lanes = [load_lane(server, "connect") for server in all_of_them.all]
        race(
            "connect, negotiate, read 4 KiB, close",
            ours=lanes[0],
            peers=lanes[1:],
            aims=[Faster(1, "qemu-nbd"), Faster(1)],
            show=rate,
        )
