"""What can go wrong at a source, each with a stable code, the facts, and what to do next."""

from __future__ import annotations

__all__ = [
    "DiskUnknown",
    "FreezeFailed",
    "ImageBroken",
    "ImageInUse",
    "InventoryBroken",
    "MachineUnknown",
    "MonitorLost",
    "MonitorRefused",
    "MonitorUnreachable",
    "NbdServerTaken",
    "OverlayFailed",
    "OverlaySpaceShort",
    "PointUnknown",
    "SourceError",
    "StatePathTooLong",
]


class SourceError(Exception):
    """Base of all: `code` is stable and for programs, `detail` says what failed on what, `advice` what to do."""

    code = "source_failed"
    advice: tuple[str, ...] = ()

    def __init__(self, detail: str, *, advice: tuple[str, ...] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if advice is not None:
            self.advice = advice


class InventoryBroken(SourceError):
    code = "inventory_broken"
    advice = ("Correct the machine's folder, then discover again; the other machines are not affected.",)


class MachineUnknown(SourceError):
    code = "machine_unknown"
    advice = ("Discover the machines anew and use a path, an id or a name from the answer.",)


class DiskUnknown(SourceError):
    code = "disk_unknown"
    advice = ("Discover the machine anew and name its disks by their ids.",)


class PointUnknown(SourceError):
    code = "point_unknown"
    advice = ("Nothing is kept under this point; start a new pass.",)


class FreezeFailed(SourceError):
    """All disks, or none: after this error nothing is frozen."""

    code = "freeze_failed"
    advice: tuple[str, ...] = ("Nothing of the machine was changed; remove the cause and start the pass again.",)


class ImageInUse(FreezeFailed):
    code = "image_in_use"
    advice = (
        "Another program has the image open. If it is the running machine, name its monitor (qmp) in machine.toml.",
        "Otherwise close that program; `fuser -v IMAGE` shows it.",
    )


class ImageBroken(SourceError):
    code = "image_broken"
    advice = ("Check the image with `qemu-img check`, and its format in machine.toml.",)


class MonitorUnreachable(SourceError):
    code = "monitor_unreachable"
    advice = ("Close what else is connected to the machine's monitor: it serves one client at a time.",)


class MonitorLost(SourceError):
    """The monitor's connection broke or stayed silent: whether the last command took effect is not known."""

    code = "monitor_lost"
    advice = ("Look whether the machine still runs; the next pass starts from what its monitor says then.",)


class MonitorRefused(SourceError):
    """QEMU answered with an error: `command`, QEMU's `qemu_class` and its own description `qemu_desc`."""

    code = "monitor_refused"

    def __init__(self, command: str, qemu_class: str, qemu_desc: str) -> None:
        super().__init__(f"QEMU refused {command}: {qemu_desc}")
        self.command = command
        self.qemu_class = qemu_class
        self.qemu_desc = qemu_desc


class NbdServerTaken(FreezeFailed):
    code = "nbd_server_taken"
    advice = (
        "A QEMU process has one NBD server, and another program has started it in this one.",
        "Let that program finish (QMP: nbd-server-stop), then start the pass again.",
    )


class OverlayFailed(SourceError):
    code = "overlay_failed"
    advice: tuple[str, ...] = (
        "What the machine overwrote during the pass could not be kept; look at the disk under --state.",
    )


class OverlaySpaceShort(OverlayFailed):
    code = "overlay_space_short"
    advice = (
        "The pass was given up before the file system under --state ran full, so that the machine keeps running.",
        "Make room there, or copy at a time with fewer writes.",
    )


class StatePathTooLong(SourceError):
    code = "state_path_too_long"
    advice = ("Choose a --state directory with a shorter path: a unix socket's path has at most 107 bytes.",)
