"""Jobs of one kind are listed without reading the others."""

from __future__ import annotations

from alembic import op

revision = "20261124124500"
down_revision = "20261124121100"


def upgrade() -> None:
    op.create_index("oma_jobs_kind", "oma_jobs", ["kind", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("oma_jobs_kind", table_name="oma_jobs")
