"""Runs the revisions on the connection that the program gave, in its transaction."""

from __future__ import annotations

from typing import Any

from alembic import context

from omactl.store.migrations import record
from omactl.store.schema import metadata
from omavol.schema.common import now


def _note(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
    record(ctx.connection, step.up_revision, now())


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    on_version_apply=_note,
)
with context.begin_transaction():
    context.run_migrations()
