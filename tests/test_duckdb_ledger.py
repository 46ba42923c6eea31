from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
import pytest

from costbearer import money
from costbearer.errors import DataDirectoryBusy, StoreFailed
from costbearer.ledger import Entry
from costbearer.stores import duckdb as store
from costbearer.stores.duckdb import Ledger, Position
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.segments import Totals, parquet_file, totals_of, write_parquet
from tests.factories import make_entry, make_unknown

JOURNAL = "20261122T193000-1a2b3c4d"


def posted(*sequences: int) -> list[Posted]:
    return [Posted(sequence + 1, make_entry(JOURNAL, sequence)) for sequence in sequences]


def position(batch: list[Posted], offset: int = 100, before: Totals | None = None) -> Position:
    totals = (before or Totals()).plus(totals_of(table_of(batch)))
    return Position(JOURNAL, 1, offset, totals.closed_sequence, totals.entries, totals.cost_usd)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path / "ledger.duckdb", readers=2)
    yield ledger
    ledger.close()


def test_what_is_posted_is_what_is_read(ledger: Ledger) -> None:
    batch = [*posted(1, 3, 5), Posted(9, make_unknown(JOURNAL, 8))]
    ledger.post(batch, [position(batch)])
    expected = table_of(batch)
    with ledger.reader() as reader:
        entries, charges = reader.rows(JOURNAL, 0, 100)
        assert entries.equals(expected.drop_columns(["charges"]))
        assert charges.num_rows == sum(len(each.entry.charges) for each in batch)
        assert reader.totals_by_journal() == {JOURNAL: totals_of(expected)}
        assert reader.positions() == ledger.positions() == {JOURNAL: position(batch)}
        (total,) = reader.grouped(())
    assert total["cost_usd"] == money.total(each.entry.cost_usd or money.ZERO for each in batch)
    assert (total["entries"], total["calls"], total["unknown_calls"]) == (4, 4, 1)
    assert total["bound_usd"] == money.usd("0.05")


def test_sums_stay_exact_where_floats_would_not(ledger: Ledger) -> None:
    tiny, huge = money.usd("0.000000000001"), money.usd("999999999999.000000000001")
    batch = [
        Posted(number, make_unknown(JOURNAL, number, basis="estimated", cost_usd=cost, charges=(), reason_unknown=None))
        for number, cost in enumerate((tiny, huge, tiny, huge), start=1)
    ]
    ledger.post(batch, [])
    with ledger.reader() as reader:
        added = reader.execute(reader.entries.aggregate(cost=reader.entries["cost_usd"].sum()))
    assert added.column("cost")[0].as_py() == money.usd_sum("1999999999998.000000000004")


@pytest.mark.parametrize(
    "again",
    [posted(3), [*posted(7), *posted(7)], [*posted(9), *posted(5)]],
    ids=["posted before", "twice in one batch", "one of them posted before"],
)
def test_doubles_are_refused_and_nothing_of_the_batch_stays(ledger: Ledger, again: list[Posted]) -> None:
    first = posted(1, 3, 5)
    ledger.post(first, [position(first)])
    with pytest.raises(StoreFailed, match="posted twice"):
        ledger.post(again, [position(again, 200)])
    assert ledger.totals_by_journal() == {JOURNAL: totals_of(table_of(first))}
    assert ledger.positions() == {JOURNAL: position(first)}
    later = posted(11)
    ledger.post(later, [position(later, 200, totals_of(table_of(first)))])
    assert ledger.totals_by_journal()[JOURNAL].entries == 4


def test_a_late_frame_is_no_double(ledger: Ledger) -> None:
    first = posted(1, 9)
    ledger.post(first, [position(first)])
    late = posted(5)
    ledger.post(late, [position(late, 200, totals_of(table_of(first)))])
    assert ledger.totals_by_journal()[JOURNAL] == totals_of(table_of([*first, *late]))


def test_positions_only_move_forward(ledger: Ledger) -> None:
    first = posted(1)
    ledger.post(first, [position(first)])
    with pytest.raises(StoreFailed, match="forward"):
        ledger.post(posted(3), [position(first)])


