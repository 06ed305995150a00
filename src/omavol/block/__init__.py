"""What the kernel has: device-mapper today; udev, names, loop devices and holders have their place here.

`dm` the face of the libdevmapper binding.
"""
