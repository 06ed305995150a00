"""The revisions make exactly the tables of the schema, once, and are recorded."""

from __future__ import annotations

import asyncio
import re

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from omactl.settings import sqlite_url
from omactl.store import migrations, schema
from omactl.store.engine import Database


async def test_the_revisions_make_the_tables_of_the_schema(database):
    def differences(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": False})
        return compare_metadata(context, schema.metadata)

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_twice_changes_nothing(tmp_path):
    database = Database(sqlite_url(tmp_path / "twice.sqlite"))
    assert not await migrations.is_current(database)
    first = await migrations.migrate(database)
    assert await migrations.migrate(database) == []
    assert await migrations.is_current(database)
    assert [each.version for each in first] == [each.version for each in await migrations.revisions(database)]
    await database.close()


async def test_two_runners_at_once_apply_each_revision_once(tmp_path):
    pair = [Database(sqlite_url(tmp_path / "race.sqlite")) for _ in range(2)]
    done = await asyncio.gather(*(migrations.migrate(each) for each in pair))
    assert sorted(len(each) for each in done) == [0, len(await migrations.revisions(pair[0]))]
    for each in pair:
        await each.close()


async def test_each_revision_is_recorded_with_a_stamp_of_14_digits(database):
    async with database.engine.connect() as connection:
        rows = (await connection.execute(sa.select(schema.schema_migrations))).all()
    assert [row.version for row in rows] == [each.version for each in await migrations.revisions(database)]
    assert all(re.fullmatch(r"\d{14}", row.version) and row.checksum and row.description for row in rows)


async def test_times_keep_their_instant(database):
    from datetime import datetime, timedelta, timezone

    from omactl.store import sources, tokens
    from omactl.store.tokens import Token, TokenKind

    await database.write(sources.put, "lab", "http://lab", "f")
    later = datetime.now(timezone(timedelta(hours=9))) + timedelta(hours=1)
    await database.write(tokens.add, Token("h", TokenKind.LINK, "n", "admin", later))
    found = await database.read(tokens.find, "h", (TokenKind.LINK,))
    assert found.expires_at == later
