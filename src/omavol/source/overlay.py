"""A frozen view of running disks in one QEMU process: made in one transaction, exported, and removed again.

The view is an empty qcow2 over the disk's node, which a backup job with sync=none fills with what the machine is about
to overwrite (docs/interop/live-block-operations.rst, "image fleecing"). Reads of the overlay give the instant.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omavol.source.errors import FreezeFailed, MonitorRefused, NbdServerTaken, OverlayFailed, OverlaySpaceShort
from omavol.source.images import create_overlay
from omavol.source.nodes import Node
from omavol.source.points import PointDisk, PointRecord, bitmap_of
from omavol.source.qmp import Monitor

__all__ = ["Frozen", "check", "check_space", "freeze", "remove", "server_socket", "since_of", "uri"]

SPACE_FLOOR = 256 << 20
END_LIMIT = 30.0
ACCEPTS = 1 << 16  # __SO_ACCEPTCON


@dataclass(frozen=True)
class Frozen:
    """A disk to freeze: its node, and the bitmap of its base when the pass can be an increment."""

    disk: PointDisk
    node: Node
    base_bitmap: str | None


def since_of(record: PointRecord) -> str:
    """The name of the bitmap that holds what changed between the base and this point."""
    return f"{bitmap_of(record.id)}-since"


def server_socket(runtime: Path, record: PointRecord) -> Path:
    """The NBD server's socket: one for each QEMU process, because a process has one NBD server."""
    process = record.monitor or record.id
    return runtime / f"{hashlib.sha256(process.encode()).hexdigest()[:12]}.nbd"


def uri(server: Path, disk: PointDisk) -> str:
    """Where the frozen disk is read."""
    return f"nbd+unix:///{quote(disk.handle)}?socket={quote(str(server))}"


def freeze(monitor: Monitor, record: PointRecord, disks: list[Frozen], server: Path) -> None:
    """Freeze the disks at one instant and export each. Raises FreezeFailed; `remove` undoes a part that was done."""
    for one in disks:
        overlay = Path(one.disk.overlay)
        create_overlay(overlay, one.node.size)
        arguments = {
            "driver": "qcow2",
            "node-name": one.disk.handle,
            "file": {"driver": "file", "filename": str(overlay)},
            "backing": one.node.name,
        }
        monitor.execute("blockdev-add", arguments)
    # The backup jobs come first: each stops its node's I/O until the whole transaction is done, so that the bitmaps
    # of all disks, whichever threads they run in, begin at one instant.
    actions = [action for one in disks for action in _backup(one)]
    actions += [action for one in disks for action in _bitmaps(one, record)]
    try:
        monitor.execute("transaction", {"actions": actions})
    except MonitorRefused as error:
        raise FreezeFailed(f"QEMU could not freeze the disks together: {error.qemu_desc}") from error
    _start_server(monitor, server)
    for one in disks:
        export: dict[str, Any] = {
            "type": "nbd",
            "id": one.disk.handle,
            "node-name": one.disk.handle,
            "name": one.disk.handle,
            "writable": False,
        }
        if one.base_bitmap is not None:
            export["bitmaps"] = [{"node": one.node.name, "name": since_of(record)}]
        monitor.execute("block-export-add", export)


def check(monitor: Monitor, record: PointRecord) -> None:
    """Raises OverlayFailed unless every disk's backup job still runs without an error."""
    jobs = {job["id"]: job for job in monitor.execute("query-jobs")}
    for disk in record.disks:
        job = jobs.get(disk.handle)
        if job is None or job["status"] not in ("running", "paused", "ready", "standby"):
            cause = (job or {}).get("error", "its job is gone")
            raise OverlayFailed(f"{disk.disk_id}: what the machine overwrites is no longer kept: {cause}")


def check_space(folder: Path) -> None:
    """Raises OverlaySpaceShort when little room is left: QEMU would then fail the machine's own writes."""
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if free < SPACE_FLOOR:
        raise OverlaySpaceShort(f"only {free >> 20} MiB are free in {folder}, {SPACE_FLOOR >> 20} are to stay free")


