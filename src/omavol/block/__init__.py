"""What the kernel has: device-mapper, its NBD client, who holds a device; udev, names and loop devices come here.

`dm` the face of the libdevmapper binding, `kernelnbd` of the kernel's NBD client (over `genetlink`); `attach` makes a
device of an export, `holders` tells who uses one, `doctor` what the machine lacks.
"""
