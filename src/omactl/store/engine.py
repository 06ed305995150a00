"""Opens the database and runs units of work in it, each in one transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["Database", "database_clock"]

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[AsyncConnection, P], Awaitable[T]]

BUSY_TIMEOUT = 15.0  # seconds a writer waits for the other one
_READS = "oma_reads"


class database_clock(sa.sql.functions.FunctionElement[float]):
    """The database's own clock in seconds since 1970: leases of several programs are measured on one clock."""

    type = sa.Double()
    inherit_cache = True


@compiles(database_clock, "sqlite")
def _sqlite_clock(element: database_clock, compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_clock, "mysql", "mariadb")
def _mariadb_clock(element: database_clock, compiler: SQLCompiler, **_: Any) -> str:
    return "UNIX_TIMESTAMP(NOW(6))"


class Database:
    """One database. Any task of one event loop may call it; a unit of work is never left half done.

    A unit of work runs in a task of its own that no cancellation reaches, because a cancelled statement of the SQLite
    driver would keep the write lock.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.engine: AsyncEngine = create_async_engine(self.url, **_options(self.url))
        self._units: set[asyncio.Task[Any]] = set()
        if self.url.get_backend_name() == "sqlite":
            sa.event.listen(self.engine.sync_engine, "connect", _set_up_sqlite)
            sa.event.listen(self.engine.sync_engine, "begin", _begin_sqlite)

    @property
    def kind(self) -> str:
        return self.url.get_backend_name()

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work that may write: all of it is committed, or none of it."""
        return await self._shielded(self._run({}, work, *args, **kwargs))

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work that only reads, on one consistent state; it never waits for a writer."""
        return await self._shielded(self._run({_READS: True}, work, *args, **kwargs))

    async def _shielded(self, unit: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(unit)
        self._units.add(task)
        task.add_done_callback(self._units.discard)
        return await asyncio.shield(task)

    async def _run(self, options: dict[str, bool], work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self.engine.connect() as connection:
            await connection.execution_options(**options)
            async with connection.begin():
                return await work(connection, *args, **kwargs)

    async def answers(self) -> bool:
        """Is the database there? Asks it."""
        try:
            await self.read(_ping)
        except (sa.exc.SQLAlchemyError, OSError):
            return False
        return True

    async def close(self) -> None:
        """Close every connection, once the units of work under way are done: nobody may wait for them any more."""
        while self._units:
            await asyncio.wait(self._units)
        await self.engine.dispose()


async def _ping(connection: AsyncConnection) -> None:
    await connection.execute(sa.select(sa.literal(1)))


def _options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"isolation_level": None, "timeout": BUSY_TIMEOUT}}
    return {"isolation_level": "READ COMMITTED", "pool_pre_ping": True, "pool_recycle": 1800}


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes the lock at once: read first and write later fails at once, whatever the busy timeout says."""
    reads = connection.get_execution_options().get(_READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
