"""Whether device-mapper is here, and which: the face of the libdevmapper binding.

Nothing is asked of the library before /proc/misc lists the driver: as root, libdevmapper would otherwise make
/dev/mapper/control and complain on stderr (libdm-iface.c, `_open_control`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DeviceMapper", "look"]

MISC = Path("/proc/misc")
DRIVER = "device-mapper"
_VERSION_LIMIT = 64


@dataclass(frozen=True)
class DeviceMapper:
    """`library` and `driver` are version texts; `reason` says in words why `present` is false."""

    present: bool
    library: str | None
    driver: str | None
    reason: str | None


def look(misc: Path = MISC) -> DeviceMapper:
    """What is there now. Cheap (one small file, at most one ioctl); never raises."""
    try:
        from omavol import _libdevmapper
    except ImportError as error:
        return DeviceMapper(False, None, None, f"libdevmapper cannot be loaded: {error}")
    ffi, lib = _libdevmapper.ffi, _libdevmapper.lib
    text = ffi.new("char[]", _VERSION_LIMIT)
    library = ffi.string(text).decode() if lib.dm_get_library_version(text, _VERSION_LIMIT) else None
    try:
        registered = any(line.split()[1:] == [DRIVER] for line in misc.read_text().splitlines())
    except OSError as error:
        return DeviceMapper(False, library, None, f"{misc} cannot be read: {error.strerror}")
    if not registered:
        return DeviceMapper(False, library, None, f"the kernel has no device-mapper ({misc} does not list it)")
    if not lib.dm_driver_version(text, _VERSION_LIMIT):
        return DeviceMapper(False, library, None, "the kernel has device-mapper, but this process may not use it")
    return DeviceMapper(True, library, ffi.string(text).decode(), None)
