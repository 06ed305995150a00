"""Knows at once when `omavol serve` goes and comes, and when the kernel's disks do.

Of the server: one connection to its control socket, held open. A hang-up means gone; then it is tried again, with waits
that grow to `LONGEST` seconds, and each time it is there again `back` runs (reconcile). Nothing else goes over it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from omavol.block.uevent import Uevents
from omavol.schema import control

__all__ = ["Watch", "hear_devices"]

log = logging.getLogger("omavol.daemon")
SHORTEST = 0.05
LONGEST = 2.0
ANSWER_TIMEOUT = 10.0
OURS = ("dm-", "loop")  # what changes by our own doing
BURST = 0.2  # seconds in which what the kernel says of its disks is taken together


class Watch:
    """`connected`, `listing` (without exports) and `reason` are for the event loop's tasks to read."""

    def __init__(self, path: Path, back: Callable[[], Awaitable[None]]) -> None:
        self.path = path
        self._back = back
        self.connected = False
        self.listing: control.Listing | None = None
        self.reason = "not asked yet"

    async def run(self) -> None:
        """Until cancelled."""
        wait = SHORTEST
        while True:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as peer:
                    peer.setblocking(False)
                    self.listing = await self._greet(peer)
                    self.connected, wait = True, SHORTEST
                    await self._back()
                    await asyncio.get_running_loop().sock_recv(peer, 1)
                    self.reason = "it hung up"
            except (OSError, TimeoutError, msgspec.DecodeError) as error:
                self.reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "no answer"
            finally:
                self.connected = False
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST)

    async def _greet(self, peer: socket.socket) -> control.Listing:
        loop = asyncio.get_running_loop()
        peer.connect(os.fspath(self.path))
        await loop.sock_sendall(peer, msgspec.json.encode(control.Hello()))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            packet = await loop.sock_recv(peer, control.MESSAGE_LIMIT)
        return msgspec.json.decode(packet, type=control.Listing)


async def hear_devices(changed: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled: call `changed` when whole disks came, went or changed, a burst of events at once."""
    try:
        events = Uevents()
    except OSError as error:
        log.warning("the kernel's uevents cannot be heard (%s): disks are looked at on the timer alone", error.strerror)
        return
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def woken() -> None:
        """Once a burst: a socket that is left unread would wake the loop again and again."""
        loop.remove_reader(events.fileno())
        told.set()

    with events:
        try:
            while True:
                loop.add_reader(events.fileno(), woken)
                await told.wait()
                await asyncio.sleep(BURST)
                told.clear()
                heard = events.take()
                if heard is None or any(not event.name.startswith(OURS) for event in heard):
                    await changed()
        finally:
            loop.remove_reader(events.fileno())
