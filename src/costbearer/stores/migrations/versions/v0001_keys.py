"""Keys, their dated labels and secrets, and the audit log.

Written out rather than taken from `control_schema`, which moves on. Only the words of the label checks come from there:
they follow the constants of `labels.py`, and a change of those is a migration that rebuilds the two tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from costbearer.stores.control_schema import label_check

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_TIME = sa.String(32)
_LABELS = ("owner", "team", "agent", "workload")
_ONLY_GROW = (
    ("audit_log", "UPDATE", "the audit log only grows"),
    ("audit_log", "DELETE", "the audit log only grows"),
    ("key_labels", "UPDATE", "dated labels only grow"),
    ("key_labels", "DELETE", "dated labels only grow"),
    ("keys", "DELETE", "keys are revoked, never deleted"),
)


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("key_id", sa.String(16), nullable=False, unique=True),
        *_labels(),
        *(sa.Column(name, sa.String(128)) for name in ("name", "env", "project", "cost_center")),
        sa.Column("require", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("revoked_at", _TIME),
        *_checks(),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "key_labels",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("key_id", sa.String(16), sa.ForeignKey("keys.key_id"), nullable=False, index=True),
        sa.Column("since", _TIME, nullable=False),
        *_labels(),
        *_checks(),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "peppers",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "key_secrets",
        sa.Column("lookup_id", sa.String(12), primary_key=True),
        sa.Column("key_id", sa.String(16), sa.ForeignKey("keys.key_id"), nullable=False, index=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("pepper_version", sa.Integer, sa.ForeignKey("peppers.version"), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.CheckConstraint("length(digest) = 32", name="digest_is_sha256"),
    )
    op.create_table(
        "issued_once",
        sa.Column("idempotency_key", sa.String(255), primary_key=True),
        sa.Column("key_id", sa.String(16), sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_table(
        "audit_log",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", _TIME, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("who", "source", "action")),
        sa.Column("key_id", sa.String(16)),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("request_id", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    for table, verb, reason in _ONLY_GROW:
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{reason}'); END"
        )


def _labels() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String(128), nullable=False) for name in _LABELS]


def _checks() -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(label_check(name), name=f"{name}_is_a_name") for name in _LABELS]
