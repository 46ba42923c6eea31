"""Seals that rot: what they sealed stays in the ledger, and what is wrong is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.console.api_doctor import report_totals
from costbearer.doctor import examine
from costbearer.journal import JournalWriter, journals
from costbearer.journal_files import seal_file
from costbearer.ledger import BEYOND_LIMITS, Charge
from costbearer.stores import own_journal
from costbearer.stores.own_journal import is_own
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.sealed import SealedPart
from costbearer.stores.segments import Totals, parquet_file, read_seals, totals_of
from tests.books import Books
from tests.factories import make_entry, record


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


def recorded(books: Books) -> Path:
    """The books' own journal of three segments; gives its directory."""
    bookkeeper = books.open()
    for number in range(3):
        first = 10 * number
        bookkeeper.record([make_entry("x", first + each, kind="import", call_id=f"i{first + each}") for each in (1, 2)])
    books.close()
    (directory,) = (path for path in journals(books.journal_dir) if is_own(path))
    return directory


def aged(directory: Path, **changes: str) -> None:
    """Make the seals what they were before they had a hash of their own; the last one says other things, too."""
    previous = None
    files = sorted(directory.glob("*.seal.json"))
    for file in files:
        document = json.loads(file.read_bytes())
        del document["seal_sha256"]
        document["previous_seal_sha256"] = previous
        if file == files[-1]:
            document |= changes
        file.write_text(json.dumps(document))
        previous = hashlib.sha256(file.read_bytes()).hexdigest()


def read(directory: Path) -> tuple[Totals, list[str]]:
    """What the rows of all segments add up to, and what is said to be wrong."""
    part = SealedPart(directory, *read_seals(directory))
    totals = Totals()
    for sealed in part.segments:
        table = part.rows(sealed)
        totals = totals.plus(totals_of(table) if table is not None else Totals())
    return totals, [flaw.detail for flaw in part.flaws]


def held(bookkeeper: Bookkeeper) -> Totals:
    (totals,) = bookkeeper.ledger.totals_by_journal().values()
    return totals


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_byte_of_a_seal_takes_its_segment_along(books: Books, number: int) -> None:
    directory = recorded(books)
    expected, none = read(directory)
    assert expected.entries == 6 and none == []
    file = seal_file(directory, number)
    sound = file.read_bytes()
    for place in range(number, len(sound), 97):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        found, flaws = read(directory)
        assert found == expected, sound[place - 20 : place + 20]
        # Without the name of its hash it is as a seal of old, and says all that it said.
        nameless = b'"seal_sha256"' not in file.read_bytes()
        assert nameless or any(file.name in flaw for flaw in flaws), sound[place - 20 : place + 20]


@pytest.mark.parametrize(
    ("number", "field"), [(3, "parquet_sha256"), pytest.param(1, "cost_usd", marks=pytest.mark.soak)]
)
def test_the_ledger_stays_as_it_is_where_a_seal_of_the_books_rots(books: Books, number: int, field: str) -> None:
    directory = recorded(books)
    expected, _ = read(directory)
    file = seal_file(directory, number)
    text = file.read_text()
    place = text.index(":", text.index(f'"{field}"')) + 3
    file.write_text(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :])
    for _ in range(2):
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 0 and books.set_aside() == []
        assert held(bookkeeper) == expected
        assert any("is read without its seal" in flaw.detail for flaw in bookkeeper.damage)
        books.close()
    bookkeeper = books.open()
    assert bookkeeper.rebuild() == 6 and held(bookkeeper) == expected
    failed = {finding.check for finding in examine(bookkeeper, report_totals=report_totals) if not finding.ok}
    assert failed == {"journal", "seals"}, "the ledger, its rows and the reports agree"


def test_a_segment_of_the_books_whose_seal_is_gone_is_read(books: Books) -> None:
    directory = recorded(books)
    expected, _ = read(directory)
    seal_file(directory, 2).unlink()
    found, flaws = read(directory)
    assert found == expected
    assert any("segment 2 is read without its seal" in flaw for flaw in flaws)


