"""`omavol serve` read by nbdcopy.

Alike for all: the client is Debian's nbdcopy with 4 connections into null:, structured replies, 2 GiB in the page
cache of tmpfs, a unix socket, nothing flushed (nothing is written). nbdcopy's own copying bounds the row near 3x.
"""

from benchmarks.race import GIB, command_lane
from benchmarks.servers import nbdkit_file, omavol_serve, qemu_nbd


def test_sequential_read_by_nbdcopy(image, sockets, race):
    def client(server):
        return ["nbdcopy", "--connections=4", server.uri, "null:"]

    with omavol_serve(image, sockets) as ours, nbdkit_file(image, sockets) as nbdkit, qemu_nbd(image, sockets) as qemu:
        outcome = race(
            "sequential read, nbdcopy as the client",
            aim=2.0,
            ours=command_lane("omavol serve", client(ours), server=ours.pid),
            peers=[
                command_lane("nbdkit file", client(nbdkit), server=nbdkit.pid),
                command_lane("qemu-nbd", client(qemu), server=qemu.pid),
            ],
            note=lambda outcome: (
                f"server CPU {outcome.cpu('omavol serve', 'server') * GIB / image.stat().st_size:.3f} s a GiB, "
                f"{outcome.cpu_share('server'):.2f}x the thriftiest peer (aim 0.3x)"
            ),
        )
    assert outcome.reaches_floor
    assert outcome.cpu_share("server") <= 0.6
