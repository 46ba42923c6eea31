"""Answers that are given once, and peppers that are retired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "answered_once",
        sa.Column("idempotency_key", sa.String(255), primary_key=True),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("life", sa.String(32), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.Text),
        sa.Column("at", sa.String(32), nullable=False),
    )
    op.add_column("peppers", sa.Column("retired_at", sa.String(32)))
