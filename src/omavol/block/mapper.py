"""Device-mapper's nodes by libdevmapper: made, loaded, suspended, resumed, renamed, removed, listed (libdevmapper.h).

The library is not safe for threads: one thread of a `Mapper` owns it, and any thread may call. What makes or changes a
name carries a udev cookie and is waited for, so that the link under /dev/mapper is there, or gone, when a call returns;
without udev the library makes it itself. Our nodes are kept from every other rule of udev: nothing probes or scans what
is on them, and no by-uuid link is made of it (dm-udev flags, 10-dm.rules, 13-dm-disk.rules).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from omavol.block import dm
from omavol.block.errors import BlockError, DeviceBusy, NoSuchNode, Unavailable

if TYPE_CHECKING:
    from omavol._libdevmapper import Ffi, Lib

__all__ = ["SECTOR", "Mapper", "NewNode", "Node", "Target", "error", "linear"]

SECTOR = 512
MAPPER = Path("/dev/mapper")
R = TypeVar("R")


@dataclass(frozen=True)
class Target:
    """A line of a table: `start` and `length` are sectors of 512 bytes (dmsetup(8), "TABLE FORMAT")."""

    start: int
    length: int
    kind: str
    parameters: str = ""


def linear(number: str, size: int, offset: int = 0) -> tuple[Target, ...]:
    """`size` bytes of the device MAJOR:MINOR from `offset` on.

    >>> linear("252:16", 1 << 20)
    (Target(start=0, length=2048, kind='linear', parameters='252:16 0'),)
    """
    return (Target(0, size // SECTOR, "linear", f"{number} {offset // SECTOR}"),)


def error(size: int) -> tuple[Target, ...]:
    """`size` bytes that fail every request."""
    return (Target(0, size // SECTOR, "error"),)


@dataclass(frozen=True)
class NewNode:
    """A node to be made; `uuid` is its identity for as long as it stands, and never used for another."""

    name: str
    uuid: str
    table: tuple[Target, ...]
    read_only: bool = False


@dataclass(frozen=True)
class Node:
    """A node as the kernel has it. `live`, `inactive`: whether it has such a table; `openers`: how often it is open."""

    name: str
    uuid: str
    number: str
    openers: int
    suspended: bool
    live: bool
    inactive: bool
    read_only: bool
    deferred: bool

    @property
    def path(self) -> Path:
        return MAPPER / self.name


class Mapper:
    """The nodes of this kernel. Calls block, from any thread; a context manager. Root.

    Every call raises Unavailable where the kernel has no device-mapper or this user may not use it, NoSuchNode for a
    node that is not there, DeviceBusy for one in use, and BlockError with the kernel's word for what else it refuses.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device-mapper")
        try:
            self._ffi, self._lib = self._thread.submit(_open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._owned(self._lib.dm_lib_release)
        self._thread.shutdown()

    # --- changes ---

    def create(self, nodes: Sequence[NewNode]) -> None:
        """Make nodes, each with its table live, and wait for udev once; when one fails those before it stay."""

        def make() -> None:
            with self._cookie() as cookie:
                for node in nodes:
                    with self._task(self._lib.DM_DEVICE_CREATE, node.name) as task:
                        self._must(self._lib.dm_task_set_uuid(task, node.uuid.encode()))
                        self._add_table(task, node.table, node.read_only)
                        self._run(task, f"node {node.name} cannot be made", cookie)

        self._owned(make)

    def load(self, name: str, table: Sequence[Target], *, read_only: bool = False) -> None:
        """Give a node the table that it has after `resume`; its size may change by it."""

        def load() -> None:
            with self._task(self._lib.DM_DEVICE_RELOAD, name) as task:
                self._add_table(task, table, read_only)
                self._run(task, f"node {name} takes no such table")

        self._owned(load)

    def clear(self, name: str) -> None:
        """Take back a table that was loaded and not resumed to."""

        def clear() -> None:
            with self._task(self._lib.DM_DEVICE_CLEAR, name) as task:
                self._run(task, f"node {name} keeps its table")

        self._owned(clear)

    def suspend(self, name: str, *, flush: bool = True, freeze: bool = True) -> None:
        """Hold every request that comes, and wait for those under way; again is no error.

        `flush` false: what is under way may come back after `resume`, as the target likes. `freeze`: a file system on
        the node is brought to rest before (lockfs).
        """

        def suspend() -> None:
            with self._task(self._lib.DM_DEVICE_SUSPEND, name) as task:
                if not flush:
                    self._must(self._lib.dm_task_no_flush(task))
                if not freeze:
                    self._must(self._lib.dm_task_skip_lockfs(task))
                self._run(task, f"node {name} cannot be suspended")

        self._owned(suspend)

    def resume(self, name: str) -> None:
        """Let requests go on, to the table that was loaded if one was.

        No link changes by it: udev is told as ever, but not waited for, which would be most of what a swap takes.
        """

        def resume() -> None:
            with self._cookie(wait=False) as cookie, self._task(self._lib.DM_DEVICE_RESUME, name) as task:
                self._run(task, f"node {name} cannot be resumed", cookie)

        self._owned(resume)

    def rename(self, name: str, new: str) -> None:
        def rename() -> None:
            with self._cookie() as cookie, self._task(self._lib.DM_DEVICE_RENAME, name) as task:
                self._must(self._lib.dm_task_set_newname(task, new.encode()))
                self._run(task, f"node {name} cannot be renamed to {new}", cookie)

        self._owned(rename)

    def remove(self, name: str, *, deferred: bool = False) -> None:
        """Take it away; tried again for some seconds while somebody has it open, for udev is quick to look.

        `deferred`: if it is in use it goes when the last user does.
        """

        def remove() -> None:
            with self._cookie() as cookie, self._task(self._lib.DM_DEVICE_REMOVE, name) as task:
                self._must(self._lib.dm_task_retry_remove(task))
                if deferred:
                    self._must(self._lib.dm_task_deferred_remove(task))
                self._run(task, f"node {name} cannot be removed", cookie)

        self._owned(remove)

    # --- questions ---

    def nodes(self) -> list[Node]:
        """All of this kernel, in the order of their names; one that goes meanwhile is left out."""
        found = (self.find(name) for name in sorted(self._owned(self._names)))
        return [node for node in found if node is not None]

    def find(self, name: str) -> Node | None:
        return self._owned(lambda: self._info(name=name))

    def find_uuid(self, uuid: str) -> Node | None:
        return self._owned(lambda: self._info(uuid=uuid))

    def table(self, name: str) -> tuple[Target, ...]:
        """The live table."""
        return self._owned(lambda: self._targets(self._lib.DM_DEVICE_TABLE, name))

    def status(self, name: str) -> tuple[Target, ...]:
        """What each target says of itself, as `parameters`."""
        return self._owned(lambda: self._targets(self._lib.DM_DEVICE_STATUS, name))

    def beneath(self, name: str) -> list[str]:
        """MAJOR:MINOR of each device that the live table uses."""

        def deps() -> list[str]:
            with self._task(self._lib.DM_DEVICE_DEPS, name) as task:
                self._run(task, f"node {name} does not tell what it stands on")
                told = self._lib.dm_task_get_deps(task)
                numbers = [told.device[index] for index in range(told.count)]
                return [f"{os.major(number)}:{os.minor(number)}" for number in numbers]

        return self._owned(deps)

    # --- of the owning thread ---

    def _owned(self, work: Callable[[], R]) -> R:
        return self._thread.submit(work).result()

    @contextmanager
    def _task(self, kind: int, name: str | None) -> Iterator[Any]:
        self._lib.oma_dm_listen()
        task = self._lib.dm_task_create(kind)
        if task == self._ffi.NULL:
            raise Unavailable(self._complaint("the kernel's device-mapper cannot be asked"))
        try:
            if name is not None:
                self._must(self._lib.dm_task_set_name(task, name.encode()))
            yield task
        finally:
            self._lib.dm_task_destroy(task)

    @contextmanager
    def _cookie(self, *, wait: bool = True) -> Iterator[Any]:
        """A udev cookie for the changes of the block; udev is awaited at its end, whatever became of them.

        Without `wait` it carries our flags alone: the library would otherwise tell udev to drop the node's links.
        """
        cookie = self._ffi.new("uint32_t *", 0)
        if not wait:
            self._lib.dm_udev_set_sync_support(0)
        try:
            yield cookie
        finally:
            if wait:
                self._lib.dm_udev_wait(cookie[0])
            else:
                self._lib.dm_udev_set_sync_support(1)

    def _run(self, task: Any, what: str, cookie: Any = None) -> None:
        if cookie is not None:
            flags = (
                self._lib.DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG
                | self._lib.DM_UDEV_DISABLE_DISK_RULES_FLAG
                | self._lib.DM_UDEV_DISABLE_OTHER_RULES_FLAG
            )
            self._must(self._lib.dm_task_set_cookie(task, cookie, flags))
        if self._lib.dm_task_run(task):
            return
        code = self._lib.dm_task_get_errno(task)
        if code == errno.ENXIO:
            raise NoSuchNode(f"{what}: there is no such node")
        if code == errno.EBUSY:
            raise DeviceBusy(f"{what}: it is in use")
        raise BlockError(self._complaint(f"{what}: {os.strerror(code)}" if code else what))

    def _complaint(self, what: str) -> str:
        said = self._ffi.string(self._lib.oma_dm_said()).decode(errors="replace").strip()
        return f"{what} ({said})" if said else what

    def _must(self, outcome: int) -> None:
        if not outcome:
            raise BlockError(self._complaint("device-mapper's library does not take that"))

    def _add_table(self, task: Any, table: Sequence[Target], read_only: bool) -> None:
        for target in table:
            self._must(
                self._lib.dm_task_add_target(
                    task, target.start, target.length, target.kind.encode(), target.parameters.encode()
                )
            )
        if read_only:
            self._must(self._lib.dm_task_set_ro(task))

    def _names(self) -> list[str]:
        with self._task(self._lib.DM_DEVICE_LIST, None) as task:
            self._run(task, "the kernel does not list its nodes")
            entry = self._lib.dm_task_get_names(task)
            found: list[str] = []
            if entry == self._ffi.NULL or entry.dev == 0:
                return found
            while True:
                found.append(self._ffi.string(entry.name).decode())
                if not entry.next:
                    return found
                entry = self._ffi.cast("struct dm_names *", self._ffi.cast("char *", entry) + entry.next)

    def _info(self, *, name: str | None = None, uuid: str | None = None) -> Node | None:
        with self._task(self._lib.DM_DEVICE_INFO, name) as task:
            if uuid is not None:
                self._must(self._lib.dm_task_set_uuid(task, uuid.encode()))
            info = self._ffi.new("struct dm_info *")
            self._run(task, f"node {name or uuid} does not tell its state")
            if not self._lib.dm_task_get_info(task, info) or not info.exists:
                return None
            return Node(
                name=self._ffi.string(self._lib.dm_task_get_name(task)).decode(),
                uuid=self._ffi.string(self._lib.dm_task_get_uuid(task)).decode(),
                number=f"{info.major}:{info.minor}",
                openers=info.open_count,
                suspended=bool(info.suspended),
                live=bool(info.live_table),
                inactive=bool(info.inactive_table),
                read_only=bool(info.read_only),
                deferred=bool(info.deferred_remove),
            )

    def _targets(self, kind: int, name: str) -> tuple[Target, ...]:
        with self._task(kind, name) as task:
            self._run(task, f"node {name} does not tell its table")
            start, length = self._ffi.new("uint64_t *"), self._ffi.new("uint64_t *")
            what, parameters = self._ffi.new("char **"), self._ffi.new("char **")
            found: list[Target] = []
            following = self._ffi.NULL
            while True:
                following = self._lib.dm_get_next_target(task, following, start, length, what, parameters)
                if what[0] != self._ffi.NULL:
                    told = self._ffi.string(parameters[0]).decode() if parameters[0] != self._ffi.NULL else ""
                    found.append(Target(start[0], length[0], self._ffi.string(what[0]).decode(), told))
                if following == self._ffi.NULL:
                    return tuple(found)


def _open() -> tuple[Ffi, Lib]:
    there = dm.look()
    if not there.present:
        raise Unavailable(f"device-mapper cannot be used: {there.reason}", "omavol doctor says what is missing.")
    from omavol import _libdevmapper

    return _libdevmapper.ffi, _libdevmapper.lib
