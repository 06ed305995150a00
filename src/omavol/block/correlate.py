"""Which device is which volume: a pure function from the volumes wanted and the devices present to a verdict each.

A device is known by its serial, never by size, order or time (ARCHITECTURE.md). CloudStack's agent gives a disk the
volume's UUID without hyphens as its serial, of which virtio-blk shows 20 characters; some releases put the disk's
number in front. What is not certain is not decided: two that fit are an error that names both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from omavol.block.present import Kind, Present

__all__ = ["NODE_PREFIX", "Outcome", "Verdict", "Wanted", "correlate", "known_by"]

SHOWN = 20  # characters of a serial that virtio-blk has (virtio 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES)
LEAST = 16  # hexadecimal characters (64 bits) without which a serial with a number in front says too little
NODE_PREFIX = "OMA-"  # of the device-mapper UUID of a volume's node
_NUMBERED = re.compile(r"\d{1,3}-([0-9a-f-]+)")


@dataclass(frozen=True)
class Wanted:
    """`uuid` is the cloud's id of the volume, 36 characters; the device must have `size` bytes or more.

    `volume_id` is ours: the node that may hold the device has the UUID OMA-<volume_id>.
    """

    volume_id: str
    uuid: str
    size: int


class Outcome(StrEnum):
    MATCHED = "matched"
    WAITING = "waiting"  # no such device, yet
    AMBIGUOUS = "ambiguous"  # more than one device fits, or one fits more than one volume
    WRONG_SIZE = "wrong-size"
    IN_USE = "in-use"


@dataclass(frozen=True)
class Verdict:
    """`device` is the one that fits, where exactly one does; `reason` says it in words."""

    outcome: Outcome
    reason: str
    device: Present | None = None


def known_by(serial: str, uuid: str) -> bool:
    """Whether a device with that serial may be the volume with that id.

    Behind a number stands what virtio-blk had room for, or all of it: anything shorter is another disk's.

    >>> uuid = "b3bb9310-1b59-4f62-97e8-cefffdfe3804"
    >>> known_by("b3bb93101b594f6297e8", uuid), known_by("2-b3bb93101b594f6297", uuid), known_by("b3bb9310", uuid)
    (True, True, False)
    """
    serial, hyphened = serial.lower(), uuid.lower()
    plain = hyphened.replace("-", "")
    whole = (plain[:SHOWN], plain, hyphened, hyphened[:SHOWN])
    if serial in whole:
        return True
    numbered = _NUMBERED.fullmatch(serial)
    if numbered is None:
        return False
    rest = numbered[1]
    if len(serial) != SHOWN:
        return rest in whole
    return len(rest.replace("-", "")) >= LEAST and (plain.startswith(rest) or hyphened.startswith(rest))


def correlate(
    wanted: Collection[Wanted], present: Sequence[Present], held: Mapping[str, Sequence[str]] = {}
) -> dict[str, Verdict]:
    """A verdict for each volume, by its `volume_id`; the order of neither argument matters.

    `held` says in words who has a device, by the device's name, where somebody was looked for: mounts, processes.
    """
    disks = [device for device in present if device.kind not in (Kind.DM, Kind.MD)]
    fitting = {each.volume_id: _fitting(each, disks) for each in wanted}
    claims: dict[str, set[str]] = {}
    for volume_id, devices in fitting.items():
        for device in devices:
            claims.setdefault(device.name, set()).add(volume_id)
    nodes = {device.name: device for device in present if device.kind is Kind.DM}
    return {each.volume_id: _verdict(each, fitting[each.volume_id], claims, nodes, held) for each in wanted}


def _fitting(wanted: Wanted, disks: Sequence[Present]) -> list[Present]:
    return sorted(
        (disk for disk in disks if any(known_by(serial, wanted.uuid) for serial in disk.serials)),
        key=lambda disk: disk.name,
    )


def _verdict(
    wanted: Wanted,
    fitting: Sequence[Present],
    claims: Mapping[str, set[str]],
    nodes: Mapping[str, Present],
    held: Mapping[str, Sequence[str]],
) -> Verdict:
    if not fitting:
        serial = wanted.uuid.replace("-", "")[:SHOWN]
        return Verdict(Outcome.WAITING, f"no device has the serial {serial} yet")
    if len(fitting) > 1:
        names = " and ".join(f"{each.path} ({each.size} bytes)" for each in fitting)
        return Verdict(Outcome.AMBIGUOUS, f"{names} have its serial: one of them is not what it says")
    (device,) = fitting
    if others := claims[device.name] - {wanted.volume_id}:
        return Verdict(Outcome.AMBIGUOUS, f"{device.path} fits volume {', '.join(sorted(others))} as well", device)
    if device.size < wanted.size:
        return Verdict(
            Outcome.WRONG_SIZE, f"{device.path} has {device.size} bytes, the volume needs {wanted.size}", device
        )
    if users := [*_foreign(wanted, device, nodes), *held.get(device.name, ())]:
        return Verdict(Outcome.IN_USE, f"{device.path} is in use: {', '.join(users)}", device)
    return Verdict(Outcome.MATCHED, f"{device.path} has its serial", device)


def _foreign(wanted: Wanted, device: Present, nodes: Mapping[str, Present]) -> list[str]:
    """Whoever is built on the device, but for the volume's own node."""
    users = []
    for name in device.built_on:
        node = nodes.get(name)
        if node is None or node.uuid != NODE_PREFIX + wanted.volume_id:
            users.append(f"device {name}" + (f" ({node.label})" if node is not None and node.label else ""))
    return users
