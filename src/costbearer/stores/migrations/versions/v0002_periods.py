"""Closed months."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "periods",
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("closed_at", sa.String(32), nullable=False),
        sa.CheckConstraint("month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'", name="month_is_a_month"),
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER periods_no_{verb.lower()} BEFORE {verb} ON periods "
            "BEGIN SELECT RAISE(ABORT, 'a closed month stays closed'); END"
        )
