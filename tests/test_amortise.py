"""Fees of commitments in the effective cost of the calls that used them: they add up, once, whatever happens later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer import amortise as amortising
from costbearer import corrections, money
from costbearer.amortise import UNUSED, Amortiser, amortise
from costbearer.bookkeeper import Bookkeeper
from costbearer.contract import Contract
from costbearer.errors import StoreFailed
from costbearer.journal import JournalWriter
from costbearer.ledger import AMORTISATION, Entry, faults
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.soundness import faults_of
from costbearer.usage import Usage
from tests.factories import make_entry, make_unknown, record

CONTRACT = Contract.loads(b"""
[[commitments]]
name = "ptu-east"
provider = "azure"
model = "gpt-4.1*"
deployment = "prod-east"
fee = "730"
every = "month"
since = 2026-11-01

[[commitments]]
name = "vertex"
provider = "google"
fee = "1.5"
every = "hour"
since = 2026-11-22
""")
DAY = datetime(2026, 11, 22, tzinfo=UTC)
FEE = money.allocate(Decimal(730), [1] * 30)[21]
NOW = DAY + timedelta(days=3)
FREE = {"cost_usd": money.ZERO, "list_cost_usd": money.ZERO, "effective_cost_usd": money.ZERO}
BY_TIME: dict[str, Any] = {
    "provider": "azure",
    "request_model": "prod-east",
    "response_model": "gpt-4.1",
    "tier": "provisioned",
    "charges": (),
    "computed_cost_usd": money.ZERO,
    **FREE,
}


@contextmanager
def books(directory: Path) -> Iterator[tuple[JournalWriter, Ledger, Bookkeeper]]:
    writer = JournalWriter.open(directory / "journal")
    ledger = Ledger.open(directory / "ledger.duckdb")
    try:
        yield writer, ledger, Bookkeeper(directory / "journal", ledger)
    finally:
        ledger.close()
        writer.close()


def put(writer: JournalWriter, made: Any = make_entry, **overrides: Any) -> Entry:
    return record(writer, made(writer.id, writer.next_sequence, **overrides))


def on_capacity(writer: JournalWriter, tokens: int, **more: Any) -> Entry:
    return put(writer, **{**BY_TIME, "usage": Usage(input_tokens=tokens - 1, output_tokens=1), **more})


def spread(
    ledger: Ledger, bookkeeper: Bookkeeper, contract: Contract | None = CONTRACT, *, apply: bool = True, **more: Any
) -> dict[str, Any]:
    period = {"since": DAY, "until": DAY + timedelta(days=1), "now": NOW} | more
    bookkeeper.catch_up()
    return amortise(ledger, bookkeeper, contract, **period, apply=apply)


def rows_of(ledger: Ledger) -> list[dict[str, Any]]:
    with ledger.reader() as reader:
        rows: list[dict[str, Any]] = reader.execute(reader.entries).to_pylist()
    return rows


def effective(ledger: Ledger, *, kind: str | None = None) -> Decimal:
    rows = [row for row in rows_of(ledger) if kind is None or row["kind"] == kind]
    return money.total(row["effective_cost_usd"] or money.ZERO for row in rows)


def shares(ledger: Ledger) -> dict[str | None, Decimal]:
    """What each call bears, whatever entries it came by; under None what nobody does."""
    found: dict[str | None, Decimal] = {}
    for row in rows_of(ledger):
        if row["kind"] == AMORTISATION:
            found[row["refers_to"]] = money.total((found.get(row["refers_to"], money.ZERO), row["effective_cost_usd"]))
    return found


def test_a_fee_goes_to_the_calls_that_ran_on_it_by_their_tokens(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        small, large = on_capacity(writer, 100), on_capacity(writer, 300, tier="ptu")
        spilled = on_capacity(writer, 500, tier="default")
        elsewhere = on_capacity(writer, 500, request_model="prod-west")
        other = put(writer)
        cost = other.cost_usd
        assert cost
        shown = spread(ledger, bookkeeper, apply=False)
        assert (shown["missing"], shown["applied"]) == (3, None)
        assert shares(ledger) == {}
        done = spread(ledger, bookkeeper)
        assert done["applied"] == 3
        assert [(each["commitment"], each["fee_usd"]) for each in done["commitments"]] == [
            ("ptu-east", money.text(FEE)),
            ("vertex", "36.000000000000"),
        ]
        parts = money.allocate(FEE, [100, 300])
        assert shares(ledger) == {small.entry_id: parts[0], large.entry_id: parts[1], None: Decimal(36)}
        assert spilled.entry_id not in shares(ledger)
        assert elsewhere.entry_id not in shares(ledger)
        assert effective(ledger) == money.total((FEE, Decimal(36), cost))
        (unused,) = [row for row in rows_of(ledger) if row["operation"] == UNUSED]
        assert (unused["owner"], unused["team"], unused["provider"]) == (None, None, "google")
        assert (unused["started_at"], unused["calls"]) == (DAY, 0)
        borne = [row for row in rows_of(ledger) if row["refers_to"] == large.entry_id]
        assert [(row["team"], row["cost_usd"], row["calls"]) for row in borne] == [(large.team, money.ZERO, 0)]


def test_doing_it_again_adds_nothing_and_a_rebuild_says_the_same(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        for tokens in (3, 5, 11):
            on_capacity(writer, tokens)
        spread(ledger, bookkeeper)
        before = shares(ledger)
        again = spread(ledger, bookkeeper)
        assert (again["missing"], again["applied"]) == (0, 0)
        bookkeeper.rebuild()
        assert shares(ledger) == before
        entries = ledger.entries([(row["journal"], row["sequence"]) for row in rows_of(ledger)])
        assert [fault for entry in entries for fault in faults(entry)] == []
        assert faults_of(table_of(Posted(entry.sequence, entry) for entry in entries)) == []


def test_a_call_that_comes_late_changes_the_shares_of_its_day(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        first = on_capacity(writer, 100)
        spread(ledger, bookkeeper)
        assert shares(ledger)[first.entry_id] == FEE
        late = on_capacity(writer, 100)
        assert spread(ledger, bookkeeper)["applied"] == 2
        parts = money.allocate(FEE, [100, 100])
        assert [shares(ledger)[entry.entry_id] for entry in (first, late)] == parts
        assert effective(ledger, kind=AMORTISATION) == FEE + 36


def test_what_nobody_used_goes_to_the_first_who_does(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        spread(ledger, bookkeeper)
        assert shares(ledger) == {None: FEE + 36}
        user = on_capacity(writer, 7)
        spread(ledger, bookkeeper)
        assert shares(ledger) == {None: Decimal(36), user.entry_id: FEE}


@pytest.mark.parametrize("change", ["counts", "team"])
def test_a_call_that_is_replaced_takes_its_share_along_once(tmp_path: Path, change: str) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        wrong, right = on_capacity(writer, 100), on_capacity(writer, 100)
        spread(ledger, bookkeeper)
        rows = [
            row
            for row in rows_of(ledger)
            if wrong.entry_id in (row["refers_to"], f"{row['journal']}.{row['sequence']}")
        ]
        old = corrections.net(ledger.entries([(row["journal"], row["sequence"]) for row in rows]))
        assert old.effective_cost_usd == money.allocate(FEE, [100, 100])[0]
        new = msgspec.structs.replace(
            old, **({"team": "other"} if change == "team" else {"usage": Usage(input_tokens=299, output_tokens=1)})
        )
        bookkeeper.record(corrections.restated(old, new, at=NOW, kind="correction"))
        assert effective(ledger) == FEE + 36
        spread(ledger, bookkeeper)
        assert effective(ledger) == FEE + 36
        by_team: dict[str | None, Decimal] = {}
        for row in rows_of(ledger):
            by_team[row["team"]] = money.total((by_team.get(row["team"], money.ZERO), row["effective_cost_usd"]))
        expected = money.allocate(FEE, [100, 300] if change == "counts" else [100, 100])
        assert by_team[None] == 36
        # The replacement stands behind the other call in the order of the journals.
        assert sum(by_team.values()) == FEE + 36
        assert by_team["other" if change == "team" else wrong.team or ""] in expected
        assert spread(ledger, bookkeeper)["applied"] == 0
        assert right.team in by_team


def test_a_share_says_nothing_of_the_call_itself(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        on_capacity(writer, 100, basis="estimated", notes=("estimated_from_bytes",))
        spread(ledger, bookkeeper)
        calls = [row for row in rows_of(ledger) if row["operation"] != UNUSED]
        whole = corrections.net(ledger.entries([(row["journal"], row["sequence"]) for row in calls]))
        assert whole.notes == ("estimated_from_bytes",)
        assert (whole.effective_cost_usd, whole.cost_usd, whole.calls) == (FEE, money.ZERO, 1)


def test_what_a_contract_knows_no_more_is_taken_back(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        on_capacity(writer, 100)
        spread(ledger, bookkeeper)
        assert spread(ledger, bookkeeper, None)["applied"] == 2
        assert set(shares(ledger).values()) == {money.ZERO}
        assert effective(ledger) == 0


def test_only_whole_days_that_are_over(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        on_capacity(writer, 100)
        half = timedelta(hours=12)
        assert spread(ledger, bookkeeper, since=DAY + half)["days"] == 0
        assert spread(ledger, bookkeeper, now=DAY + timedelta(days=1) - timedelta(seconds=1))["days"] == 0
        assert spread(ledger, bookkeeper, since=DAY - half, until=DAY + timedelta(days=2) + half)["days"] == 2
        assert effective(ledger, kind=AMORTISATION) == FEE + money.allocate(Decimal(730), [1] * 30)[22] + 72


def test_a_call_of_unknown_cost_bears_nothing_until_it_is_known(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        told = {name: BY_TIME[name] for name in ("provider", "request_model", "response_model", "tier")}
        put(writer, make_unknown, **told, usage=Usage(input_tokens=9, output_tokens=1))
        spread(ledger, bookkeeper)
        assert shares(ledger) == {None: FEE + 36}


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_who_is_cut_off_posts_the_rest_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    monkeypatch.setattr(amortising, "BATCH", 2)
    with books(tmp_path) as (writer, ledger, bookkeeper):
        for tokens in (1, 2, 3, 4, 5):
            on_capacity(writer, 10 * tokens)
        bookkeeper.catch_up()

        class Dying:
            posted = 0
            posting = bookkeeper.posting

            def record(self, entries: Any) -> int:
                if self.posted == dies_at:
                    raise StoreFailed("the disk is gone")
                self.posted += 1
                return bookkeeper.record(entries)

        with pytest.raises(StoreFailed):
            amortise(ledger, Dying(), CONTRACT, since=DAY, until=DAY + timedelta(days=1), now=NOW, apply=True)
        spread(ledger, bookkeeper)
        assert effective(ledger, kind=AMORTISATION) == FEE + 36
        assert spread(ledger, bookkeeper)["applied"] == 0


@settings(max_examples=6, deadline=None)
@given(st.lists(st.lists(st.integers(1, 10**6), max_size=4), min_size=1, max_size=4))
def test_whatever_comes_when_it_adds_up_to_the_fee(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[int]]
) -> None:
    with books(tmp_path_factory.mktemp("books")) as (writer, ledger, bookkeeper):
        seen: list[int] = []
        for tokens in rounds:
            for count in tokens:
                on_capacity(writer, count + 1)
            seen += [count + 1 for count in tokens]
            spread(ledger, bookkeeper)
            assert effective(ledger, kind=AMORTISATION) == FEE + 36
            borne = sorted(value for entry_id, value in shares(ledger).items() if entry_id is not None)
            assert borne == (sorted(money.allocate(FEE, seen)) if seen else [])


def test_the_console_does_it_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amortising, "LOOK_BACK", timedelta(days=4))
    with books(tmp_path) as (writer, ledger, bookkeeper):
        day = datetime.now(UTC) - timedelta(days=3)
        on_capacity(writer, 100, started_at=day, ended_at=day)
        bookkeeper.catch_up()
        seen: list[datetime] = []
        plain = amortising.amortise

        def watched(*arguments: Any, **more: Any) -> dict[str, Any]:
            seen.append(more["since"])
            return plain(*arguments, **more)

        monkeypatch.setattr(amortising, "amortise", watched)
        amortiser = Amortiser(ledger, bookkeeper, lambda: CONTRACT)
        for _ in range(3):
            amortiser.look()
        assert effective(ledger, kind=AMORTISATION) == sum(shares(ledger).values())
        (entry_id,) = [entry_id for entry_id in shares(ledger) if entry_id is not None]
        assert shares(ledger)[entry_id] > 0
        assert seen[1] - seen[0] >= timedelta(days=2) > seen[2] - seen[1], "all of it once a day, the last days again"


def test_what_trouble_left_missing_is_found_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amortising, "LOOK_BACK", timedelta(days=2))
    with books(tmp_path) as (_, ledger, bookkeeper):
        troubles = iter([StoreFailed("it cannot be read")])

        def contract() -> Contract:
            trouble = next(troubles, None)
            if trouble is not None:
                raise trouble
            return CONTRACT

        amortiser = Amortiser(ledger, bookkeeper, contract)
        with pytest.raises(StoreFailed):
            amortiser.look()
        amortiser.look()
        assert effective(ledger, kind=AMORTISATION) > 0


@pytest.mark.parametrize(
    "wrong", [{"calls": 1}, {"requests": 1}, {"usage": Usage(input_tokens=1)}, {"cost_usd": Decimal(1)}]
)
def test_an_amortisation_that_adds_anything_else_is_a_fault(wrong: dict[str, Any]) -> None:
    sound = make_entry(
        "20261122T193000-1a2b3c4d", 1, kind=AMORTISATION, calls=0, requests=0, usage=Usage(), charges=(), **FREE,
        computed_cost_usd=money.ZERO,
    )  # fmt: skip
    assert faults(sound) == []
    assert faults_of(table_of([Posted(1, sound)])) == []
    bad = msgspec.structs.replace(sound, **wrong)
    text = "an amortisation carries calls, counts or a cost"
    assert text in faults(bad)
    assert text in [fault for _, fault in faults_of(table_of([Posted(1, bad)]))]
