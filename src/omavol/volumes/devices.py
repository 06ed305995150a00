"""A volume's device on this appliance: found by its serial, under its name, and what is said of it.

Where the provider itself knows the path (files of this machine) nothing is searched, and a file gets no node. Where the
kernel has no device-mapper a volume is opened as the kernel names it, and a served export is moved when that changes.
"""

from __future__ import annotations

import logging
import stat
from contextlib import AbstractContextManager
from pathlib import Path

from omavol.block.correlate import NODE_PREFIX, Outcome, Verdict, Wanted
from omavol.block.errors import BlockError
from omavol.block.holders import users_of
from omavol.block.mapper import SECTOR
from omavol.block.names import MappedNames, Named
from omavol.block.uevent import wait_for
from omavol.cloud.volumes import Described
from omavol.volumes.errors import VolumeError
from omavol.volumes.reconcile import Device
from omavol.volumes.rows import VolumeRow

__all__ = ["WAIT", "Devices"]

log = logging.getLogger("omavol.volumes")
MISSING = "device_missing"
WAIT = 60.0  # seconds that a disk may take to appear after the cloud says that it is attached


class Devices:
    """`names` is None where nodes cannot be had. Any thread may call, under the volume's lock."""

    def __init__(self, names: MappedNames | None = None) -> None:
        self._names = names

    @property
    def named(self) -> bool:
        """Whether volumes have nodes here."""
        return self._names is not None

    def appear(
        self,
        volume: VolumeRow,
        there: Described,
        seconds: float,
        held: AbstractContextManager[object] | None = None,
    ) -> Path:
        """The path by which an attached volume is opened; its device has `seconds` to show.

        `held` keeps requests from it while it is changed beneath an export. VolumeError says what was seen instead.
        """
        device = self._device(volume, there, seconds)
        if self._names is None or not stat.S_ISBLK(device.stat().st_mode):
            return device
        try:
            return self._names.give(_named(volume), device, held)
        except BlockError as error:
            raise _refused(error) from error

    def look(self, volume: VolumeRow, there: Described) -> Device:
        """How the device of a volume that is attached here stands, without changing anything.

        Doubt (a second disk with its serial, somebody who mounts it) is no loss: what stands goes on.
        """
        if there.path is not None and not Path(there.path).is_block_device():
            return Device.SOUND
        try:
            device = self._device(volume, there, 0)
            if self._names is not None:
                return Device.SOUND if self._names.stands(_named(volume), device) else Device.ADRIFT
        except VolumeError as error:
            if error.code == MISSING:
                return Device.LOST
            log.warning("%s", error.detail)
            return Device.SOUND
        except BlockError as error:  # it went just now, or its node cannot be looked at
            log.warning("volume %s: %s", volume.volume_id, error)
            return Device.SOUND
        return Device.SOUND if volume.device_path == str(device) else Device.ADRIFT

    def lose(self, volume: VolumeRow) -> None:
        """The device is gone: whoever has its node open fails instead of waiting."""
        if self._names is not None:
            try:
                self._names.lose(_named(volume))
            except BlockError as error:
                raise _refused(error) from error

    def part(self, volume: VolumeRow) -> None:
        """Take its node away, if there is one; VolumeError with the holders' names while somebody has it open."""
        if self._names is None:
            _free(volume)
        else:
            try:
                self._names.take_away(_named(volume))
            except BlockError as error:
                raise _refused(error) from error

    def standing(self) -> list[str]:
        """The volumes that have nodes now, by id."""
        if self._names is None:
            return []
        try:
            return [node.uuid.removeprefix(NODE_PREFIX) for node in self._names.standing()]
        except BlockError as error:
            raise _refused(error) from error

    def _device(self, volume: VolumeRow, there: Described, seconds: float) -> Path:
        if there.path is not None:
            return Path(there.path)
        if there.uuid is None:
            raise VolumeError(502, MISSING, f"volume {volume.volume_id} was attached, but has no device here")
        try:
            verdicts = wait_for([Wanted(volume.volume_id, there.uuid, volume.size)], seconds)
        except OSError as error:
            raise VolumeError(500, "no_uevents", f"the kernel's uevents cannot be heard: {error.strerror}") from error
        verdict = verdicts[volume.volume_id]
        if verdict.outcome is not Outcome.MATCHED or verdict.device is None:
            raise _unfound(volume, verdict)
        return verdict.device.path


def _named(volume: VolumeRow) -> Named:
    """The node has whole sectors, the last of them in part beyond the volume; the served table bounds that."""
    return Named(volume.volume_id, volume.persistent_name, -(-volume.size // SECTOR) * SECTOR)


def _free(volume: VolumeRow) -> None:
    """Without a node to remove, nothing but this refuses a detach beneath whoever has the device open."""
    try:
        device = Path(volume.device_path or "/dev/null")
        users = users_of(device) if device.is_block_device() else []
    except OSError:  # it went meanwhile
        return
    if users:
        who = ", ".join(map(str, users))
        raise VolumeError(409, "block_busy", f"{device} cannot be let go: {who}", "End that first.")


def _unfound(volume: VolumeRow, verdict: Verdict) -> VolumeError:
    code, advice = {
        Outcome.WAITING: (MISSING, "Look whether the disk is in this machine (omavol doctor, lsblk)."),
        Outcome.AMBIGUOUS: ("device_ambiguous", "Detach the one that is not this volume."),
        Outcome.WRONG_SIZE: ("device_wrong", "The cloud attached another disk than it says, or a smaller one."),
        Outcome.IN_USE: ("device_in_use", "End that, and attach again."),
    }[verdict.outcome]
    return VolumeError(502, code, f"volume {volume.volume_id}: {verdict.reason}", advice)


def _refused(error: BlockError) -> VolumeError:
    return VolumeError(409, error.code.replace(".", "_"), str(error), *([error.advice] if error.advice else []))
