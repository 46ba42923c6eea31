"""The ledger's tables as one list of columns, derived from `ledger.Entry`: what Parquet, DuckDB and the reports share.

The ledger is a projection, so its schema is never migrated: when the fingerprint differs, it is rebuilt.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pyarrow as pa

from costbearer import money
from costbearer.usage import COUNTS

MONEY = pa.decimal128(money.DIGITS, money.PLACES)
_TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()


class Column(NamedTuple):
    """`engine` is the DuckDB type."""

    name: str
    arrow: pa.DataType
    engine: str


def _text(*names: str) -> list[Column]:
    return [Column(name, _TEXT, "VARCHAR") for name in names]


def _money(*names: str) -> list[Column]:
    return [Column(name, MONEY, f"DECIMAL({money.DIGITS},{money.PLACES})") for name in names]


def _count(*names: str) -> list[Column]:
    return [Column(name, pa.int64(), "BIGINT") for name in names]


ENTRIES: tuple[Column, ...] = (
    *_text("journal"),
    *_count("sequence", "closed_sequence"),
    *_text("kind", "refers_to", "request_id", "call_id", "parent_id", "trace_id", "session_id"),
    *_count("attempt"),
    *_text("reason"),
    *_count("calls", "requests"),
    Column("started_at", _TIME, "TIMESTAMPTZ"),
    Column("ended_at", _TIME, "TIMESTAMPTZ"),
    *_count("first_byte_ms", "duration_ms"),
    *_text("key_id", "owner", "team", "agent", "workload", "key_team", "project", "cost_center"),
    *_text("feature", "workflow", "customer", "tenant", "user", "env"),
    *_text("attribution"),
    Column("tags", pa.map_(_TEXT, _TEXT), "MAP(VARCHAR, VARCHAR)"),
    *_text("route", "provider", "provider_request_id", "provider_response_id"),
    Column("cache_hit", pa.bool_(), "BOOLEAN"),
    *_text("request_model", "response_model", "operation", "tier", "region"),
    Column("stream", pa.bool_(), "BOOLEAN"),
    *_text("status"),
    *_count("http_status"),
    *_text("error_code"),
    *_count(*COUNTS),
    *_money("cost_usd", "list_cost_usd", "effective_cost_usd", "provider_cost_usd", "computed_cost_usd"),
    *_text("basis"),
    *_money("bound_usd"),
    *_text("reason_unknown"),
    Column("notes", pa.list_(_TEXT), "VARCHAR[]"),
    *_text("settlement", "price_provider", "speed", "variant", "work", "tenant_before", "user_before"),
)
"""`attribution`, `settlement` and `work` are JSON text. `closed_sequence` is the journal sequence of the frame that
closed the entry."""

CHARGES: tuple[Column, ...] = (
    *_text("journal"),
    *_count("sequence"),
    *_text("meter"),
    *_count("quantity"),
    *_money("unit_price_usd", "list_cost_usd", "cost_usd"),
    *_text("model", "card"),
)

ENTRIES_ARROW = pa.schema([(column.name, column.arrow) for column in ENTRIES])
CHARGES_ARROW = pa.schema([(column.name, column.arrow) for column in CHARGES])
CHARGE_COLUMNS = CHARGES[2:]
CHARGES_LIST = pa.list_(pa.struct([(column.name, column.arrow) for column in CHARGE_COLUMNS]))
SEALED_ARROW = ENTRIES_ARROW.append(pa.field("charges", CHARGES_LIST))
"""The columns of a sealed Parquet file: the entries, and under `charges` their charges (journal and sequence are the
entry's)."""

FINGERPRINT = hashlib.sha256(repr((ENTRIES, CHARGES)).encode()).hexdigest()[:16]
