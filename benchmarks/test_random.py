"""Random reads and writes of 4 KiB. The client is our load generator for all, one thread."""

from benchmarks.aims import Faster, rate
from benchmarks.loads import load_lane
from benchmarks.servers import contenders


def run(race, image, sockets, title, aims, operation, **load):
    with contenders(image, sockets, writable=operation != "randread") as all_of_them:
        lanes = [load_lane(server, operation, **load) for server in all_of_them.all]
        race(title, ours=lanes[0], peers=lanes[1:], aims=aims, show=rate)


def test_random_read_64_deep(race, stored, sockets, on):
    """Aim 3x nbdkit, 8x qemu-nbd. Bound by the system calls and copies of one worker at full load.

    A request costs one pread of 4 KiB into the outbox and its share of a recv and a send, which carry some 40 requests
    each. Alike: one connection, structured replies, a warm page cache; ours answers it from one thread, nbdkit from
    its 16, qemu-nbd from its coroutines and thread pool.
    """
    aims = [Faster(3, "nbdkit"), Faster(8, "qemu-nbd")]
    run(race, stored, sockets, f"4 KiB random read, 64 deep{on}", aims, "randread", depth=64)


def test_random_read_1_deep(race, stored, sockets, on):
    """Aim 2x. Bound by the system calls: some ten a request at both ends, 5 us; asleep a wake-up each costs 20 us.

    The client waits awake for whoever answers promptly, and so does our worker for whoever asks promptly (brisk.pxi);
    nothing is handed from thread to thread. Alike: one connection, structured replies, a warm page cache.
    """
    run(race, stored, sockets, f"4 KiB random read, 1 deep{on}", [Faster(2)], "randread")


def test_random_write_1_deep(race, scratch_in_blocks, sockets, on):
    """Aim 2x. As the read, waits awake at both ends included; on ext4 half of it is ext4's own write.

    Nothing is flushed, no FUA.
    """
    run(race, scratch_in_blocks, sockets, f"4 KiB random write, 1 deep{on}", [Faster(2)], "randwrite")


def test_mixed_random_on_four_connections(race, scratch_in_blocks, sockets, on):
    """Aim 2x. 70 % reads, 32 deep on each of 4 connections; bound by both processors, the client takes one share.

    Alike: 4 connections, structured replies, a warm page cache, nothing flushed.
    """
    title = f"4 KiB random, 70/30, 32 deep, 4 connections{on}"
    run(race, scratch_in_blocks, sockets, title, [Faster(2)], "randrw", reads=70, depth=32, connections=4)
