"""What happened, in the order in which it was committed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.store.schema import events
from omavol.schema.common import now

__all__ = ["note"]


async def note(connection: AsyncConnection, kind: str, job_id: str | None, data: dict[str, Any]) -> None:
    """Add an event to the transaction it belongs to."""
    await connection.execute(sa.insert(events).values(at=now(), job_id=job_id, kind=kind, data=data))
