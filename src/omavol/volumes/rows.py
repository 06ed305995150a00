"""The rows of the record as typed values, and the few statements that read and write them.

Structures are stored as JSON text, times as RFC 3339. Column names in statements come from this file alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from omavol.schema.common import Problem, now
from omavol.schema.volumes import (
    Base,
    Content,
    OperationStatus,
    OperationType,
    SessionKind,
    SessionState,
    VolumeStatus,
)
from omavol.volumes.errors import VolumeError

__all__ = [
    "EXPORTS",
    "OPERATIONS",
    "SESSIONS",
    "UNFINISHED",
    "VOLUMES",
    "ExportRow",
    "Former",
    "OperationRow",
    "SessionRow",
    "VolumeRow",
    "existing",
    "had_session",
    "issued_to",
    "latest_session",
    "live_session",
    "unfinished_operation",
]

UNFINISHED = (OperationStatus.PENDING, OperationStatus.EXECUTING)


class VolumeRow(msgspec.Struct, kw_only=True, frozen=True):
    """`epoch`: the highest that any session asked with. `options`: what the provider may want (offering, zone, …)."""

    volume_id: str
    name: str
    persistent_name: str
    size: int
    capacity: int
    status: VolumeStatus
    content: Content
    generation: int
    epoch: int = 0
    vm_id: str | None = None
    device_path: str | None = None
    options: dict[str, str] = {}
    created_at: datetime
    updated_at: datetime


class OperationRow(msgspec.Struct, kw_only=True, frozen=True):
    """`key`: the caller's Idempotency-Key."""

    id: str
    type: OperationType
    status: OperationStatus
    volume_id: str
    vm_id: str | None = None
    request: dict[str, Any] = {}
    response: dict[str, Any] | None = None
    error: Problem | None = None
    step: str | None = None
    key: str | None = None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None


class Former(msgspec.Struct, kw_only=True, frozen=True):
    """What the volume held before the session opened."""

    content: Content
    generation: int


class SessionRow(msgspec.Struct, kw_only=True, frozen=True):
    """`incarnation`: the server's when the export was added, None before that. `counters_lost`: it was added again.

    `removed`: the server said that the export is flushed and closed. `point`: what prove was asked to record.
    """

    session_id: str
    volume_id: str
    job: str
    epoch: int
    kind: SessionKind
    state: SessionState
    mode: str
    reason: str
    base: Base | None
    generation: int
    former: Former
    export_name: str
    incarnation: str | None = None
    counters_lost: bool = False
    removed: bool = False
    bytes_written: int = 0
    point: str | None = None
    opened_at: datetime
    ended_at: datetime | None = None
    ended_because: str | None = None
    unprovable_because: str | None = None


class ExportRow(msgspec.Struct, kw_only=True, frozen=True):
    """`status`: pending until the server has it, then active."""

    id: str
    volume_id: str
    session_id: str
    export_name: str
    status: str
    created_at: datetime
    updated_at: datetime


T = TypeVar("T", bound=msgspec.Struct)


