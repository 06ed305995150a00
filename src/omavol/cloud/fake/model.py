"""Volumes, machines and snapshots of the fake, and what may be done to them, as CloudStack does it.

The rules are those of apache/cloudstack: VolumeApiServiceImpl (states, device ids, refusals), Volume.java (states),
LibvirtComputingResource.diskUuidToSerial (serials). Nothing here takes time; `jobs` makes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from omavol.cloud.fake.hardware import Hardware

__all__ = ["GIB", "Machine", "Model", "Refusal", "Snapshot", "Volume", "serial_of"]

GIB = 1 << 30
PARAMETER, INTERNAL, CAPACITY, IN_USE = 431, 530, 533, 536  # ApiErrorCode
CD_ROM = 3  # the device id that no disk gets
BETWEEN = frozenset({"Snapshotting", "RevertSnapshotting", "Resizing"})  # states of a volume that a job works on
TIME = "%Y-%m-%dT%H:%M:%S+0000"


class Refusal(Exception):
    """CloudStack's no: an ApiErrorCode, which is the HTTP status too, and its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def serial_of(volume_id: str) -> str:
    """
    >>> serial_of("b3bb9310-1b59-4f62-97e8-cefffdfe3804")
    'b3bb93101b594f6297e8'
    """
    return volume_id.replace("-", "")[:20]


@dataclass
class Volume:
    """`size` is bytes. A new one is Allocated, on no storage, until it is attached for the first time."""

    id: str
    name: str
    size: int
    zone: str
    offering: str
    state: str = "Allocated"
    machine: str | None = None
    device: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime(TIME))

    def shown(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "size": self.size,
            "state": self.state,
            "type": "DATADISK",
            "zoneid": self.zone,
            "diskofferingid": self.offering,
            "created": self.created,
            "hypervisor": "KVM",
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()],
        }
        if self.machine is not None:
            facts |= {"virtualmachineid": self.machine, "deviceid": self.device, "vmstate": "Running"}
        return facts


@dataclass
class Machine:
    id: str
    name: str
    zone: str
    state: str = "Running"
    has_snapshots: bool = False  # of the machine: no disk may come or go then

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "state": self.state, "zoneid": self.zone, "hypervisor": "KVM"}


@dataclass
class Snapshot:
    """Of a volume, of which it has the `size` too; it outlives the volume. Creating until its job ends."""

    id: str
    volume: str
    name: str
    size: int
    state: str = "Creating"

    def shown(self) -> dict[str, Any]:
        facts = {"id": self.id, "volumeid": self.volume, "name": self.name, "state": self.state}
        return {**facts, "virtualsize": self.size, "snapshottype": "MANUAL"}


