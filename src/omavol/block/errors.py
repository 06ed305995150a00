"""What can go wrong with the kernel's devices: a code for programs, a line and the next step for people."""

from __future__ import annotations

__all__ = ["BlockError", "DeviceBusy", "ForeignNode", "NoSuchNode", "NotAttached", "Unattachable", "Unavailable"]


class BlockError(Exception):
    """One line in `str()`; `code` is stable; `advice` is the next step, or empty."""

    code = "block"

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__(detail)
        self.advice = advice


class Unavailable(BlockError):
    """This kernel, or this user, cannot do it."""

    code = "block.unavailable"


class Unattachable(BlockError):
    """The kernel's NBD client cannot have that export, or not so."""

    code = "block.unattachable"


class NotAttached(BlockError):
    """The device is none of the kernel's NBD devices, or has no export behind it."""

    code = "block.not_attached"


class DeviceBusy(BlockError):
    """Somebody uses the device; the line says who."""

    code = "block.busy"


class NoSuchNode(BlockError):
    """Device-mapper has no node of that name."""

    code = "block.no_such_node"


class ForeignNode(BlockError):
    """A node that is not ours stands under the name; it is left as it is."""

    code = "block.foreign_node"