class Table(Generic[T]):
    """The statements of one table. Call with the connection of a transaction of the record."""

    def __init__(self, name: str, row: type[T], key: str, thing: str, json: frozenset[str], touched: bool) -> None:
        self.name = name
        self.row = row
        self.key = key
        self.thing = thing
        self.json = json
        self.touched = touched

    def insert(self, db: sqlite3.Connection, row: T) -> T:
        values = {name: self._stored(name, getattr(row, name)) for name in self.row.__struct_fields__}
        columns, marks = ", ".join(values), ", ".join("?" * len(values))
        db.execute(f"INSERT INTO {self.name} ({columns}) VALUES ({marks})", tuple(values.values()))
        return row

    def find(self, db: sqlite3.Connection, key: str) -> T | None:
        return next(iter(self.where(db, f"{self.key} = ?", (key,))), None)

    def get(self, db: sqlite3.Connection, key: str) -> T:
        """The row, or the error that answers 404."""
        if (row := self.find(db, key)) is None:
            raise VolumeError(404, f"unknown_{self.thing}", f"there is no {self.thing} {key!r}")
        return row

    def where(self, db: sqlite3.Connection, condition: str, values: Iterable[str | int] = ()) -> list[T]:
        rows = db.execute(f"SELECT * FROM {self.name} WHERE {condition}", tuple(values))
        return [self._read(row) for row in rows]

    def update(self, db: sqlite3.Connection, key: str, **changes: Any) -> None:
        if self.touched:
            changes.setdefault("updated_at", now())
        values = [self._stored(name, value) for name, value in changes.items()]
        columns = ", ".join(f"{name} = ?" for name in changes)
        db.execute(f"UPDATE {self.name} SET {columns} WHERE {self.key} = ?", (*values, key))

    def delete(self, db: sqlite3.Connection, key: str) -> None:
        db.execute(f"DELETE FROM {self.name} WHERE {self.key} = ?", (key,))

    def _stored(self, name: str, value: Any) -> str | int | None:
        if value is None:
            return None
        if name in self.json:
            return msgspec.json.encode(value).decode()
        if isinstance(value, datetime):
            return value.isoformat(timespec="microseconds")
        return int(value) if isinstance(value, int) else str(value)

    def _read(self, row: sqlite3.Row) -> T:
        values = {
            name: msgspec.json.decode(row[name]) if name in self.json and row[name] is not None else row[name]
            for name in tuple(row.keys())
        }
        typed: T = msgspec.convert(values, self.row, strict=False)
        return typed


VOLUMES = Table("volumes", VolumeRow, "volume_id", "volume", frozenset({"content", "options"}), True)
OPERATIONS = Table("operations", OperationRow, "id", "operation", frozenset({"request", "response", "error"}), True)
SESSIONS = Table("sessions", SessionRow, "session_id", "session", frozenset({"base", "former"}), False)
EXPORTS = Table("exports", ExportRow, "export_name", "export", frozenset(), True)


def existing(db: sqlite3.Connection, volume_id: str) -> VolumeRow:
    """The volume, or the error that answers 404: a deleted one is not there any more."""
    row = VOLUMES.get(db, volume_id)
    if row.status is VolumeStatus.DELETED:
        raise VolumeError(404, "unknown_volume", f"volume {volume_id} was deleted")
    return row


def live_session(db: sqlite3.Connection, volume_id: str) -> SessionRow | None:
    rows = SESSIONS.where(db, "volume_id = ? AND state IN ('open', 'proving')", (volume_id,))
    return rows[0] if rows else None


def latest_session(db: sqlite3.Connection, volume_id: str) -> SessionRow | None:
    rows = SESSIONS.where(db, "volume_id = ? ORDER BY rowid DESC LIMIT 1", (volume_id,))
    return rows[0] if rows else None


def had_session(db: sqlite3.Connection, volume_id: str, job: str) -> bool:
    statement = "SELECT 1 FROM sessions WHERE volume_id = ? AND job = ? LIMIT 1"
    return db.execute(statement, (volume_id, job)).fetchone() is not None


def issued_to(db: sqlite3.Connection, export_names: Iterable[str]) -> dict[str, str]:
    """Export name to volume, for those of the names that a session of this record was given."""
    statement = "SELECT volume_id FROM sessions WHERE export_name = ?"
    found = ((name, db.execute(statement, (name,)).fetchone()) for name in export_names)
    return {name: str(row[0]) for name, row in found if row is not None}


def unfinished_operation(db: sqlite3.Connection, volume_id: str) -> OperationRow | None:
    """The one operation under way on the volume; mends, which are short and wait for nobody, do not count."""
    unfinished = "volume_id = ? AND status IN ('pending', 'executing') AND type <> 'mend'"
    rows = OPERATIONS.where(db, unfinished, (volume_id,))
    return rows[0] if rows else None
