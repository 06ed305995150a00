"""The ordered list of revisions, each recorded also in schema_migrations; run by program, never by hand.

A revision has a 14-digit stamp and one statement of data definition, or statements that may be run again: MariaDB
commits each by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from omactl.store.engine import Database
from omactl.store.schema import schema_migrations
from omavol.schema.common import now

__all__ = ["Revision", "is_current", "migrate", "revisions"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Revision:
    """One step of the schema, and whether this database has it."""

    version: str
    description: str
    applied: bool


async def migrate(database: Database) -> list[Revision]:
    """Bring the database to the present schema; the revisions applied by this call. A second call applies none.

    Two callers at once are safe: the write lock lets one in, the other then finds nothing to do.
    """
    async with database.engine.connect() as connection, connection.begin():
        return await connection.run_sync(_upgrade)


async def revisions(database: Database) -> list[Revision]:
    """Every revision, oldest first, as this database has it."""
    async with database.engine.connect() as connection:
        await connection.execution_options(oma_reads=True)
        done = await connection.run_sync(_applied)
    return [_revision(script, script.revision in done) for script in _scripts()]


async def is_current(database: Database) -> bool:
    """Does the database have exactly the schema this program was built for?"""
    return all(revision.applied for revision in await revisions(database))


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> list[Script]:
    return list(reversed(list(ScriptDirectory.from_config(_config()).walk_revisions())))


def _applied(connection: sa.Connection) -> set[str]:
    """The revisions up to the recorded head."""
    heads = MigrationContext.configure(connection).get_current_heads()
    directory = ScriptDirectory.from_config(_config())
    return {script.revision for head in heads for script in directory.iterate_revisions(head, "base")}


def _upgrade(connection: sa.Connection) -> list[Revision]:
    scripts = _scripts()
    done = _applied(connection)
    if len(done) == len(scripts):
        return []
    command.upgrade(_config(connection), "head")
    _record(connection, scripts)
    return [_revision(script, True) for script in scripts if script.revision not in done]


def _record(connection: sa.Connection, scripts: list[Script]) -> None:
    """Note in schema_migrations what is not there yet: also what an upgrade that broke off had applied."""
    known = set(connection.execute(sa.select(schema_migrations.c.version)).scalars())
    fresh = [
        {
            "version": script.revision,
            "description": script.doc,
            "applied_at": now(),
            "checksum": hashlib.sha256(Path(script.path).read_bytes()).hexdigest(),
        }
        for script in scripts
        if script.revision not in known
    ]
    if fresh:
        connection.execute(sa.insert(schema_migrations), fresh)


def _revision(script: Script, applied: bool) -> Revision:
    return Revision(version=script.revision, description=script.doc, applied=applied)
