"""A rotation of the hash key changes no report: twin ledgers, of which one was never rotated, answer alike."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import ibis
import msgspec
import pytest

from costbearer import reports
from costbearer.figures import Figure
from costbearer.ledger import HASHED, Entry
from costbearer.reports.beside import Beside
from costbearer.reports.query import Reader
from costbearer.reports.table import Table
from costbearer.stores import ledger_reader
from costbearer.stores.duckdb import Reader as LedgerReader
from costbearer.stores.linked import followed
from tests import randomledger
from tests.ledgers import ledger_of, reader_of
from tests.test_reports_agree import BESIDE, NOW, PERIOD
from tests.test_reports_agree import QUESTIONS as OF_EVERY_REPORT

STATES = ((1, None), (2, 1), (2, None), (3, 2), (3, None))
"""Versions of a hash and of the one before it: alone, two live, alone, two live, alone."""
ABOUT_HASHES: list[tuple[str, list[tuple[str, str]]]] = [
    ("spend", [("by", "tenant")]),
    ("spend", [("by", "user,tenant"), ("compare", "previous"), ("limit", "4"), ("sort", "delta")]),
    ("spend", [("by", "team"), ("where", "tenant={t2}")]),
    ("spend", [("by", "user"), ("where", "tenant={t2}"), ("where", "tenant={t1}"), ("where", "tenant=(none)")]),
    ("unit-cost", [("by", "tenant"), ("per", "request,session,user")]),
    ("explain", [("by", "tenant"), ("limit", "3")]),
    ("agents", [("by", "tenant")]),
    ("models", [("by", "tenant,model"), ("as", "gpt-4.1-nano")]),
    ("entries", [("where", "tenant={t1}"), ("where", "user={u2}"), ("where", "user={u1}")]),
    ("spend", [("by", "tenant,day"), ("sort", "name"), ("limit", "9")]),
    ("spend", [("by", "tenant"), ("where", "user=(none)")]),
    ("unit-cost", [("by", "team"), ("per", "user"), ("where", "user={u3}"), ("where", "user={u1}")]),
    ("explain", [("by", "team"), ("where", "tenant={t1}")]),
    ("agents", [("where", "user={u2}")]),
    ("unknown", [("where", "tenant={t1}")]),
    ("coverage", [("where", "tenant={t3}")]),
    ("chargeback", [("where", "user={u1}")]),
]
IN_EVERY_RUN = 3
"""So many of these are asked in every run of the tests; all of them in the long one."""
BY_ID = {"session", "trace", "owner"}


def named(field: str, value: int, version: int) -> str:
    return f"h{version}_{field}{value}"


def twins(seed: int) -> tuple[list[Entry], list[Entry]]:
    """The same calls, hashed with the third key alone, and while keys came and went."""
    chance, plain, rotated = random.Random(seed), list[Entry](), list[Entry]()
    made = randomledger.ledger(seed, 90)
    said = {entry.call_id: {name: chance.choice((None, 1, 2, 3)) for name in HASHED} for entry in made}
    count = Counter((name, value) for values in said.values() for name, value in values.items())
    seen: Counter[tuple[str, int | None]] = Counter()
    hashed: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for call, values in said.items():
        one: dict[str, Any] = dict.fromkeys((*HASHED, *HASHED.values()))
        other = dict(one)
        for name, value in values.items():
            place = seen[name, value]
            seen[name, value] += 1
            if value is not None:
                # Both rotations saw every value that is there twice; where else it was seen is chance.
                version, before = STATES[(1, 3)[place]] if place < 2 else chance.choice(STATES)
                version, before = (version, before) if count[name, value] > 1 else (3, None)
                one[name], other[name] = named(name, value, 3), named(name, value, version)
                other[HASHED[name]] = None if before is None else named(name, value, before)
        hashed[call] = one, other
    for entry in made:
        one, other = hashed[entry.call_id]
        plain.append(msgspec.structs.replace(entry, **one))
        rotated.append(msgspec.structs.replace(entry, **other))
    return plain, rotated


def ask(reader: Reader, name: str, pairs: Sequence[tuple[str, str]], version: int) -> Table:
    takes = reports.REPORTS[name].form.takes
    hashes = {f"{name[0]}{value}": named(name, value, version) for name in HASHED for value in (1, 2, 3)}
    asked = [(key, text.format(**hashes)) for key, text in pairs]
    period = [pair for pair in PERIOD if pair[0] in takes]
    return reports.answer(reports.question(name, [*period, *asked], now=NOW), reader, BESIDE)


def test_a_report_is_that_of_the_ledger_that_was_never_rotated() -> None:
    plain, rotated = twins(1)
    with reader_of(plain) as one, reader_of(rotated) as other:
        for place, (name, pairs) in enumerate(ABOUT_HASHES[:IN_EVERY_RUN]):
            compare(one, other, name, pairs, place % 3 + 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_report_is_that_of_the_ledger_that_was_never_rotated(seed: int) -> None:
    asked = 0
    plain, rotated = twins(seed)
    with reader_of(plain) as one, reader_of(rotated) as other:
        for name, pairs in [*OF_EVERY_REPORT, *ABOUT_HASHES]:
            for version in (1, 2, 3) if name not in BY_ID else ():
                compare(one, other, name, pairs, version)
                asked += 1
    print(f"{asked} reports over twin ledgers, 0 differ")


def test_a_business_figure_of_a_tenant_is_found_by_the_hash_it_was_imported_under() -> None:
    plain, rotated = twins(1)
    tables = []
    for entries, version in ((plain, 3), (rotated, 1)):
        lines = [Figure(date(2026, 9, 12), Decimal(value), named("tenant", value, version)) for value in (1, 2, 3)]
        beside = Beside(figures={"seats": lines}.get, figure_names=lambda: ("seats",))
        pairs = [("by", "tenant"), ("per", "seats"), ("where", f"tenant={named('tenant', 2, version)}"), *PERIOD]
        with reader_of(entries) as reader:
            tables.append(reports.answer(reports.question("unit-cost", pairs, now=NOW), reader, beside))
    assert tables[0].rows == tables[1].rows
    assert Decimal(2) in {Decimal(cell) for cell in tables[1].rows[0] if isinstance(cell, str) and cell.isdigit()}


def compare(one: Reader, other: Reader, name: str, pairs: Sequence[tuple[str, str]], version: int) -> None:
    """Of the second ledger the report is asked by the hashes of a version."""
    expected, table = ask(one, name, pairs, 3), ask(other, name, pairs, version)
    got = table.rows, table.totals, table.parts, table.query
    assert got == (expected.rows, expected.totals, expected.parts, expected.query), (name, pairs, version)


Known = Callable[[str, int], Any]
EXPRESSIONS: dict[str, Callable[[Any, Known], Any]] = {
    "all of it": lambda e, _: e.order_by("sequence"),
    "renamed": lambda e, _: e.select(who=e.user, number=e.sequence).order_by("number"),
    "distinct": lambda e, _: e.select("tenant", "user").distinct().order_by(["tenant", "user"]),
    "counted apart": lambda e, _: e.group_by("team").aggregate(n=e.user.nunique(), calls=e.calls.sum()),
    "least and most": lambda e, _: e.aggregate(low=e.user.min(), high=e.tenant.max()),
    "sorted by it": lambda e, _: e.order_by([e.user, e.sequence]).select("sequence", "user").limit(20),
    "all but one": lambda e, known: _counted(e.filter(e.user != known("user", 1))),
    "one or another": lambda e, known: _counted(
        e.filter((e.user == known("user", 1)) | (known("tenant", 2) == e.tenant))
    ),
    "of the same": lambda e, _: _counted(e.filter(e.user.right(1) == e.tenant.right(1))),
    "of one version": lambda e, _: _counted(e.filter(e.user.left(2) == e.tenant.left(2))),
    "both": lambda e, known: _counted(e.filter(e.user == known("user", 1), e.user.left(2) == e.tenant.left(2))),
    "missing": lambda e, _: e.group_by("tenant").aggregate(n=e.count(), lost=e.calls.sum(where=e.user.isnull())),
    "flagged": lambda e, known: e.group_by("team").aggregate(n=e.calls.sum(where=e.user == known("user", 2))),
    "shortened": lambda e, _: e.group_by(short=e.tenant.left(2)).aggregate(n=e.count()),
    "averaged": lambda e, _: e.group_by("user").aggregate(n=e.count(), mean=e.input_tokens.mean().round(6)),
    "first seen": lambda e, _: e.group_by("user").aggregate(first=e.started_at.min(), last=e.started_at.max()),
    "ranked": lambda e, _: e.select("sequence", r=ibis.row_number().over(group_by=e.user, order_by=e.sequence)),
    "twice": lambda e, _: _counted(_counted(e, "user").rename(often="n"), "often"),
    "over and under": lambda e, _: _counted(e.select("user", n=e.calls).union(e.select("user", n=e.requests)), "user"),
    "crosswise": lambda e, _: _counted(e.select(who=e.user).union(e.select(who=e.tenant)), "who"),
    "met by it": lambda e, _: _counted(
        e.select("user", a="sequence").join(e.view().select("user", b="sequence"), "user")
    ),
    "met by another": lambda e, _: _counted(_met(e), "user", "tenant"),
    "nobody's": lambda e, _: _counted(e.filter(e.user.notin(e.filter(e.cost_usd.isnull()).user.fill_null("")))),
}


QUICK = {
    *("distinct", "counted apart", "sorted by it", "one or another", "both", "missing"),
    *("first seen", "ranked", "over and under", "met by it", "met by another"),
}
"""Those of every run of the tests: one of each way that an expression can take."""


def _counted(table: Any, *by: str) -> Any:
    return (table.group_by(*by) if by else table).aggregate(n=lambda rows: rows.count())


def _met(entries: Any) -> Any:
    own, other = entries.select("user", "sequence"), entries.view().select("sequence", "tenant")
    return own.left_join(other, "sequence")


@pytest.fixture(scope="module")
def rotated() -> Iterator[LedgerReader]:
    with ledger_of(twins(3)[1]) as ledger, ledger.reader() as reader:
        yield reader


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in EXPRESSIONS]
)
def test_an_expression_is_that_of_rows_that_were_led_on_first(name: str, rotated: LedgerReader) -> None:
    entries = rotated.entries
    # What is compared with the hash by `!=` is asked for by the newest one: nobody asks for all but one.
    version = 3 if name == "all but one" else 1
    made = EXPRESSIONS[name](entries, lambda field, value: ibis.literal(named(field, value, version)))
    literal = EXPRESSIONS[name](_led_on(rotated, entries), lambda field, value: ibis.literal(named(field, value, 3)))
    found, expected = rotated.execute(made), rotated.as_recorded(literal)
    assert found.schema == expected.schema == made.schema().to_pyarrow()
    assert found.num_rows
    rows = [sorted(map(repr, table.to_pylist())) for table in (found, expected)]
    assert rows[0] == rows[1]


def _led_on(reader: LedgerReader, entries: Any) -> Any:
    """Every row under its newest hashes, by a table of the test's own."""
    table = entries
    for name in HASHED:
        found = reader.as_recorded(entries.select(name).distinct()).column(name).to_pylist()
        newest = {text: "h3" + text[2:] for text in found if text is not None}
        table = table.mutate(**{name: table[name].cases(*newest.items(), else_=table[name])})
    return table


