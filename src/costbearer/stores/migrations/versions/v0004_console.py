"""What the pages keep: who is signed in, saved views, annotations, and findings that a team works through."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

_DAY = "day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'"


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "saved_views",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("page", sa.String(32), nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "annotations",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("dimension", sa.Text),
        sa.Column("value", sa.Text),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.CheckConstraint(_DAY, name="day_is_a_day"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "findings",
        sa.Column("finding_id", sa.String(20), primary_key=True),
        sa.Column("log", sa.String(200), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("first_seen", sa.String(32), nullable=False),
        sa.Column("last_seen", sa.String(32), nullable=False),
        sa.UniqueConstraint("log", "code", name="one_per_log_and_code"),
    )
    op.create_table(
        "finding_history",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("finding_id", sa.String(20), sa.ForeignKey("findings.finding_id"), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_finding_history_finding_id", "finding_history", ["finding_id"])
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER finding_history_no_{verb.lower()} BEFORE {verb} ON finding_history "
            "BEGIN SELECT RAISE(ABORT, 'the history of findings only grows'); END"
        )
