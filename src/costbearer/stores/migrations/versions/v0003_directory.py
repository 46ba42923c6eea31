"""Business figures, the dated ownership map, and what replaces the keys of other gateways."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

_LABEL = 128


def upgrade() -> None:
    op.create_table(
        "figures",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("label", sa.Text, primary_key=True),
        sa.Column("amount", sa.String(40), nullable=False),
        sa.CheckConstraint("day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'", name="day_is_a_day"),
    )
    op.create_table(
        "ownership",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("since", sa.String(32)),
        *(sa.Column(name, sa.String(_LABEL)) for name in ("owner", "team", "agent", "workload")),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.CheckConstraint("owner IS NOT NULL OR team IS NOT NULL", name="somebody_bears_it"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "replacements",
        sa.Column("old_key", sa.Text, primary_key=True),
        sa.Column("key_id", sa.String(16), sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("owner", sa.String(_LABEL), nullable=False),
        sa.Column("expires_at", sa.String(32), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER ownership_no_{verb.lower()} BEFORE {verb} ON ownership "
            "BEGIN SELECT RAISE(ABORT, 'the ownership map only grows; a later row holds'); END"
        )