@dataclass
class Model:
    """One zone. `most`: data disks of a machine (for KVM 32 since CloudStack 4.6). One thread at a time."""

    hardware: Hardware
    zone: str = "6f0b2e3c-0000-4000-8000-000000000001"
    offering: str = "6f0b2e3c-0000-4000-8000-000000000002"
    most: int = 32
    volumes: dict[str, Volume] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    def add_machine(self, id: str, name: str) -> Machine:
        self.machines[id] = machine = Machine(id, name, self.zone)
        return machine

    def volume(self, id: str) -> Volume:
        if id not in self.volumes:
            raise _missing("id", id)
        return self.volumes[id]

    def machine(self, id: str) -> Machine:
        if id not in self.machines:
            raise _missing("virtualmachineid", id)
        return self.machines[id]

    # --- what jobs do ---

    def create(self, id: str, name: str, gigabytes: int) -> dict[str, Any]:
        if gigabytes < 1:
            raise Refusal(PARAMETER, "Invalid size for custom volume: 0")
        self.volumes[id] = volume = Volume(id, name, gigabytes * GIB, self.zone, self.offering)
        return {"volume": volume.shown()}

    def may_attach(self, volume: Volume, machine: Machine, device: int | None) -> int:
        """The device id that it gets."""
        if volume.machine is not None:
            raise Refusal(PARAMETER, "Please specify a volume that is not attached to any VM.")
        if volume.state not in ("Allocated", "Ready", "Uploaded"):
            raise Refusal(PARAMETER, "Volume state must be in Allocated, Ready or in Uploaded state")
        if machine.has_snapshots:
            raise Refusal(PARAMETER, "Unable to attach volume, please specify a VM that does not have VM snapshots")
        if machine.state not in ("Running", "Stopped"):
            raise Refusal(PARAMETER, "Please specify a VM that is either running or stopped.")
        taken = {each.device for each in self.volumes.values() if each.machine == machine.id}
        allowed = [number for number in range(1, self.most + 2) if number != CD_ROM]
        if device == 0:
            if machine.state != "Stopped":
                raise Refusal(PARAMETER, "Virtual machine must be Stopped to attach a root volume")
        elif device is not None and device not in allowed:
            raise Refusal(PARAMETER, f"deviceId should be 0,1,2,4-{self.most + 1}")
        if device in taken:
            raise Refusal(IN_USE, f"deviceId {device} is used by vm {machine.id}")
        free = [number for number in allowed if number not in taken]
        if device is None and not free:
            raise Refusal(INTERNAL, f"The specified VM already has the maximum number of data disks ({self.most})")
        return free[0] if device is None else device

    def attach(self, volume_id: str, machine_id: str, device: int | None, plug: bool = True) -> dict[str, Any]:
        volume, machine = self.volume(volume_id), self.machine(machine_id)
        number = self.may_attach(volume, machine, device)
        if plug:
            self.hardware.plug(volume.id, serial_of(volume.id), volume.size)
        volume.machine, volume.device, volume.state = machine.id, number, "Ready"
        return {"volume": volume.shown()}

    def detach(self, volume_id: str, unplug: bool = True) -> dict[str, Any]:
        volume = self.volume(volume_id)
        if volume.machine is None:
            raise Refusal(PARAMETER, "The specified volume is not attached to a VM.")
        if self.machine(volume.machine).has_snapshots:
            raise Refusal(PARAMETER, "Unable to detach volume, please specify a VM that does not have VM snapshots")
        if unplug:
            self.hardware.unplug(volume.id)
        volume.machine = volume.device = None
        return {"volume": volume.shown()}

    def delete(self, volume_id: str) -> None:
        volume = self.volume(volume_id)
        if volume.machine is not None:
            raise Refusal(PARAMETER, "Please specify a volume that is not attached to any VM.")
        if volume.state in BETWEEN:
            raise Refusal(PARAMETER, f"The volume is {volume.state}, Unable to delete the volume")
        self.hardware.destroy(volume.id)
        del self.volumes[volume_id]

    def begin(self, volume_id: str, state: str) -> None:
        """A job works on the volume from now on; a new one, which is Allocated, has nothing to work on."""
        volume = self.volume(volume_id)
        if volume.state == "Ready":
            volume.state = state

    def end(self, volume_id: str) -> None:
        """No job works on the volume any more."""
        if volume_id in self.volumes and self.volumes[volume_id].state in BETWEEN:
            self.volumes[volume_id].state = "Ready"

    def resize(self, volume_id: str, gigabytes: int) -> dict[str, Any]:
        volume = self.volume(volume_id)
        if gigabytes * GIB < volume.size:
            raise Refusal(PARAMETER, "Going from existing size to smaller size would shrink the volume.")
        if volume.machine is not None and self.machine(volume.machine).has_snapshots:
            raise Refusal(PARAMETER, "A volume that is attached to a VM with any VM snapshots cannot be resized.")
        self.hardware.resize(volume.id, gigabytes * GIB)
        volume.size = gigabytes * GIB
        self.end(volume_id)
        return {"volume": volume.shown()}

    def begin_snapshot(self, id: str, volume_id: str, name: str) -> None:
        """It is there, Creating, before its job is done."""
        volume = self.volume(volume_id)
        if volume.state != "Ready":
            raise Refusal(PARAMETER, f"VolumeId: {volume_id} is not in Ready state but {volume.state}.")
        self.snapshots[id] = Snapshot(id, volume_id, name, volume.size)
        self.begin(volume_id, "Snapshotting")

    def take_snapshot(self, id: str) -> dict[str, Any]:
        snapshot = self.find_snapshot(id)
        self.hardware.snapshot(snapshot.volume, id)
        snapshot.state = "BackedUp"
        self.end(snapshot.volume)
        return {"snapshot": snapshot.shown()}

    def fail_snapshot(self, id: str) -> None:
        snapshot = self.find_snapshot(id)
        snapshot.state = "Error"
        self.end(snapshot.volume)

    def revert(self, id: str) -> dict[str, Any]:
        """The volume has the snapshot's bytes and size again (SnapshotManagerImpl.revertSnapshot)."""
        snapshot = self.find_snapshot(id)
        volume = self.volume(snapshot.volume)
        if snapshot.state != "BackedUp":
            raise Refusal(PARAMETER, f"The snapshot {id} is {snapshot.state}: it cannot be reverted to")
        if volume.machine is not None and self.machine(volume.machine).state != "Stopped":
            raise Refusal(PARAMETER, "The VM the specified disk is attached to is not in the shutdown state.")
        self.hardware.revert(snapshot.volume, id)
        volume.size = snapshot.size
        self.end(snapshot.volume)
        return {"snapshot": snapshot.shown()}

    def delete_snapshot(self, id: str) -> dict[str, Any]:
        self.find_snapshot(id)
        self.hardware.forget(id)
        del self.snapshots[id]
        return {"success": True}

    def find_snapshot(self, id: str) -> Snapshot:
        if id not in self.snapshots:
            raise _missing("id", id)
        return self.snapshots[id]

    def tag(self, ids: list[str], tags: dict[str, str]) -> dict[str, Any]:
        for id in ids:
            self.volume(id).tags |= tags
        return {"success": True}

    # --- what may be asked at once ---

    def list_volumes(self, wanted: dict[str, str]) -> Iterator[dict[str, Any]]:
        tags = _tags(wanted, "tags")
        for volume in list(self.volumes.values()):
            if (
                wanted.get("id", volume.id) == volume.id
                and wanted.get("name", volume.name) == volume.name
                and wanted.get("keyword", "") in volume.name
                and wanted.get("virtualmachineid", volume.machine) == volume.machine
                and tags.items() <= volume.tags.items()
            ):
                yield volume.shown()


def _tags(wanted: dict[str, str], name: str) -> dict[str, str]:
    """
    >>> _tags({"tags[0].key": "oma", "tags[0].value": "1", "id": "x"}, "tags")
    {'oma': '1'}
    """
    keys = {key: value for key, value in wanted.items() if key.startswith(f"{name}[") and key.endswith("].key")}
    return {value: wanted.get(key.replace("].key", "].value"), "") for key, value in sorted(keys.items())}


def _missing(name: str, id: str) -> Refusal:
    """CloudStack's words for an id that it does not know (ParamProcessWorker.java)."""
    return Refusal(
        PARAMETER,
        f"Invalid parameter {name} value={id} due to incorrect long value format, or entity does not exist or due "
        "to incorrect parameter annotation for the field in api cmd class.",
    )


def new_id() -> str:
    return str(uuid.uuid4())
