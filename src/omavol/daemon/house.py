"""Everything one daemon owns, made and ended in the right order; the routes find it in the request's state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from omavol.block import dm
from omavol.block.mapper import Mapper
from omavol.block.names import MappedNames
from omavol.daemon.answers import in_thread
from omavol.daemon.watch import Watch, hear_devices
from omavol.schema.volumes import OperationType
from omavol.volumes.devices import Devices
from omavol.volumes.house import House
from omavol.volumes.lifecycle import LIFECYCLE
from omavol.volumes.mend import Mender
from omavol.volumes.operations import Operations
from omavol.volumes.proof import PROOF
from omavol.volumes.record import Record
from omavol.volumes.served import ControlSocket
from omavol.volumes.sessions import Sessions
from omavol.volumes.views import Views

__all__ = ["Daemon", "Finishing", "run_daemon"]

log = logging.getLogger("omavol.daemon")
INTERVAL = 30.0
STOP_TIMEOUT = 5.0


class Finishing:
    """Lets a request wait until an operation is finished. Of the event loop; `tell` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
        self._loop = loop
        self._stopping = stopping
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, operation_id: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._wake, operation_id)

    def _wake(self, operation_id: str) -> None:
        for event in self._waiting.get(operation_id, ()):
            event.set()

    async def wait(self, operation_id: str, unfinished: Callable[[], bool], timeout: float) -> None:
        """Return when it ended, when `timeout` seconds are over, or when the daemon stops."""
        event = asyncio.Event()
        self._waiting.setdefault(operation_id, set()).add(event)
        try:
            if await in_thread(unfinished):
                ends = [asyncio.ensure_future(e.wait()) for e in (event, self._stopping)]
                try:
                    await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
        finally:
            waiting = self._waiting[operation_id]
            waiting.discard(event)
            if not waiting:
                del self._waiting[operation_id]


@dataclass
class Daemon:
    """Reached by the routes. `mend` runs a comparison now."""

    house: House
    operations: Operations
    sessions: Sessions
    views: Views
    mender: Mender
    finishing: Finishing
    watch: Watch
    stopped_in_time: bool = field(default=True)

    async def mend(self) -> None:
        """Compare and mend, then start what is unfinished. Whatever happens, the daemon goes on."""
        try:
            await in_thread(self.mender.run)
            await in_thread(self.operations.resume)
        except Exception:  # the outermost edge of a periodic task
            log.exception("reconcile failed; it runs again in %g s", INTERVAL)

    async def _mend_for_ever(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.mend()


@asynccontextmanager
async def run_daemon(state: Path, control: Path, stopping: asyncio.Event) -> AsyncIterator[Daemon]:
    """Open the record, drive to an end what a crash left, then keep comparing until the block ends."""
    record = await in_thread(Record, state / "record.sqlite")
    mapper = await in_thread(_mapper)
    house = House(state, record, ControlSocket(control), devices=Devices(MappedNames(mapper) if mapper else None))
    finishing = Finishing(asyncio.get_running_loop(), stopping)
    operations = Operations(house, {**LIFECYCLE, OperationType.PROVE: PROOF}, finishing.tell)
    sessions = Sessions(house)
    mender = Mender(house, sessions)
    watch = Watch(control, lambda: daemon.mend())
    daemon = Daemon(house, operations, sessions, Views(house, sessions), mender, finishing, watch)
    await daemon.mend()
    tasks = [
        asyncio.create_task(daemon.watch.run()),
        asyncio.create_task(daemon._mend_for_ever()),
        asyncio.create_task(hear_devices(daemon.mend)),
    ]
    try:
        yield daemon
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        daemon.stopped_in_time = await in_thread(operations.close, STOP_TIMEOUT)
        if daemon.stopped_in_time:
            await in_thread(record.close)
            if mapper is not None:
                await in_thread(mapper.close)


def _mapper() -> Mapper | None:
    """Device-mapper's nodes, where this kernel has them and this process may make them."""
    return Mapper() if os.geteuid() == 0 and dm.look().present else None
