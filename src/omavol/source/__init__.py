"""A source host's machines, and the disks of one of them at one instant: freeze, read, then commit or abandon.

`machine` the interface · `inventory` machines as folders · `qemu` the source that speaks to QEMU's monitor, for running
machines and for stopped images alike · `points` what must be known after a crash · `qmp` the monitor's protocol.
"""
