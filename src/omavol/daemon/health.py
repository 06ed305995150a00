"""What works and what does not: asked now, never assumed."""

from __future__ import annotations

import os
from typing import Any

from omavol import __version__
from omavol.block import dm
from omavol.daemon.house import Daemon
from omavol.schema.common import now
from omavol.schema.volumes import Health
from omavol.volumes.errors import VolumeError

__all__ = ["health", "liveness"]

SERVICE = "omavol-daemon"
LOW_SPACE = 1 << 30


def liveness() -> Health:
    """The process answers; nothing else is asked."""
    return Health(status="healthy", timestamp=now(), service=SERVICE, version=__version__)


def health(daemon: Daemon) -> Health:
    """The record, the control socket, the provider, device-mapper and disk space. Blocks for milliseconds.

    A kernel without device-mapper is a fact, not a problem: exports are bounded by the served table then.
    """
    problems: list[str] = []
    details: dict[str, Any] = {}
    record = daemon.house.record.check()
    details["record"] = {"path": str(daemon.house.record.path), "writable": record is None}
    problems += [record] if record else []

    try:
        listing = daemon.house.served.listing()
        details["server"] = {
            "control_socket": str(daemon.watch.path),
            "connected": True,
            "incarnation": listing.incarnation,
            "version": listing.version,
            "listeners": listing.listeners,
            "exports": len(listing.exports),
        }
    except VolumeError as error:
        problems.append(error.detail)
        details["server"] = {"control_socket": str(daemon.watch.path), "connected": False, "reason": error.detail}

    try:
        provider = daemon.house.record.provider()
        daemon.house.provider()
        details["provider"] = {"kind": provider.kind, "appliance_vm_id": provider.appliance_vm_id}
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what health is asked for
        problems.append(f"the provider cannot be used: {error}")

    there = dm.look()
    details["device_mapper"] = {
        "present": there.present,
        "library": there.library,
        "driver": there.driver,
        "reason": there.reason,
    }
    space = os.statvfs(daemon.house.state)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    details["disk"] = {"path": str(daemon.house.state), "free": free, "total": total}
    if free < LOW_SPACE:
        problems.append(f"the file system of {daemon.house.state} has only {free >> 20} MiB left")
    return Health(
        status="degraded" if problems else "healthy",
        timestamp=now(),
        service=SERVICE,
        version=__version__,
        problems=problems,
        details=details,
    )
