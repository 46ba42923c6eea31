"""The control store's tables, and the constraints by which the database itself refuses a key without four labels.

A row of `keys` carries the labels it was issued with, so that no key exists without them for an instant; `key_labels`
holds the dated relabellings after that. Triggers (in the migration) make the audit log and the dated labels
append-only, and keep keys from being deleted: they are revoked.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect

from costbearer.labels import BLANKS, INNER_PUNCTUATION, INVISIBLES, LABEL_CHARS_MAX, PLACEHOLDERS, PUNCTUATION
from costbearer.ledger import LABELS

VERSION = "0006"
"""The newest migration in `migrations/versions`."""


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC, kept as RFC 3339 text of one length, which sorts as the times do.

    Text, because SQLite has no type for times and `fromisoformat` reads it twice as fast as SQLAlchemy's own text form:
    a worker reads every key again after each change.
    """

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromisoformat(value)


def _characters(text: str) -> str:
    """The characters as SQL that can be read: `char(...)` in lists short enough for a function's arguments."""
    codes = [str(ord(character)) for character in text]
    return " || ".join(f"char({', '.join(codes[start : start + 60])})" for start in range(0, len(codes), 60))


def label_check(column: str) -> str:
    """SQL that holds for a usable label: something is left when blanks and punctuation are taken from its ends, what is
    left is no placeholder, and it is not too long."""
    bare = f"trim({column}, {_characters(BLANKS + INVISIBLES + PUNCTUATION)})"
    words = f"lower({bare})"
    for character in INNER_PUNCTUATION:
        words = f"replace({words}, char({ord(character)}), '')"
    reserved = ", ".join(f"'{word}'" for word in sorted(PLACEHOLDERS))
    return f"{bare} <> '' AND {words} NOT IN ({reserved}) AND length({column}) <= {LABEL_CHARS_MAX}"


def _labels() -> list[Column[str]]:
    return [Column(name, String(LABEL_CHARS_MAX), nullable=False) for name in LABELS]


def _checks() -> list[CheckConstraint]:
    return [CheckConstraint(label_check(name), name=f"{name}_is_a_name") for name in LABELS]


metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("key_id", String(16), nullable=False, unique=True),
    *_labels(),
    Column("name", String(LABEL_CHARS_MAX)),
    Column("env", String(LABEL_CHARS_MAX)),
    Column("project", String(LABEL_CHARS_MAX)),
    Column("cost_center", String(LABEL_CHARS_MAX)),
    Column("require", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    *_checks(),
    sqlite_autoincrement=True,
)
"""`number` is the order of issue, `require` a JSON list of field names."""

key_labels = Table(
    "key_labels",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("key_id", String(16), ForeignKey("keys.key_id"), nullable=False, index=True),
    Column("since", UtcTime, nullable=False),
    *_labels(),
    *_checks(),
    sqlite_autoincrement=True,
)

key_secrets = Table(
    "key_secrets",
    metadata,
    Column("lookup_id", String(12), primary_key=True),
    Column("key_id", String(16), ForeignKey("keys.key_id"), nullable=False, index=True),
    Column("digest", LargeBinary, nullable=False),
    Column("pepper_version", Integer, ForeignKey("peppers.version"), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    CheckConstraint("length(digest) = 32", name="digest_is_sha256"),
)

peppers = Table(
    "peppers",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("retired_at", UtcTime),
)
"""Which peppers the digests were made with, so that a keyring that was lost and made anew is noticed, not believed. A
retired one is in no keyring any more, and the secrets that it digested are refused."""

hash_keys = Table(
    "hash_keys",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("retired_at", UtcTime),
)
"""Which keys hashed tenants and users, so that one that was lost is never made anew under the number that it had."""

issued_once = Table(
    "issued_once",
    metadata,
    Column("idempotency_key", String(255), primary_key=True),
    Column("key_id", String(16), ForeignKey("keys.key_id"), nullable=False),
    Column("at", UtcTime, nullable=False),
)

answered_once = Table(
    "answered_once",
    metadata,
    Column("idempotency_key", String(255), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("life", String(32), nullable=False),
    Column("status", Integer),
    Column("body", Text),
    Column("at", UtcTime, nullable=False),
)
"""Answers of the API to requests with an Idempotency-Key. `request` is the SHA-256 of method, address and body, `life`
the process that answers; `status` and `body` are NULL until it has. No body holds a key."""

audit_log = Table(
    "audit_log",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("who", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("key_id", String(16)),
    Column("before", Text),
    Column("after", Text),
    Column("request_id", Text, nullable=False),
    sqlite_autoincrement=True,
)
"""One row per change, in the change's own transaction. `before` and `after` are JSON without secret or digest."""

periods = Table(
    "periods",
    metadata,
    Column("month", String(7), primary_key=True),
    Column("closed_at", UtcTime, nullable=False),
    CheckConstraint("month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'", name="month_is_a_month"),
)
"""Closed months. Closing one closes all before it; none is ever opened again."""

figures = Table(
    "figures",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("label", Text, primary_key=True),
    Column("amount", String(40), nullable=False),
    CheckConstraint("day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'", name="day_is_a_day"),
)
"""Business figures, a line per day and label; `amount` is decimal text."""

ownership = Table(
    "ownership",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("value", Text, nullable=False),
    Column("since", UtcTime),
    *(Column(name, String(LABEL_CHARS_MAX)) for name in LABELS),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("owner IS NOT NULL OR team IS NOT NULL", name="somebody_bears_it"),
    sqlite_autoincrement=True,
)
"""Who answers for what other gateways' logs name, from a moment on (`since` NULL: from ever). It only grows."""

replacements = Table(
    "replacements",
    metadata,
    Column("old_key", Text, primary_key=True),
    Column("key_id", String(16), ForeignKey("keys.key_id"), nullable=False),
    Column("owner", String(LABEL_CHARS_MAX), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)
"""Keys of other gateways, the virtual key that each owner has instead, and from when the old one must not be used."""

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("who", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)
"""Who is signed in to the pages; `digest` is the SHA-256 of the cookie, which is kept nowhere."""

saved_views = Table(
    "saved_views",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("page", String(32), nullable=False),
    Column("parameters", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_by", Text, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)
"""Questions with a name; `parameters` is the query string of the page's address."""

annotated_days = Table(
    "annotations",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("day", String(10), nullable=False),
    Column("text", Text, nullable=False),
    Column("dimension", Text),
    Column("value", Text),
    Column("created_by", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'", name="day_is_a_day"),
    sqlite_autoincrement=True,
)
"""What happened on a day, for all spend or for one value of a dimension."""

findings = Table(
    "findings",
    metadata,
    Column("finding_id", String(20), primary_key=True),
    Column("log", String(200), nullable=False),
    Column("code", String(64), nullable=False),
    Column("document", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("owner", Text),
    Column("version", Integer, nullable=False),
    Column("first_seen", UtcTime, nullable=False),
    Column("last_seen", UtcTime, nullable=False),
    UniqueConstraint("log", "code", name="one_per_log_and_code"),
)
"""Findings of audits that somebody kept; `document` is the finding as the last audit of that log had it."""

finding_history = Table(
    "finding_history",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("finding_id", String(20), ForeignKey("findings.finding_id"), nullable=False, index=True),
    Column("at", UtcTime, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", String(16), nullable=False),
    Column("before", Text),
    Column("after", Text),
    sqlite_autoincrement=True,
)
"""What happened to a finding: seen, status, owner, comment. It only grows."""
