"""Which paths are metered, and with which parameters."""

from __future__ import annotations

import pytest

from costbearer.dialects.registry import all_dialects
from costbearer.gateway.endpoints import TABLE, Endpoint, family, find, metered_paths


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.template}")
def test_every_row_is_found_and_can_be_answered(row: Endpoint) -> None:
    path = row.template.replace("{model*}", "m").replace("{model}", "m")
    for name in ("id", "name", "project", "location", "publisher"):
        path = path.replace("{" + name + "}", name)
    found = find(row.method, path)
    assert found is not None
    assert found[0] is row
    dialect = all_dialects()[row.dialect]
    assert row.operation is None or row.operation in dialect.operations
    assert family(path) == row.dialect


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1//chat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/v1/chat/completions/.."),
        ("TRACE", "/v1/messages"),
        ("POST", "/"),
    ],
)
def test_anything_else_is_not_metered(method: str, path: str) -> None:
    assert find(method, path) is None


@pytest.mark.parametrize("dialect", all_dialects())
def test_a_refusal_names_what_is_metered_and_stays_short(dialect: str) -> None:
    assert metered_paths(dialect).startswith("/")
    assert len(metered_paths(dialect)) < 600
