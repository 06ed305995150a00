"""A store that takes 10 ms for each read, and 32 reads in flight on one connection: who waits for them at once."""

from contextlib import ExitStack
from functools import partial

from benchmarks.aims import Within, milliseconds
from benchmarks.loads import load_lane
from benchmarks.servers import generations, nbdkit, omavol_serve, qemu_nbd

READS = 32
SIZE = 4096
SLOW = "driver=null-co,size=1G,latency-ns=10000000"


def test_reads_of_a_slow_store_wait_together(race, image, sockets):
    """Aim: 15 ms for all 32. Bound by the 10 ms themselves and by how many a server lets wait at a time.

    Ours waits in its pool of threads for what is not at hand. nbdkit has 16 threads unless told otherwise (20.6 ms;
    also run with 32), qemu-nbd takes 16 requests of a client at a time. Alike: one connection, structured replies, the
    delay where each server puts it: a filter in ours and in nbdkit, null-co's latency in qemu-nbd.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(omavol_serve(image, sockets, "--filter", "delay:read=10ms"))
        lanes = [lane(ours)]
        for peers in generations():
            for threads in (16, READS):
                start = partial(nbdkit, sockets, "--threads", str(threads), "--filter=delay", "file", str(image))
                server = stack.enter_context(start("rdelay=10ms", peers=peers, apart=str(threads)))
                lanes.append(lane(server, f"nbdkit, {threads} threads ({peers.label})"))
            server = stack.enter_context(qemu_nbd(SLOW, sockets, "--image-opts", fmt="", peers=peers))
            lanes.append(lane(server))
        race(
            "32 reads of 10 ms in flight, all of them",
            ours=lanes[0],
            peers=lanes[1:],
            aims=[Within(0.015, milliseconds)],
            show=milliseconds,
        )


def lane(server, name=""):
    return load_lane(server, "randread", unit=READS * SIZE, size=SIZE, depth=READS, name=name)
