"""What the API shows of the record: read only, and the served table's counters where the server answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from omavol.schema.control import Listing
from omavol.schema.volumes import DeviceMapping, Export, Exports, Operation, Volume, VolumeStatus
from omavol.volumes.errors import VolumeError
from omavol.volumes.house import House
from omavol.volumes.rows import EXPORTS, OPERATIONS, VOLUMES, ExportRow, OperationRow, VolumeRow, existing, live_session
from omavol.volumes.sessions import Sessions

__all__ = ["FILTERS", "Views", "shown_operation"]

FILTERS = ("type", "status", "volume_id", "vm_id")
EXPORT_FILTERS = ("volume_id", "status")


class Views:
    """Any thread may call. A deleted volume is not there any more; its operations are."""

    def __init__(self, house: House, sessions: Sessions) -> None:
        self._house = house
        self._sessions = sessions

    def volumes(self) -> list[Volume]:
        with self._house.record.read() as db:
            rows = VOLUMES.where(db, "status <> 'deleted' ORDER BY rowid")
            return [_volume(row, self._sessions, db) for row in rows]

    def volume(self, volume_id: str) -> Volume:
        with self._house.record.read() as db:
            return _volume(existing(db, volume_id), self._sessions, db)

    def device(self, volume_id: str) -> DeviceMapping:
        with self._house.record.read() as db:
            row = existing(db, volume_id)
        if row.vm_id is None or row.status is not VolumeStatus.ATTACHED:
            raise VolumeError(404, "not_attached", f"volume {volume_id} is {row.status}: it has no device")
        return _mapping(row)

    def volumes_of(self, vm_id: str) -> list[DeviceMapping]:
        with self._house.record.read() as db:
            rows = VOLUMES.where(db, "vm_id = ? AND status = 'attached' ORDER BY rowid", (vm_id,))
        return [_mapping(row) for row in rows]

    def operation(self, operation_id: str) -> Operation:
        with self._house.record.read() as db:
            return shown_operation(OPERATIONS.get(db, operation_id))

    def operations(self, filters: Mapping[str, str], limit: int) -> list[Operation]:
        """The newest `limit` that match every filter, newest first."""
        conditions = [f"{name} = ?" for name in FILTERS if name in filters]
        values = [filters[name] for name in FILTERS if name in filters]
        with self._house.record.read() as db:
            where = f"{' AND '.join(conditions) or 'TRUE'} ORDER BY rowid DESC LIMIT ?"
            return [shown_operation(row) for row in OPERATIONS.where(db, where, (*values, limit))]

    def exports(self, filters: Mapping[str, str], limit: int) -> Exports:
        conditions = [f"{name} = ?" for name in EXPORT_FILTERS if name in filters]
        values = [filters[name] for name in EXPORT_FILTERS if name in filters]
        listing = self._listing()
        with self._house.record.read() as db:
            where = f"{' AND '.join(conditions) or 'TRUE'} ORDER BY rowid LIMIT ?"
            shown = [_export(db, row, listing) for row in EXPORTS.where(db, where, (*values, limit))]
        return Exports(exports=shown, count=len(shown))

    def export(self, volume_id: str) -> Export:
        listing = self._listing()
        with self._house.record.read() as db:
            existing(db, volume_id)
            rows = EXPORTS.where(db, "volume_id = ?", (volume_id,))
            if not rows:
                raise VolumeError(404, "not_exported", f"volume {volume_id} is not exported: no session is open")
            return _export(db, rows[0], listing)

    def _listing(self) -> Listing | None:
        try:
            return self._house.served.listing()
        except VolumeError:
            return None


def shown_operation(row: OperationRow) -> Operation:
    return Operation(
        id=row.id,
        type=row.type,
        status=row.status,
        volume_id=row.volume_id,
        vm_id=row.vm_id,
        request=row.request,
        response=row.response,
        error=row.error,
        step=row.step,
        created_at=row.created_at,
        updated_at=row.updated_at,
        completed_at=row.completed_at,
    )


def _volume(row: VolumeRow, sessions: Sessions, db: sqlite3.Connection) -> Volume:
    live = live_session(db, row.volume_id)
    return Volume(
        volume_id=row.volume_id,
        name=row.name,
        persistent_name=row.persistent_name,
        size=row.size,
        capacity=row.capacity,
        status=row.status,
        content=row.content,
        generation=row.generation,
        epoch=row.epoch,
        vm_id=row.vm_id,
        device_path=row.device_path,
        session=sessions.shown(live) if live else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _mapping(row: VolumeRow) -> DeviceMapping:
    assert row.vm_id is not None
    return DeviceMapping(
        volume_id=row.volume_id,
        volume_uuid=row.volume_id,
        vm_id=row.vm_id,
        device_path=row.device_path,
        persistent_name=row.persistent_name,
        state="attached",
        size=row.size,
    )


def _export(db: sqlite3.Connection, row: ExportRow, listing: Listing | None) -> Export:
    served = next((e for e in listing.exports if e.name == row.export_name), None) if listing else None
    return Export(
        id=row.id,
        volume_id=row.volume_id,
        export_name=row.export_name,
        device_path=VOLUMES.get(db, row.volume_id).device_path,
        status=row.status,
        served=served is not None,
        connections=served.connections if served else 0,
        bytes_read=served.bytes_read if served else 0,
        bytes_written=served.bytes_written if served else 0,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