def test_a_filter_and_what_reads_no_hash_meet_no_links(rotated: LedgerReader) -> None:
    entries = rotated.entries

    def links_in(expression: Any) -> int:
        made = followed(expression, entries, lambda field, hashes: {*hashes, f"h9_{field}"})
        return str(ibis.to_sql(made, dialect="duckdb")).count('"links"')

    filtered = entries.filter(entries.tenant.nullif("").isin(["h1_tenant1"]), entries.user.isnull())
    assert links_in(filtered.aggregate(calls=filtered.calls.sum())) == 0
    assert links_in(filtered.group_by("user").aggregate(calls=filtered.calls.sum())) == 1
    plain = entries.mutate(one=entries.calls).group_by("feature").aggregate(calls=lambda rows: rows.one.sum())
    assert followed(plain, entries, lambda *_: set()) is plain
    asked = followed(filtered, entries, lambda field, hashes: {*hashes, f"h9_{field}"})
    assert "h9_tenant" in str(ibis.to_sql(asked, dialect="duckdb"))


def test_without_a_rotation_no_expression_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("an expression is led through links that do not exist")

    monkeypatch.setattr(ledger_reader, "followed", touched)
    plain, rotated = twins(1)
    with reader_of(plain) as reader:
        assert ask(reader, "spend", [("by", "tenant"), ("where", "user={u1}")], 3).rows
    with reader_of(rotated) as reader, pytest.raises(AssertionError, match="do not exist"):
        ask(reader, "spend", [("by", "tenant")], 3)
