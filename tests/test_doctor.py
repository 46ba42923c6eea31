from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import msgspec
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.cli import root
from costbearer.cli.doctor import doctor as doctor_command
from costbearer.console.api_doctor import doctor_router, report_totals
from costbearer.console.metrics import metrics_router, metrics_text
from costbearer.corrections import restated
from costbearer.doctor import Finding, examine
from costbearer.journal import Intent, JournalWriter, Outcome, segment_file
from costbearer.prices import Card, Price
from costbearer.stores.duckdb import Reader
from costbearer.stores.segments import compressed_file, parquet_file
from tests.books import Books, cost, outcomes
from tests.factories import BORN, CARD, UNIT_PRICES, make_entry, make_intent, make_unknown, record

NOW = datetime(2026, 11, 22, 21, 0, tzinfo=UTC)


def fill(books: Books) -> None:
    """Sealed and unsealed segments, a dead journal, unknown and negative entries, several days and owners."""
    dead = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    for _ in range(3):
        record(dead)
    dead.append(Intent(make_intent(dead.id, dead.next_sequence)))
    dead.close()
    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    for number in range(12):
        team: str | None = ("a", "b", None)[number % 3]
        kind = "usage" if team else "import"
        record(writer, started_at=BORN + timedelta(hours=7 * number), feature=None, team=team, kind=kind)
        writer.rotate_if_due()
    record(writer, make_unknown(writer.id, writer.next_sequence, requests=0))
    writer.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    books = Books(tmp_path_factory.mktemp("doctor") / "data")
    fill(books)
    books.open().catch_up()
    books.close()
    return books.journal_dir.parent


@pytest.fixture
def books(filled: Path, tmp_path: Path) -> Iterator[Books]:
    shutil.copytree(filled, tmp_path / "data")
    books = Books(tmp_path / "data")
    yield books
    books.close()


SAMPLE_CARD = Card(
    id=CARD,
    provider="openai",
    model="gpt-4.1-mini",
    context="standard",
    valid_from=None,
    valid_until=None,
    hours=None,
    unmetered={},
    context_window=None,
    prices={meter: Price(base=price) for meter, price in UNIT_PRICES.items()},
    source="the sample",
)


def everything(bookkeeper: Bookkeeper) -> dict[str, Finding]:
    findings = examine(
        bookkeeper,
        report_totals=report_totals,
        metrics_text=lambda reader: metrics_text(reader, bookkeeper.progress(), NOW),
        card_lookup=lambda card: SAMPLE_CARD if card == CARD else None,
    )
    return {finding.check: finding for finding in findings}


CHECKS = ["posting", "journal", "seals", "entries", "rows", "cards", "ledger", "roll-ups", "reversed"]
CHECKS += ["report", "metrics"]


def test_everything_agrees(books: Books) -> None:
    found = everything(books.open())
    assert list(found) == CHECKS
    assert [finding.check for finding in found.values() if not finding.ok] == []
    expected = cost(posted.entry for batch in outcomes(books.journal_dir).values() for posted in batch)
    assert money.text(expected) in found["entries"].detail


def test_nothing_agrees_with_nothing(tmp_path: Path) -> None:
    books = Books(tmp_path)
    found = everything(books.open())
    assert all(finding.ok for finding in found.values())
    books.close()


def only(found: dict[str, Finding], *failed: str) -> None:
    assert {finding.check for finding in found.values() if not finding.ok} == set(failed)


@pytest.mark.parametrize(
    ("statement", "failed"),
    [
        ("UPDATE entries SET team = 'c' WHERE team = 'a'", {"rows", "ledger", "roll-ups", "metrics"}),
        ("UPDATE entries SET feature = NULL WHERE sequence = 2", {"rows", "roll-ups"}),
        (
            "UPDATE entries SET started_at = started_at - INTERVAL 2 DAY WHERE sequence = 2",
            {"rows", "ledger", "roll-ups"},
        ),
        ("UPDATE entries SET calls = 2 WHERE sequence = 2", {"rows", "ledger", "metrics"}),
        ("UPDATE charges SET quantity = quantity + 1 WHERE sequence = 2 AND meter = 'output'", {"rows"}),
        ("UPDATE charges SET card = 'another' WHERE sequence = 2", {"rows"}),
    ],
)
def test_a_ledger_that_differs_in_what_is_not_summed_at_open_is_found(
    books: Books, statement: str, failed: set[str]
) -> None:
    with duckdb.connect(str(books.file)) as connection:
        connection.execute(statement)
    only(everything(books.open()), *failed)
    bookkeeper = books_again(books)
    bookkeeper.rebuild()
    only(everything(bookkeeper))


def books_again(books: Books) -> Bookkeeper:
    books.close()
    return books.open()


def test_a_report_that_lies_is_found(books: Books) -> None:
    def lying(reader: Reader, dimension: str) -> dict[str, Decimal]:
        totals = report_totals(reader, dimension)
        if dimension == "agent":
            bucket = min(totals)
            totals[bucket] = money.total((totals[bucket], Decimal("0.000000000001")))
        return totals

    findings = examine(books.open(), report_totals=lying)
    (failed,) = (finding for finding in findings if not finding.ok)
    assert failed.check == "report" and "agent" in failed.detail


