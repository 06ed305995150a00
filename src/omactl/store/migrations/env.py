"""Runs the revisions on the connection that the program gave, in its transaction."""

from __future__ import annotations

from alembic import context

from omactl.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