def remove(monitor: Monitor, record: PointRecord, server: Path) -> None:
    """Remove exports, jobs, overlay nodes and temporary bitmaps of a point, whatever of them is there."""
    handles = {disk.handle for disk in record.disks}
    for name in handles & _exports(monitor):
        monitor.execute("block-export-del", {"id": name, "mode": "hard"})
    monitor.wait(lambda: not handles & _exports(monitor), timeout=END_LIMIT, what="the end of the exports")
    if not any(name.startswith("oma-") for name in _exports(monitor)) and _listens(server):
        monitor.execute("nbd-server-stop")
        server.unlink(missing_ok=True)
    for name in handles & _jobs(monitor).keys():
        if _jobs(monitor)[name] != "concluded":
            monitor.execute("job-cancel", {"id": name})
    monitor.wait(
        lambda: all(status == "concluded" for name, status in _jobs(monitor).items() if name in handles),
        timeout=END_LIMIT,
        what="the end of the backup jobs",
    )
    for name in handles & _jobs(monitor).keys():
        monitor.execute("job-dismiss", {"id": name})
    nodes = {node["node-name"]: node for node in monitor.execute("query-named-block-nodes", {"flat": True})}
    for disk in record.disks:
        if disk.handle in nodes:
            monitor.execute("blockdev-del", {"node-name": disk.handle})
        kept = (nodes.get(disk.node or "") or {}).get("dirty-bitmaps") or ()
        if any(bitmap.get("name") == since_of(record) for bitmap in kept):
            monitor.execute("block-dirty-bitmap-remove", {"node": disk.node, "name": since_of(record)})


def _backup(one: Frozen) -> list[dict[str, Any]]:
    data = {
        "job-id": one.disk.handle,
        "device": one.node.name,
        "target": one.disk.handle,
        "sync": "none",
        "on-target-error": "report",
        "auto-dismiss": False,
    }
    return [{"type": "blockdev-backup", "data": data}]


def _bitmaps(one: Frozen, record: PointRecord) -> list[dict[str, Any]]:
    node = one.node.name
    actions: list[dict[str, Any]] = []
    if not one.node.read_only:
        new = {"node": node, "name": bitmap_of(record.id), "persistent": one.node.keeps_bitmaps}
        actions.append({"type": "block-dirty-bitmap-add", "data": new})
    if one.base_bitmap is not None:
        since = {"node": node, "name": since_of(record), "disabled": True}
        actions.append({"type": "block-dirty-bitmap-add", "data": since})
        merge = {"node": node, "target": since_of(record), "bitmaps": [one.base_bitmap]}
        actions.append({"type": "block-dirty-bitmap-merge", "data": merge})
    return actions


def _start_server(monitor: Monitor, server: Path) -> None:
    address = {"type": "unix", "data": {"path": str(server)}}
    try:
        monitor.execute("nbd-server-start", {"addr": address, "max-connections": 0})
    except MonitorRefused as error:
        if "already running" not in error.qemu_desc:
            raise FreezeFailed(f"QEMU's NBD server did not start: {error.qemu_desc}") from error
        if not _listens(server):
            raise NbdServerTaken("the NBD server of the machine's QEMU process is taken") from error


def _listens(server: Path) -> bool:
    """Is the NBD server of this process ours? Then somebody listens at our own path (/proc/net/unix, unix(7)).

    Looking is better than connecting: QEMU complains on its standard error of clients that leave at once.
    """
    for line in Path("/proc/net/unix").read_text().splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(server) and int(fields[3], 16) & ACCEPTS:
            return True
    return False


def _exports(monitor: Monitor) -> set[str]:
    return {export["id"] for export in monitor.execute("query-block-exports")}


def _jobs(monitor: Monitor) -> dict[str, str]:
    return {job["id"]: job["status"] for job in monitor.execute("query-jobs")}
