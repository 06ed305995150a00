"""The daemon's record: one SQLite file that is the truth about volumes, and the transactions on it.

WAL with synchronous=FULL: what a commit returned from survives a power failure (sqlite.org/pragma.html). A writer
takes the lock at once (BEGIN IMMEDIATE), so that nothing is decided on what another transaction is changing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from omavol.schema.volumes import Provider
from omavol.volumes.errors import VolumeError

__all__ = ["SCHEMA_VERSION", "Record", "RecordRefused"]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x4F4D4156  # "OMAV"
APPLIANCE = "local-appliance"

_SCHEMA = """
CREATE TABLE names (name TEXT PRIMARY KEY, volume_id TEXT NOT NULL UNIQUE, allocated_at TEXT NOT NULL) STRICT;
CREATE TABLE provider (
    id INTEGER PRIMARY KEY CHECK (id = 1), kind TEXT NOT NULL, appliance_vm_id TEXT NOT NULL, settings TEXT NOT NULL
) STRICT;
CREATE TABLE volumes (
    volume_id TEXT PRIMARY KEY, name TEXT NOT NULL, persistent_name TEXT NOT NULL UNIQUE REFERENCES names,
    size INTEGER NOT NULL, capacity INTEGER NOT NULL, status TEXT NOT NULL, content TEXT NOT NULL,
    generation INTEGER NOT NULL, epoch INTEGER NOT NULL, vm_id TEXT, device_path TEXT, options TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL
) STRICT;
CREATE TABLE operations (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, status TEXT NOT NULL, volume_id TEXT NOT NULL REFERENCES volumes,
    vm_id TEXT, request TEXT NOT NULL, response TEXT, error TEXT, step TEXT, key TEXT UNIQUE,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, completed_at TEXT
) STRICT;
CREATE UNIQUE INDEX one_operation_a_volume ON operations (volume_id)
    WHERE status IN ('pending', 'executing') AND type <> 'mend';
CREATE INDEX operations_of_a_volume ON operations (volume_id, id);
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY, volume_id TEXT NOT NULL REFERENCES volumes, job TEXT NOT NULL, epoch INTEGER NOT NULL,
    kind TEXT NOT NULL, state TEXT NOT NULL, mode TEXT NOT NULL, reason TEXT NOT NULL, base TEXT,
    generation INTEGER NOT NULL, former TEXT NOT NULL, export_name TEXT NOT NULL UNIQUE, incarnation TEXT,
    counters_lost INTEGER NOT NULL, removed INTEGER NOT NULL, bytes_written INTEGER NOT NULL, point TEXT,
    opened_at TEXT NOT NULL, ended_at TEXT, ended_because TEXT, unprovable_because TEXT
) STRICT;
CREATE UNIQUE INDEX one_live_session_a_volume ON sessions (volume_id) WHERE state IN ('open', 'proving');
CREATE INDEX sessions_of_a_volume ON sessions (volume_id, session_id);
CREATE TABLE exports (
    id TEXT PRIMARY KEY, volume_id TEXT NOT NULL UNIQUE REFERENCES volumes,
    session_id TEXT NOT NULL UNIQUE REFERENCES sessions, export_name TEXT NOT NULL UNIQUE, status TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL
) STRICT;
"""


class RecordRefused(VolumeError):
    """The file cannot be used as the record; it was not touched."""

    def __init__(self, detail: str, *advice: str) -> None:
        super().__init__(503, "record_refused", detail, *advice)


class Record:
    """One connection, used by any thread, one at a time: `_lock` guards it, held for the length of a transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            # Made with the right mode before SQLite does; the WAL files inherit it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._db.row_factory = sqlite3.Row
        except (OSError, sqlite3.Error) as error:
            raise RecordRefused(f"the record {path} cannot be opened: {error}", "Check its rights.") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise RecordRefused(
                f"the record {path} cannot be used: {error}", "Restore it from a backup, or start in an empty folder."
            ) from error
        except RecordRefused:
            self._db.close()
            raise

    def _prepare(self) -> None:
        version, application = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
        fresh = version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        if not fresh and application != APPLICATION_ID:
            raise RecordRefused(f"{self.path} is another program's database", "Choose another state directory.")
        if version > SCHEMA_VERSION:
            raise RecordRefused(
                f"the record {self.path} has schema version {version}, newer than {SCHEMA_VERSION}, which this knows",
                "Run the version of omavol that wrote it, or a later one.",
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if fresh:
            with self.write() as db:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute("INSERT INTO provider VALUES (1, 'local', ?, '{}')", (APPLIANCE,))
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk when the block ends, or none of it when it raises."""
        with self._lock:
            if self._db.in_transaction:  # a part of the caller's
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Rows that belong together: nothing is written between the reads of one block."""
        with self._lock:
            yield self._db

    def provider(self) -> Provider:
        """The provider's row; an empty one is an error, never "not this appliance"."""
        with self.read() as db:
            row = db.execute("SELECT kind, appliance_vm_id, settings FROM provider").fetchone()
        if row is None or not row["kind"] or not row["appliance_vm_id"]:
            raise VolumeError(
                409,
                "provider_unset",
                "the provider or the appliance's machine id is not set",
                "PUT /api/v1/provider with kind and appliance_vm_id.",
            )
        return Provider(
            kind=row["kind"],
            appliance_vm_id=row["appliance_vm_id"],
            settings=msgspec.json.decode(row["settings"], type=dict[str, str]),
        )

    def set_provider(self, provider: Provider) -> None:
        values = (provider.kind, provider.appliance_vm_id, msgspec.json.encode(provider.settings).decode())
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO provider VALUES (1, ?, ?, ?)", values)

    def check(self) -> str | None:
        """None when the record can be written; otherwise why not."""
        try:
            with self.write() as db:
                db.execute("SELECT 1 FROM provider").fetchone()
        except sqlite3.Error as error:
            return f"the record {self.path} cannot be written: {error}"
        return None

    def close(self) -> None:
        with self._lock:
            self._db.close()


_MARKS = ("user_version", "application_id")
