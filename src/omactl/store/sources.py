"""The agents that machines come from: name, address, and the file that holds the token."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.store.rows import Source, columns_of, of_row
from omactl.store.schema import sources
from omavol.schema.common import now

__all__ = ["get", "list_all", "put", "set_agent"]


async def put(connection: AsyncConnection, name: str, url: str, token_file: str) -> Source:
    """Add a source, or give a known one its present address and token."""
    at = now()
    values = {"url": url, "token_file": token_file, "updated_at": at}
    changed = await connection.execute(sa.update(sources).where(sources.c.name == name).values(values))
    if not changed.rowcount:
        await connection.execute(sa.insert(sources).values(name=name, created_at=at, **values))
    return await get(connection, name)


async def get(connection: AsyncConnection, name: str) -> Source:
    """The source; Failure `source_unknown` when there is none."""
    row = (
        await connection.execute(sa.select(*columns_of(Source, sources)).where(sources.c.name == name))
    ).one_or_none()
    if row is None:
        raise Failure("source_unknown", source=name)
    return of_row(Source, row)


async def list_all(connection: AsyncConnection) -> list[Source]:
    """Every source, by name."""
    found = await connection.execute(sa.select(*columns_of(Source, sources)).order_by(sources.c.name))
    return [of_row(Source, row) for row in found]


async def set_agent(connection: AsyncConnection, name: str, agent_id: str) -> None:
    """Note which agent answers there: its jobs are numbered anew when another one does."""
    await connection.execute(sa.update(sources).where(sources.c.name == name).values(agent_id=agent_id))