def another_journal(directory: Path) -> None:
    file = parquet_file(directory, 2)
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "journal", [["20261122T193000-00000000"] * len(table)]), file)


def other_rows(directory: Path) -> None:
    parquet_file(directory, 2).write_bytes(parquet_file(directory, 3).read_bytes())


def flipped(directory: Path) -> None:
    file = parquet_file(directory, 2)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("fault", [another_journal, other_rows, flipped])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_that_does_not_hold_by_itself_is_not_believed(
    books: Books, fault: Callable[[Path], None], sealed: bool
) -> None:
    directory = recorded(books)
    fault(directory)
    if not sealed:
        seal_file(directory, 2).write_bytes(b"{")
    found, flaws = read(directory)
    assert found.entries == 4
    assert sealed or any("no other file of it can be read" in flaw for flaw in flaws)


def test_an_old_seal_that_says_another_sum_sets_no_ledger_aside(books: Books) -> None:
    directory = recorded(books)
    expected, _ = read(directory)
    aged(directory, cost_usd="0.000999000000")
    for _ in range(2):
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 0 and books.set_aside() == []
        assert held(bookkeeper) == expected
        assert any("the seal of segment 3 says" in flaw.detail for flaw in bookkeeper.damage)
        books.close()
    bookkeeper = books.open()
    assert bookkeeper.rebuild() == 6 and held(bookkeeper) == expected
    assert len(bookkeeper.notices) == 1, "the one rebuild that was asked for"


@pytest.mark.parametrize("stated", ["0/000154200000", "120000000000000000000000000.000000000000", "NaN"])
def test_a_seal_whose_sum_is_no_amount_is_named_and_stops_nobody(books: Books, stated: str) -> None:
    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    for _ in range(4):
        record(writer)
    writer.rotate_if_due()
    books.open().catch_up()
    books.close()
    aged(writer.directory, cost_usd=stated)
    record(writer)
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 1 and books.set_aside() == []
    assert bookkeeper.progress().entries == 5
    (flaw,) = bookkeeper.damage
    assert flaw.kind == "seal" and "00000001.seal.json states a sum that is none" in flaw.detail
    writer.close()


def test_what_was_sealed_before_there_were_limits_is_posted_within_them(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    absurd = Decimal(6 * 10**25)
    charge = Charge("provider_difference", 1, absurd, absurd, absurd, "m", "log")
    costly = make_entry("x", 1, kind="import", charges=(charge,), cost_usd=absurd, computed_cost_usd=absurd)
    with monkeypatch.context() as patch:
        patch.setattr(own_journal, "within_limits", lambda table: (table, []))
        own = own_journal.OwnJournal.open(books.journal_dir, datetime(2026, 11, 25, tzinfo=UTC))
        own.write(table_of([Posted(0, costly), Posted(0, make_entry("x", 2, kind="import"))]))
    aged(own.directory)
    for posted in (2, 0):
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == posted
        assert (held(bookkeeper).entries, held(bookkeeper).unknown) == (2, 1)
        assert held(bookkeeper).cost_usd == make_entry("x", 2).cost_usd
        assert {flaw.kind for flaw in bookkeeper.damage} >= {BEYOND_LIMITS}
        books.close()
    assert books.set_aside() == []


def test_old_seals_without_faults_are_believed(books: Books) -> None:
    directory = recorded(books)
    expected, _ = read(directory)
    aged(directory)
    assert read(directory) == (expected, [])
    bookkeeper = books.open()
    assert bookkeeper.record([make_entry("x", 99, kind="import", call_id="later")]) == 1
    assert bookkeeper.damage == () and len(read_seals(directory)[0]) == 4
    assert bookkeeper.rebuild() == 7
    assert money.total((expected.cost_usd, make_entry("x", 99).cost_usd or money.ZERO)) == held(bookkeeper).cost_usd
