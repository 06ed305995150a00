"""The kernel's own uevents of block devices, and the wait for a volume's device (netlink(7), NETLINK_KOBJECT_UEVENT).

The event wakes, sysfs decides: the serial can be read when the kernel announces a disk, 25 ms and more before udev has
handled it. What is missed costs nothing but time: the devices are looked at again every RESCAN seconds, and at once
when the kernel says that events were lost. No udev is needed, and a datagram of NUL-ended texts wants no library.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from omavol.block.correlate import Outcome, Verdict, Wanted, correlate
from omavol.block.holders import holders_of
from omavol.block.present import Present, present_device, present_devices

__all__ = ["Uevent", "Uevents", "wait_for"]

KOBJECT_UEVENT = 15  # linux/netlink.h
KERNEL_GROUP = 1  # udev's own events are group 2
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; root alone, past net.core.rmem_max
ROOM = 8 << 20  # bytes of events that may wait: 40 disks at once are some 100 KiB
LARGEST = 8192  # bytes; the kernel's own limit is 2048 (UEVENT_BUFFER_SIZE)
RESCAN = 1.0  # seconds


@dataclass(frozen=True)
class Uevent:
    """`action` is add, remove or change; `name` the kernel's name of a whole device, such as vdb."""

    action: str
    name: str


class Uevents:
    """Hears of whole block devices from the moment it is made; a context manager. `fileno` is readable when it has."""

    def __init__(self, room: int = ROOM) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, KOBJECT_UEVENT
        )
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, room)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            self._socket.bind((0, KERNEL_GROUP))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> list[Uevent] | None:
        """What was told since the last call, never waiting; None when events were lost: look for yourself."""
        events: list[Uevent] = []
        while True:
            try:
                data, sender = self._socket.recvfrom(LARGEST)
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            if sender[0] == 0 and (event := _parse(data)) is not None:  # the kernel, nobody who writes to the group
                events.append(event)

    def wait(self, seconds: float) -> bool:
        """Whether something was told within that time."""
        return bool(select.select([self._socket], [], [], max(0.0, seconds))[0])


def _parse(data: bytes) -> Uevent | None:
    """
    >>> _parse(b"add@/x\\0ACTION=add\\0DEVPATH=/x\\0SUBSYSTEM=block\\0DEVNAME=vdb\\0DEVTYPE=disk\\0")
    Uevent(action='add', name='vdb')
    """
    facts = dict(text.split("=", 1) for text in data.decode(errors="replace").split("\0") if "=" in text)
    if facts.get("SUBSYSTEM") != "block" or facts.get("DEVTYPE") != "disk":
        return None
    return Uevent(facts.get("ACTION", ""), facts.get("DEVNAME", ""))


def wait_for(
    wanted: Collection[Wanted],
    seconds: float,
    *,
    found: Callable[[str, Verdict], None] = lambda volume_id, verdict: None,
    room: int = ROOM,
) -> dict[str, Verdict]:
    """A verdict for each volume: returned when all are matched, or when the time is over with what is true then.

    `found` hears of each match at once, and again of one that was lost and came back. What is ambiguous, too small or
    in use is awaited too: it may be a device that is just leaving. `room` is the socket's, in bytes. OSError where
    netlink is not.
    """
    deadline = time.monotonic() + seconds
    told: dict[str, Present] = {}
    with Uevents(room) as events:  # before the first look: nothing falls in between
        looked = _Looked()
        rescan = time.monotonic() + RESCAN
        while True:
            verdicts = _judge(wanted, looked, told)
            fresh = _new_matches(verdicts, told)
            told = _matches(verdicts)
            for volume_id in fresh:
                found(volume_id, verdicts[volume_id])
            now = time.monotonic()
            if now >= deadline or len(told) == len(verdicts):
                return verdicts
            look = min(deadline, rescan)
            heard = events.take() if events.wait(look - now) else []
            if heard is None or time.monotonic() >= look:  # however much is told of other devices
                looked.again(None)
                rescan = time.monotonic() + RESCAN
            else:
                looked.again({event.name for event in heard})


class _Looked:
    """The devices as they were last looked at: reading one takes a hundredth of reading all.

    `fresh`: those that the last call looked at.
    """

    def __init__(self) -> None:
        self._devices: dict[str, Present] = {}
        self.fresh: set[str] = set()
        self.again(None)

    def again(self, names: Collection[str] | None) -> None:
        """Look at some again, or at all."""
        if names is None:
            self._devices = {device.name: device for device in present_devices()}
            self.fresh = set(self._devices)
            return
        self.fresh = set(names)
        for name in names:
            device = present_device(name)
            if device is None:
                self._devices.pop(name, None)
            else:
                self._devices[name] = device

    def all(self) -> list[Present]:
        return list(self._devices.values())


def _judge(wanted: Collection[Wanted], looked: _Looked, told: Mapping[str, Present]) -> dict[str, Verdict]:
    """Correlate; of those that match for the first time the kernel is asked whether somebody has them for himself."""
    verdicts = correlate(wanted, looked.all())
    stale = {device.name for device in _new_matches(verdicts, told).values()} - looked.fresh
    if stale:  # what is built on a device comes without an event of its own
        looked.again(stale)
        verdicts = correlate(wanted, looked.all())
    fresh = _new_matches(verdicts, told)
    held = {device.name: users for device in fresh.values() if (users := _exclusive_users(device))}
    return correlate(wanted, looked.all(), held) if held else verdicts


def _matches(verdicts: Mapping[str, Verdict]) -> dict[str, Present]:
    """The device of each volume that has one."""
    return {
        volume_id: verdict.device
        for volume_id, verdict in verdicts.items()
        if verdict.outcome is Outcome.MATCHED and verdict.device is not None
    }


def _new_matches(verdicts: Mapping[str, Verdict], told: Mapping[str, Present]) -> dict[str, Present]:
    """Those of which nothing was told yet, or of another device."""
    return {
        volume_id: device
        for volume_id, device in _matches(verdicts).items()
        if volume_id not in told or told[volume_id].number != device.number or told[volume_id].name != device.name
    }


def _exclusive_users(device: Present) -> list[str]:
    """Mounts, swap and whoever else opened it with O_EXCL (open(2)); of readers such as udev nothing is said.

    What is built on it, correlate has judged: it is the volume's own node, which has the device for itself too.
    """
    if device.built_on:
        return []
    try:
        os.close(os.open(device.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.EBUSY:  # it is gone, or has no node yet: whoever opens it in earnest says so
            return []
        return [str(each) for each in holders_of(device.path)] or ["somebody who does not show"]
    return []
