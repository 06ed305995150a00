"""Turns what is asked into a recorded operation: create, attach, detach, delete."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from omavol.cloud.volumes import capacity_for
from omavol.schema.common import new_id, now
from omavol.schema.volumes import AttachVolume, CreateVolume, OperationType, UnknownContent, VolumeStatus
from omavol.volumes.errors import VolumeError
from omavol.volumes.names import first_choice, unique
from omavol.volumes.operations import Operations
from omavol.volumes.record import Record
from omavol.volumes.rows import VOLUMES, OperationRow, VolumeRow

__all__ = ["attach", "create", "delete", "detach"]

LARGEST = 2**63 - 1  # an off_t, and an INTEGER of the record


def create(operations: Operations, record: Record, wanted: CreateVolume, key: str | None) -> OperationRow:
    """Allocate the volume's id and name, and start making it."""
    if wanted.size == 0 or capacity_for(wanted.size) > LARGEST:
        raise VolumeError(400, "bad_size", f"a volume of {wanted.size} bytes cannot be made")
    record.provider()  # an unset one is an error now, not a failed operation
    volume_id = new_id()
    options = {**wanted.metadata}
    options |= {name: value for name in _OFFERS if (value := getattr(wanted, name)) is not None}

    def insert(db: sqlite3.Connection) -> VolumeRow:
        at = now()
        name = unique(first_choice(wanted.name, wanted.metadata), lambda name: _taken(db, name))
        db.execute("INSERT INTO names VALUES (?, ?, ?)", (name, volume_id, at.isoformat()))
        return VOLUMES.insert(
            db,
            VolumeRow(
                volume_id=volume_id,
                name=wanted.name,
                persistent_name=name,
                size=wanted.size,
                capacity=capacity_for(wanted.size),
                status=VolumeStatus.CREATING,
                content=UnknownContent(),
                generation=1,
                options=options,
                created_at=at,
                updated_at=at,
            ),
        )

    request: dict[str, Any] = msgspec.to_builtins(wanted)
    return operations.submit(OperationType.CREATE, volume_id, request, key=key, prepare=insert)


def attach(
    operations: Operations, record: Record, volume_id: str, wanted: AttachVolume, key: str | None
) -> OperationRow:
    record.provider()
    request = {"vm_id": wanted.vm_id}
    return operations.submit(OperationType.ATTACH, volume_id, request, key=key, vm_id=wanted.vm_id)


def detach(operations: Operations, volume_id: str, key: str | None) -> OperationRow:
    return operations.submit(OperationType.DETACH, volume_id, {}, key=key)


def delete(operations: Operations, volume_id: str, key: str | None) -> OperationRow:
    return operations.submit(OperationType.DELETE, volume_id, {}, key=key)


_OFFERS = ("disk_offering_id", "zone_id")


def _taken(db: sqlite3.Connection, name: str) -> bool:
    return db.execute("SELECT 1 FROM names WHERE name = ?", (name,)).fetchone() is not None
