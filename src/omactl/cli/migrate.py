"""`omactl migrate`: brings the database to the schema of this version, or says how it stands."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import sqlalchemy as sa

from omactl.cli.options import cause_of, database, state
from omactl.settings import Settings
from omactl.store.engine import Database
from omactl.store.migrations import Revision, migrate, revisions

__all__ = ["command"]


@click.command()
@state
@database
@click.option("--status", is_flag=True, help="Only say which revisions are applied; exit 1 if one is missing.")
def command(state: Path, database: str | None, status: bool) -> None:
    """Bring the database to the schema of this version. Running it twice changes nothing."""
    settings = Settings(state=state, omavol=Path(), database=database)
    try:
        if database is None:
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = asyncio.run(_run(settings.database_url, status))
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        raise click.ClickException(f"the database cannot be used: {cause_of(error)}") from error
    if status:
        for each in found:
            click.echo(f"{each.version}  {'applied' if each.applied else 'missing'}  {each.description}")
        sys.exit(0 if all(each.applied for each in found) else 1)
    for each in found:
        click.echo(f"applied {each.version}: {each.description}")
    click.echo(f"The database is current ({len(found)} revisions applied now).")


async def _run(url: str, status: bool) -> list[Revision]:
    opened = Database(url)
    try:
        return await (revisions if status else migrate)(opened)
    finally:
        await opened.close()