def test_a_report_without_a_bucket_is_found(books: Books) -> None:
    def short(reader: Reader, dimension: str) -> dict[str, Decimal]:
        return {name: value for name, value in report_totals(reader, dimension).items() if name != "(none)"}

    findings = examine(books.open(), report_totals=short)
    assert [finding.check for finding in findings if not finding.ok] == ["report"]


@pytest.mark.parametrize(
    "swap", [("} 0.", "} 1."), ('team="a"', 'team="z"'), ("costbearer_calls_total{", "nothing_total{")]
)
def test_metrics_that_lie_are_found(books: Books, swap: tuple[str, str]) -> None:
    bookkeeper = books.open()

    def lying(reader: Reader) -> str:
        text = metrics_text(reader, bookkeeper.progress(), NOW)
        assert swap[0] in text
        return text.replace(*swap, 1)

    findings = examine(bookkeeper, metrics_text=lying)
    assert [finding.check for finding in findings if not finding.ok] == ["metrics"]


def test_a_price_that_its_card_does_not_have_is_found(books: Books) -> None:
    dearer = {meter: Price(base=price + price) for meter, price in UNIT_PRICES.items()}
    card = msgspec.structs.replace(SAMPLE_CARD, prices=dearer)
    findings = examine(books.open(), card_lookup=lambda _: card)
    (failed,) = [finding for finding in findings if not finding.ok]
    assert failed.check == "cards"
    assert "is not a price of card" in failed.detail


def test_a_card_that_no_archive_has_is_found(books: Books) -> None:
    findings = examine(books.open(), card_lookup=lambda card: None)
    (failed,) = (finding for finding in findings if not finding.ok)
    assert failed.check == "cards" and CARD in failed.detail


def test_entries_that_contradict_themselves_are_found(tmp_path: Path) -> None:
    books = Books(tmp_path)
    writer = JournalWriter.open(books.journal_dir)
    sound = make_entry(writer.id, 2)
    charge = sound.charges[0]
    record(writer, make_entry(writer.id, 2, charges=sound.charges[1:]))
    record(writer, make_entry(writer.id, 4, owner=None))
    wrong = (msgspec.structs.replace(charge, quantity=1),)
    record(writer, make_entry(writer.id, 6, charges=wrong, cost_usd=charge.cost_usd, computed_cost_usd=charge.cost_usd))
    record(writer, make_unknown(writer.id, 8, reason_unknown=None))
    writer.close()
    found = everything(books.open())
    only(found, "entries")
    assert "the charges do not add up" in found["entries"].detail and "more)" in found["entries"].detail
    books.close()


def test_a_call_that_was_taken_back_twice_is_found(tmp_path: Path) -> None:
    books = Books(tmp_path)
    bookkeeper = books.open()
    bookkeeper.record([make_unknown("x", 1, kind="import", team=None)])
    with bookkeeper.ledger.reader() as reader:
        (row,) = reader.execute(reader.entries.select("journal", "sequence")).to_pylist()
    (old,) = bookkeeper.ledger.entries([(row["journal"], row["sequence"])])
    new = msgspec.structs.replace(old, team="search")
    bookkeeper.record(restated(old, new, at=NOW, kind="correction"))
    only(everything(bookkeeper))
    bookkeeper.record(restated(old, new, at=NOW, kind="correction"))
    found = everything(bookkeeper)
    only(found, "reversed")
    assert old.entry_id in found["reversed"].detail
    books.close()


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_sealed_frames_that_were_changed_are_found(books: Books) -> None:
    directory = min(path for path in books.journal_dir.iterdir() if compressed_file(path, 2).exists())
    flip(compressed_file(directory, 1), 200)
    found = everything(books.open())
    assert not found["seals"].ok and "segment 1" in found["seals"].detail
    assert not found["journal"].ok


def test_a_sealed_parquet_file_that_was_changed_is_found(books: Books) -> None:
    directory = min(path for path in books.journal_dir.iterdir() if parquet_file(path, 1).exists())
    flip(parquet_file(directory, 1), 500)
    only(everything(books.open()), "seals")


def test_damaged_frames_are_found_and_the_rest_agrees(tmp_path: Path) -> None:
    books = Books(tmp_path)
    writer = JournalWriter.open(books.journal_dir)
    record(writer)
    at = segment_file(writer.directory, 1).stat().st_size
    for _ in range(3):
        record(writer)
    flip(segment_file(writer.directory, 1), at + 100)
    found = everything(books.open())
    only(found, "journal")
    assert "4 is missing" in found["journal"].detail
    writer.close()
    only(everything(books_again(books)), "journal")
    books.close()


