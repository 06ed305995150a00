"""What the kernel has: device-mapper, its NBD client, which disk is which volume, who holds a device.

`present` what the kernel shows, `correlate` which of it is which volume, `uevent` the wait for it; `dm` whether
device-mapper is there, `mapper` its nodes; `kernelnbd` the kernel's NBD client (over `genetlink`), `attach` makes a
device of an export; `holders` tells who uses one, `doctor` what the machine lacks.
"""

MOST_CONNECTIONS = 16  # of one NBD device
