"""The same expressions on another engine: DuckDB and ClickHouse's, with the same data, answer alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from costbearer.reports.query import Reader
from tests import randomledger
from tests.clickhouse import same_on_clickhouse
from tests.ledgers import reader_of
from tests.test_reports_agree import QUESTIONS, ask


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Reader, Reader]]:
    with reader_of(randomledger.ledger(50, 150)) as duck, same_on_clickhouse(duck) as click:
        yield duck, click


@pytest.mark.parametrize("number", range(len(QUESTIONS)), ids=lambda number: f"{number}-{QUESTIONS[number][0]}")
def test_both_engines_give_the_same_table(both: tuple[Reader, Reader], number: int) -> None:
    name, pairs = QUESTIONS[number]
    duck, click = (ask(reader, name, pairs) for reader in both)
    assert click == duck
    assert duck.rows or duck.empty