def test_a_torn_tail_that_was_cut_is_no_failure(tmp_path: Path) -> None:
    books = Books(tmp_path)
    writer = JournalWriter.open(books.journal_dir)
    record(writer)
    writer.close()
    with segment_file(writer.directory, 1).open("ab") as stream:
        stream.write(b"CBJ1 and then the power went")
    bookkeeper = books.open()
    only(everything(bookkeeper))
    assert [flaw.kind for flaw in bookkeeper.damage] == ["torn_tail"]
    books.close()


def test_what_is_written_meanwhile_does_not_disturb(books: Books) -> None:
    bookkeeper = books.open()
    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    record(writer)

    def busy(reader: Reader, dimension: str) -> dict[str, Decimal]:
        record(writer)
        writer.rotate_if_due()
        bookkeeper.catch_up()
        return report_totals(reader, dimension)

    assert [finding for finding in examine(bookkeeper, report_totals=busy) if not finding.ok] == []
    writer.close()
    only(everything(bookkeeper))


def test_a_pass_that_fails_is_a_finding(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    from costbearer.errors import StoreFailed

    bookkeeper = books.open()
    bookkeeper.catch_up()

    def fail() -> int:
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(bookkeeper, "catch_up", fail)
    found = everything(bookkeeper)
    assert (found["posting"].ok, found["posting"].detail) == (False, "the disk is full")


def test_a_journal_that_is_gone_is_a_finding(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    bookkeeper = books.open()
    bookkeeper.catch_up()
    shutil.rmtree(min(books.journal_dir.iterdir()))
    monkeypatch.setattr(bookkeeper, "catch_up", lambda: 0)
    found = everything(bookkeeper)
    assert "is gone" in found["journal"].detail
    assert not found["ledger"].ok


# -- command and API


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(doctor_command, list(arguments), prog_name="doctor")
    return result.exit_code, result.stdout


def test_the_command_prints_a_line_per_check_and_its_exit_code_says_it(books: Books) -> None:
    data = str(books.journal_dir.parent)
    (books.journal_dir.parent / "prices").mkdir()
    code, text = run("--data", data)
    assert code == 1, "the sample card is in no archive"
    lines = text.splitlines()
    assert {line.split()[1]: line.split()[0] for line in lines} == {
        check: "FAILED" if check == "cards" else "ok" for check in CHECKS
    }
    code, text = run("--data", data, "--json", "--rebuild")
    document = json.loads(text)
    assert (code, document["ok"]) == (1, False)
    assert [finding["check"] for finding in document["findings"] if not finding["ok"]] == ["cards"]
    assert len(books.set_aside()) == 1


def test_the_command_ends_well_where_all_holds(tmp_path: Path) -> None:
    books = Books(tmp_path / "data")
    writer = JournalWriter.open(books.journal_dir)
    writer.append(Intent(make_intent(writer.id, 2)))
    writer.append(Outcome(make_unknown(writer.id, 2)))
    writer.close()
    code, text = run("--data", str(tmp_path / "data"))
    assert code == 0 and "FAILED" not in text
    assert all(line.startswith("ok ") for line in text.splitlines())


def test_a_data_directory_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["doctor", "--data", str(tmp_path / "nowhere")])
    assert result.exit_code == 2 and result.stdout == ""
    assert "nowhere" in result.stderr and not (tmp_path / "nowhere").exists()


def test_the_api_answers_what_the_command_prints(books: Books) -> None:
    bookkeeper = books.open()
    app = FastAPI()
    app.include_router(doctor_router(lambda: examine(bookkeeper)))
    app.include_router(metrics_router(bookkeeper.ledger.reader, bookkeeper.progress, lambda: NOW))
    with TestClient(app) as client:
        document = client.get("/api/v1/doctor").json()
        assert document["ok"] is True
        assert [finding["check"] for finding in document["findings"]] == [
            *CHECKS[:5],
            "ledger",
            "roll-ups",
            "reversed",
        ]
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    expected = [posted.entry for batch in outcomes(books.journal_dir).values() for posted in batch]
    a = [entry for entry in expected if entry.team == "a"]
    labels = 'team="a",provider="openai",model="gpt-4.1-mini",basis="metered"'
    assert float(samples[f"costbearer_cost_usd_total{{{_sorted(labels)}}}"]) == float(cost(a))
    assert float(samples[f"costbearer_calls_total{{{_sorted(labels)}}}"]) == len(a)
    tokens = _sorted(labels + ',kind="input"')
    assert float(samples[f"costbearer_tokens_total{{{tokens}}}"]) == sum(entry.usage.input_tokens or 0 for entry in a)
    unknown = [
        name for name in samples if name.startswith("costbearer_unknown_calls_total") and 'basis="unknown"' in name
    ]
    assert sum(float(samples[name]) for name in unknown) == 2
    none = [name for name in samples if 'team="(none)"' in name]
    assert none
    assert float(samples["costbearer_ledger_entries"]) == len(expected)
    assert float(samples["costbearer_bookkeeper_up"]) == 1


def _sorted(labels: str) -> str:
    return ",".join(sorted(labels.split(",")))
