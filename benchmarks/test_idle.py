"""What 500 idle connections cost a server in memory."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.aims import Faster, Within, kib
from benchmarks.race import Lane, Sample
from benchmarks.servers import generations, nbdkit_file, omavol_serve, qemu_nbd
from omavol.nbd.client import connect

CONNECTIONS = 500
FEWER = 40
PAGE = 4096


def memory(pid):
    """Bytes of the process: the proportional set size (proc(5)); what is shared counts in part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("smaps_rollup has no Pss")


def hold(name, family, start):
    """Start a fresh server, connect, negotiate, read once on each, then look; the cost is bytes for each connection.

    The first connections warm up what a server allocates once. nbdkit takes some 20 ms for each, so it gets fewer.
    """
    count = FEWER if family == "nbdkit" else CONNECTIONS

    def once():
        with start() as server, ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(connect(server.uri)).read(0, PAGE)
            before = memory(server.pid)
            for _ in range(count):
                stack.enter_context(connect(server.uri)).read(0, PAGE)
            return Sample(float(max(memory(server.pid) - before, 1)), work=count)

    return Lane(name, once, family=family)


def test_memory_of_idle_connections(race, image, sockets):
    """Aim: no more than qemu-nbd, 5 KiB. Bound by the struct of a connection and malloc's bookkeeping.

    Alike: plaintext over a unix socket, negotiated, one READ done, nothing in flight. An idle connection of ours has
    no thread and no buffer. The kernel's part (socket, its buffers) is the same for all and not counted.
    """
    lanes = [hold("omavol", "omavol", partial(omavol_serve, image, sockets))]
    for peers in generations():
        for family, start in (("nbdkit", nbdkit_file), ("qemu-nbd", qemu_nbd)):
            lanes.append(hold(f"{family} ({peers.label})", family, partial(start, image, sockets, peers=peers)))
    race(
        "memory of an idle connection, 500 of them",
        ours=lanes[0],
        peers=lanes[1:],
        aims=[Within(5 * 1024, kib), Faster(1, "qemu-nbd")],
        show=kib,
    )
