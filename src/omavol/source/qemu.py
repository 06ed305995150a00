"""The source that speaks to QEMU: a running machine's monitor, or our own storage daemon over a stopped one's images.

Each point adds one dirty bitmap to each disk, which records from then on and is never paused. An increment reads a
copy of the base's bitmap, taken in the same transaction. So a pass that fails needs no undoing: the record since the
last committed point is complete whatever happens, and a crash can lose no change (docs/interop/bitmaps.rst).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from omavol import failpoint
from omavol.schema.common import new_id
from omavol.schema.source import PowerState
from omavol.source import overlay
from omavol.source.errors import (
    DiskUnknown,
    FreezeFailed,
    ImageInUse,
    MonitorLost,
    MonitorRefused,
    PointUnknown,
    SourceError,
    StatePathTooLong,
)
from omavol.source.images import check_whole, is_lock_refusal, read_image
from omavol.source.machine import DiskFacts, FrozenDisk, MachineFacts, Point, SourceDisk, SourceMachine
from omavol.source.nodes import Node, change_record, find_disk, nodes_from
from omavol.source.overlay import Frozen
from omavol.source.points import Ledger, Phase, PointDisk, PointRecord, is_ours, point_of
from omavol.source.qmp import Monitor
from omavol.source.storage_daemon import StorageDaemon, end_leftover

__all__ = ["QemuSource"]

SOCKET_PATH_LIMIT = 107
log = logging.getLogger(__name__)


class QemuSource:
    """A `Source`; overlays and sockets are in `runtime`. Methods may be called from any thread.

    One lock a monitor guards it, because a monitor serves one client at a time; a point is worked on by its job alone.
    """

    def __init__(self, runtime: Path, ledger: Ledger) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._lock = threading.Lock()
        self._monitor_locks: dict[Path, threading.Lock] = {}
        self._daemons: dict[str, StorageDaemon] = {}
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(str(runtime / "012345678901.nbd")) > SOCKET_PATH_LIMIT:
            raise StatePathTooLong(f"{runtime} is too long a path for sockets")

    def facts(self, machine: SourceMachine) -> MachineFacts:
        """Power state, sizes, and whether increments are possible. Raises SourceError naming the disk at fault."""
        with self._running(machine.monitor) as monitor:
            if monitor is None:
                images = {disk.id: read_image(disk.file, disk.format) for disk in machine.disks}
                disks = {name: DiskFacts(image.virtual_size, image.keeps_bitmaps) for name, image in images.items()}
                return MachineFacts(PowerState.OFF, disks)
            nodes = self._nodes(monitor)
            found = {disk.id: _node_of(nodes, machine, disk) for disk in machine.disks}
            disks = {name: DiskFacts(node.size, True) for name, node in found.items()}
            return MachineFacts(_power_state(monitor), disks)

    def freeze(self, machine: SourceMachine, base_points: Mapping[str, str | None]) -> Point:
        """See `Source.freeze`. Nothing is left behind when it raises."""
        disks = _wanted(machine, base_points)
        self._settle(machine.id)
        record = _new_record(machine, disks, self._runtime)
        try:
            with self._running(machine.monitor) as monitor:
                if monitor is not None:
                    overlay.check_space(self._runtime)
                    record = msgspec.structs.replace(record, monitor=str(machine.monitor))
                    return self._freeze(monitor, record, machine, disks, base_points)
            daemon = StorageDaemon()
            self._daemons[record.id] = daemon
            record = msgspec.structs.replace(record, daemon_pid=daemon.pid)
            self._ledger.save(record)
            opened = tuple(_as_opened(disk, number) for number, disk in enumerate(disks))
            for disk in opened:
                open_image(daemon.monitor, disk.file, disk.format, str(disk.node))
                check_whole(disk.file, disk.format)
            return self._freeze(daemon.monitor, record, machine, opened, base_points)
        except (SourceError, OSError) as error:
            self._give_up(record)
            if isinstance(error, MonitorRefused):
                raise FreezeFailed(f"{machine.name} could not be frozen: {error.detail}") from error
            if isinstance(error, OSError):
                raise FreezeFailed(f"{machine.name} could not be frozen: {error}") from error
            raise

    def check(self, point_id: str) -> None:
        """See `Source.check`."""
        record = self._record(point_id)
        if record.monitor is not None:
            overlay.check_space(self._runtime)
        with self._monitor_of(record) as monitor:
            if monitor is None:
                raise MonitorLost("the machine stopped while it was being read")
            overlay.check(monitor, record)

    def complete(self, point_id: str) -> None:
        """See `Source.complete`."""
        record = self._record(point_id)
        if record.phase is Phase.FROZEN:
            self.check(point_id)
            record = record.at(Phase.COMPLETED)
            self._ledger.save(record)
        self._release(record)

    def commit(self, point_id: str) -> None:
        """See `Source.commit`."""
        record = self._record(point_id)
        if record.phase is Phase.COMMITTED:
            return
        if record.phase is not Phase.COMPLETED:
            raise PointUnknown(f"point {point_id} is {record.phase}: only a completed point can be committed")
        failpoint.reach("agent.before-commit")
        self._release(record)
        newer = {other.id for other in self._ledger.points() if other.phase in (Phase.FREEZING, Phase.FROZEN)}
        self._drop_bitmaps(record, lambda point: point < point_id and point not in newer)
        failpoint.reach("agent.after-commit")
        self._ledger.save(msgspec.structs.replace(record, phase=Phase.COMMITTED, released=True))

    def abandon(self, point_id: str) -> None:
        """See `Source.abandon`."""
        record = self._record(point_id)
        if record.phase is Phase.ABANDONED:
            return
        if record.phase is Phase.COMMITTED:
            raise PointUnknown(f"point {point_id} is committed: it is the base of the next pass")
        self._release(record)
        self._drop_bitmaps(record, lambda point: point == point_id)
        self._ledger.save(msgspec.structs.replace(record, phase=Phase.ABANDONED, released=True))

    def recover(self) -> None:
        """See `Source.recover`. A machine whose monitor is busy is left for its next pass."""
        for record in list(self._ledger.points()):
            try:
                self._settle_point(record)
            except SourceError as error:
                log.warning("point %s of %s stays unfinished: %s", record.id, record.machine_id, error.detail)

    # --- freezing ------------------------------------------------------------------------------------------------

    def _freeze(
        self,
        monitor: Monitor,
        record: PointRecord,
        machine: SourceMachine,
        disks: tuple[SourceDisk, ...],
        base_points: Mapping[str, str | None],
    ) -> Point:
        nodes = self._nodes(monitor)
        found = [_node_of(nodes, machine, disk) for disk in disks]
        names = zip(record.disks, found, strict=True)
        record = msgspec.structs.replace(
            record, disks=tuple(msgspec.structs.replace(disk, node=node.name) for disk, node in names)
        )
        self._ledger.save(record)
        frozen, reasons = [], {}
        for disk, node in zip(record.disks, found, strict=True):
            bitmap, reasons[disk.disk_id] = change_record(node, base_points[disk.disk_id])
            frozen.append(Frozen(disk, node, bitmap))
        server = overlay.server_socket(self._runtime, record)
        overlay.freeze(monitor, record, frozen, server)
        failpoint.reach("agent.point-frozen")
        self._ledger.save(record.at(Phase.FROZEN))
        self._decide_older(record, base_points)
        return Point(
            record.id,
            machine.id,
            {
                one.disk.disk_id: FrozenDisk(
                    disk_id=one.disk.disk_id,
                    uri=overlay.uri(server, one.disk),
                    size=one.node.size,
                    context=None if one.base_bitmap is None else f"qemu:dirty-bitmap:{overlay.since_of(record)}",
                    base=None if one.base_bitmap is None else base_points[one.disk.disk_id],
                    reason=reasons[one.disk.disk_id],
                )
                for one in frozen
            },
        )

    def _decide_older(self, record: PointRecord, base_points: Mapping[str, str | None]) -> None:
        """A pass that differs from a completed point commits it; one that differs from another gives it up.

        Only the record changes: bitmaps of older points go when this one is committed.
        """
        bases = {base for base in base_points.values() if base is not None}
        for other in list(self._ledger.points()):
            if other.machine_id == record.machine_id and other.phase is Phase.COMPLETED and bases:
                self._ledger.save(other.at(Phase.COMMITTED if other.id in bases else Phase.ABANDONED))

    def _settle(self, machine_id: str) -> None:
        for other in list(self._ledger.points()):
            if other.machine_id == machine_id:
                self._settle_point(other)

    def _settle_point(self, record: PointRecord) -> None:
        if record.phase in (Phase.FREEZING, Phase.FROZEN):
            self.abandon(record.id)
        elif not record.released:
            self._release(record)

    def _give_up(self, record: PointRecord) -> None:
        """Undo a freeze that failed; what cannot be undone now is undone before the next one."""
        if (saved := self._ledger.get(record.id)) is None:
            return
        with contextlib.suppress(SourceError):
            self.abandon(saved.id)

    # --- ending a point ------------------------------------------------------------------------------------------

    def _release(self, record: PointRecord) -> None:
        """Remove exports, jobs, overlays and the own daemon of a point; idempotent."""
        if record.released:
            return
        server = overlay.server_socket(self._runtime, record)
        daemon = self._daemons.pop(record.id, None)
        if daemon is not None:
            daemon.stop()
            server.unlink(missing_ok=True)
        elif record.daemon_pid is not None:
            end_leftover(record.daemon_pid)
            server.unlink(missing_ok=True)
        else:
            with self._monitor_of(record) as monitor:
                if monitor is not None:
                    overlay.remove(monitor, record, server)
        for disk in record.disks:
            Path(disk.overlay).unlink(missing_ok=True)
        current = self._record(record.id)
        self._ledger.save(msgspec.structs.replace(current, released=True))

    def _drop_bitmaps(self, record: PointRecord, is_unwanted: Callable[[str], bool]) -> None:
        """Remove our bitmaps of these points. One that cannot be reached now goes at a later commit."""
        if record.monitor is None and all(disk.format != "qcow2" for disk in record.disks):
            return  # they were in our storage daemon's memory, and it has ended
        try:
            with self._opened(record) as (monitor, names):
                nodes = self._nodes(monitor)
                for name in names:
                    for bitmap in nodes[name].bitmaps if name in nodes else ():
                        unwanted = (
                            bitmap.name is not None and is_ours(bitmap.name) and is_unwanted(point_of(bitmap.name))
                        )
                        if unwanted and not bitmap.busy:
                            monitor.execute("block-dirty-bitmap-remove", {"node": name, "name": bitmap.name})
        except (SourceError, OSError) as error:
            log.warning("bitmaps of %s stay for now: %s", record.machine_id, error)

    # --- monitors ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _running(self, path: Path | None) -> Iterator[Monitor | None]:
        """The monitor of a running machine; None if nobody listens there."""
        if path is None:
            yield None
            return
        with self._lock:
            lock = self._monitor_locks.setdefault(path, threading.Lock())
        with lock:
            try:
                monitor = Monitor.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                yield None
                return
            except OSError as error:
                raise MonitorLost(f"the monitor at {path} cannot be used: {error}") from error
            with monitor:
                yield monitor

    @contextlib.contextmanager
    def _monitor_of(self, record: PointRecord) -> Iterator[Monitor | None]:
        """The monitor that a point lives in; None if that process is gone."""
        if (daemon := self._daemons.get(record.id)) is not None:
            yield daemon.monitor
            return
        with self._running(None if record.monitor is None else Path(record.monitor)) as monitor:
            yield monitor

    @contextlib.contextmanager
    def _opened(self, record: PointRecord) -> Iterator[tuple[Monitor, list[str]]]:
        """A monitor in which the point's disks are open, and their nodes; a stopped machine's are opened for it."""
        with self._running(None if record.monitor is None else Path(record.monitor)) as monitor:
            if monitor is not None:
                yield monitor, [disk.node for disk in record.disks if disk.node is not None]
                return
        kept = [disk for disk in record.disks if disk.format == "qcow2"]
        if not kept:
            raise MonitorLost("the machine does not run, so its bitmaps are gone with it")
        daemon = StorageDaemon()
        try:
            names = [f"image-{number}" for number in range(len(kept))]
            for name, disk in zip(names, kept, strict=True):
                open_image(daemon.monitor, Path(disk.file), disk.format, name)
            yield daemon.monitor, names
        finally:
            daemon.stop()

    def _nodes(self, monitor: Monitor) -> dict[str, Node]:
        return nodes_from(monitor.execute("query-named-block-nodes", {"flat": True}))

    def _record(self, point_id: str) -> PointRecord:
        record = self._ledger.get(point_id)
        if record is None:
            raise PointUnknown(f"there is no point {point_id}")
        return record


def open_image(monitor: Monitor, file: Path, format: str, node: str) -> None:
    """Open an image under its lock; qcow2 for writing, because its bitmaps are kept in it. Raises ImageInUse."""
    driver = "host_device" if file.is_block_device() else "file"
    arguments: dict[str, Any] = {
        "driver": format,
        "node-name": node,
        "read-only": format != "qcow2",
        "file": {"driver": driver, "filename": str(file)},
    }
    try:
        monitor.execute("blockdev-add", arguments)
    except MonitorRefused as error:
        if is_lock_refusal(error.qemu_desc):
            raise ImageInUse(f"{file} is in use: {error.qemu_desc}") from error
        raise FreezeFailed(f"{file} cannot be opened as {format}: {error.qemu_desc}") from error


def _wanted(machine: SourceMachine, base_points: Mapping[str, str | None]) -> tuple[SourceDisk, ...]:
    known = {disk.id: disk for disk in machine.disks}
    for name in base_points:
        if name not in known:
            raise DiskUnknown(f"{machine.name} has no disk {name}; it has {', '.join(known)}")
    return tuple(known[name] for name in base_points)


def _new_record(machine: SourceMachine, disks: tuple[SourceDisk, ...], runtime: Path) -> PointRecord:
    point = new_id()
    handles = {disk.id: f"oma-{point[-12:]}-{number}" for number, disk in enumerate(disks)}
    return PointRecord(
        id=point,
        machine_id=machine.id,
        phase=Phase.FREEZING,
        disks=tuple(
            PointDisk(
                disk_id=disk.id,
                file=str(disk.file),
                format=disk.format,
                node=None,
                handle=handles[disk.id],
                overlay=str(runtime / f"{handles[disk.id]}.qcow2"),
            )
            for disk in disks
        ),
    )


def _as_opened(disk: SourceDisk, number: int) -> SourceDisk:
    """The disk under the node's name that our own daemon opens it by (a node's name has at most 31 letters)."""
    return SourceDisk(id=disk.id, file=disk.file, format=disk.format, label=disk.label, node=f"image-{number}")


def _node_of(nodes: Mapping[str, Node], machine: SourceMachine, disk: SourceDisk) -> Node:
    node = find_disk(dict(nodes), disk)
    if node is None:
        wanted = f"node {disk.node!r}" if disk.node is not None else f"node for {disk.file} ({disk.format})"
        raise DiskUnknown(
            f"the running machine {machine.name} has no {wanted} for {disk.id}",
            advice=("Name the disk's block node (node) in machine.toml; QMP's query-named-block-nodes lists them.",),
        )
    return node


def _power_state(monitor: Monitor) -> PowerState:
    try:
        status = monitor.execute("query-status")
    except MonitorRefused:
        return PowerState.ON  # a storage daemon has no machine to ask about
    return PowerState.SUSPENDED if status.get("status") in ("paused", "suspended") else PowerState.ON