def test_a_reader_keeps_one_state_while_posting_goes_on(ledger: Ledger) -> None:
    ledger.post(posted(1), [])
    with ledger.reader() as reader:
        before = reader.grouped(("team",))
        ledger.post(posted(3, 5), [])
        assert reader.grouped(("team",)) == before
    with ledger.reader() as reader:
        assert sum(row["entries"] for row in reader.grouped(("team",))) == 3


def test_readers_are_given_out_to_one_thread_each(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "READER_WAIT_S", 0.01)
    with ledger.reader() as one, ledger.reader() as other:
        assert one is not other
        with pytest.raises(StoreFailed, match="busy"), ledger.reader():
            pass
    wrong: list[object] = []

    def read() -> None:
        for _ in range(20):
            with ledger.reader() as reader:
                count = reader.grouped(())[0]["entries"]
                if count % 2:
                    wrong.append(count)

    monkeypatch.setattr(store, "READER_WAIT_S", 30.0)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 20, 2):
        ledger.post(posted(number * 10, number * 10 + 5), [])
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/etc/*')",
        "COPY entries TO '/tmp/costbearer-must-not-exist.csv'",
        "ATTACH '/tmp/costbearer-must-not-exist.duckdb' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allow_community_extensions = true",
        "RESET enable_external_access",
        "INSERT INTO meta VALUES ('a', 'b')",
    ],
)
def test_the_engine_is_locked_down(ledger: Ledger, statement: str) -> None:
    with pytest.raises(StoreFailed), ledger.reader() as reader:
        reader.sql(statement)
    with ledger.reader() as reader:
        settings = dict(
            reader.sql("SELECT name, value FROM duckdb_settings()")
            .select(["name", "value"])
            .to_pandas()
            .values.tolist()
        )
    assert settings["enable_external_access"] == "false"
    assert settings["lock_configuration"] == "true"
    assert settings["autoload_known_extensions"] == settings["autoinstall_known_extensions"] == "false"
    assert settings["storage_compatibility_version"] == store.STORAGE_VERSION
    assert ledger.broken is None


def test_an_unknown_column_is_refused(ledger: Ledger) -> None:
    with pytest.raises(StoreFailed, match="no column"), ledger.reader() as reader:
        reader.grouped(('team" FROM entries; DROP TABLE entries --',))


def test_it_is_opened_once(ledger: Ledger) -> None:
    with pytest.raises(DataDirectoryBusy):
        Ledger.open(ledger.file)


def test_what_was_posted_is_there_after_opening_again(ledger: Ledger) -> None:
    batch = posted(1, 3)
    ledger.post(batch, [position(batch)])
    ledger.close()
    with pytest.raises(StoreFailed, match="closed"):
        ledger.post(posted(5), [])
    again = Ledger.open(ledger.file, readers=1)
    assert again.notices == []
    assert again.positions() == {JOURNAL: position(batch)}
    assert again.totals_by_journal() == {JOURNAL: totals_of(table_of(batch))}
    again.close()


def test_there_are_no_keys_and_indexes(ledger: Ledger) -> None:
    with ledger.reader() as reader:
        assert reader.sql("SELECT * FROM duckdb_indexes()").num_rows == 0
        assert reader.sql("SELECT * FROM duckdb_constraints()").num_rows == 0


def spoil_schema(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE meta SET value = 'another' WHERE name = 'fingerprint'")


def spoil_tables(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("DROP TABLE positions")


def spoil_bytes(file: Path) -> None:
    file.write_bytes(b"not a database" * 1000)


@pytest.mark.parametrize("spoil", [spoil_schema, spoil_tables, spoil_bytes])
def test_a_file_that_is_no_ledger_is_set_aside(tmp_path: Path, spoil: object) -> None:
    file = tmp_path / "ledger.duckdb"
    ledger = Ledger.open(file, readers=1)
    ledger.post(posted(1), [])
    ledger.close()
    assert callable(spoil)
    spoil(file)
    held = file.read_bytes()
    again = Ledger.open(file, readers=1)
    assert again.positions() == {} and again.totals_by_journal() == {}
    (away,) = tmp_path.glob("ledger.duckdb.damaged-*Z")
    assert away.read_bytes() == held
    assert away.name in again.notices[0]
    again.close()


def test_a_log_without_its_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "ledger.duckdb.wal").write_bytes(b"left over")
    ledger = Ledger.open(tmp_path / "ledger.duckdb", readers=1)
    assert "main file is missing" in ledger.notices[0]
    assert [path.read_bytes() for path in tmp_path.glob("ledger.duckdb.damaged-*.wal")] == [b"left over"]
    ledger.close()


def test_what_is_set_aside_twice_in_a_second_has_two_names(ledger: Ledger) -> None:
    names = {ledger.set_aside("first"), ledger.set_aside("second"), ledger.set_aside("third")}
    assert len(names) == 3 and all(path.exists() for path in names)
    assert ledger.totals_by_journal() == {}


def test_held_readers_are_told_why(ledger: Ledger) -> None:
    ledger.hold_readers("it is being rebuilt")
    with pytest.raises(StoreFailed, match="being rebuilt"), ledger.reader():
        pass
    with ledger.reader(held=False) as reader:
        assert reader.positions() == {}
    ledger.admit_readers()
    with ledger.reader() as reader:
        assert reader.positions() == {}


def test_grouped_puts_the_missing_value_into_a_group(ledger: Ledger) -> None:
    entries: list[Entry] = [make_entry(JOURNAL, number, feature=(None, "a")[number % 2]) for number in range(1, 6)]
    ledger.post([Posted(entry.sequence, entry) for entry in entries], [])
    with ledger.reader() as reader:
        groups = {row["feature"]: row["cost_usd"] for row in reader.grouped(("feature",))}
    assert groups == {
        value: money.total(entry.cost_usd or money.ZERO for entry in entries if entry.feature == value)
        for value in (None, "a")
    }


# -- sealed files, read by the engine itself


def sealed(directory: Path, *sequences: int) -> tuple[Path, Position]:
    batch = posted(*sequences)
    write_parquet(directory, 1, table_of(batch))
    return parquet_file(directory, 1), position(batch)


def test_sealed_files_are_loaded_as_they_would_be_posted(tmp_path: Path) -> None:
    file, at = sealed(tmp_path, 1, 3, 5)
    ledger = Ledger.open(tmp_path / "l.duckdb", readers=1)
    ledger.load([file], [at])
    expected = table_of(posted(1, 3, 5))
    with ledger.reader() as reader:
        rows, charges = reader.rows(JOURNAL, 0, 2**62)
        with pytest.raises(StoreFailed):
            reader.sql(f"SELECT * FROM read_parquet('{file}')")
    assert rows.equals(expected.drop_columns(["charges"]))
    assert charges.num_rows == totals_of(expected).charges
    assert ledger.positions() == {JOURNAL: at}
    with pytest.raises(StoreFailed, match="empty ledger"):
        ledger.load([file], [at])
    ledger.close()
    again = Ledger.open(tmp_path / "l.duckdb", readers=1)
    assert again.totals_by_journal() == {JOURNAL: totals_of(expected)} and again.notices == []
    again.close()


@pytest.mark.parametrize("fault", ["position", "file", "stranger"])
def test_sealed_files_that_are_not_what_was_said_are_refused(tmp_path: Path, fault: str) -> None:
    file, at = sealed(tmp_path, 1, 3, 5)
    if fault == "file":
        file.write_bytes(file.read_bytes()[:-50])
    said = {"position": [msgspec.structs.replace(at, entries=2)], "file": [at], "stranger": []}[fault]
    ledger = Ledger.open(tmp_path / "l.duckdb", readers=1)
    with pytest.raises(StoreFailed):
        ledger.load([file], said)
    ledger.set_aside("it failed")
    assert ledger.totals_by_journal() == {} and ledger.positions() == {}
    ledger.post(posted(1), [position(posted(1))])
    ledger.close()
