"""Calls whose result comes later: corrected exactly once, whatever comes first, however often it is read."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.console.api_doctor import report_totals
from costbearer.corrections import REPEATED, restated
from costbearer.doctor import examine
from costbearer.journal import Intent, JournalWriter, Outcome, journals
from costbearer.ledger import AWAITING_RESULT, RESULT_GONE, Entry, Settlement
from costbearer.stores import own_journal, reading
from costbearer.stores.duckdb import Ledger
from costbearer.stores.own_journal import is_own
from tests.books import Books
from tests.factories import BORN, make_entry, make_intent, make_unknown

RATED = make_entry("x", 9)
FREE: dict[str, Any] = {
    "usage": RATED.usage.__class__(),
    "charges": (),
    **dict.fromkeys(("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd"), money.ZERO),
}


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


def result(response: str = "resp_1", **changes: Any) -> Settlement:
    values: dict[str, Any] = {
        "provider": "openai",
        "provider_response_id": response,
        "status": "ok",
        "response_model": "gpt-4.1-mini",
        "usage": RATED.usage,
        "charges": RATED.charges,
        "cost_usd": RATED.cost_usd,
        "list_cost_usd": RATED.cost_usd,
        "computed_cost_usd": RATED.cost_usd,
        "basis": "metered",
        "ended_at": BORN + timedelta(hours=1),
    }
    return Settlement(**(values | changes))


def write(writer: JournalWriter, **changes: Any) -> Entry:
    sequence = writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
    make = make_unknown if changes.get("reason_unknown") else make_entry
    entry = make(writer.id, sequence, **changes)
    writer.append(Outcome(entry))
    return entry


def ask(writer: JournalWriter, response: str = "resp_1") -> Entry:
    """A background call: closed without its result."""
    return write(writer, reason_unknown=AWAITING_RESULT, provider_response_id=response, status="ok")


def read(writer: JournalWriter, settlement: Settlement | None = None) -> Entry:
    """The free call that reads a result."""
    return write(writer, operation="responses.retrieve", settlement=settlement or result(), **FREE)


def corrections(bookkeeper: Bookkeeper) -> list[Entry]:
    found = []
    for directory in journals(bookkeeper.journal_dir):
        if is_own(directory):
            with bookkeeper.ledger.reader() as reader:
                rows, _ = reader.rows(directory.name, 0, 2**62)
            identities = zip(rows.column("journal").to_pylist(), rows.column("sequence").to_pylist(), strict=True)
            found += bookkeeper.ledger.entries(list(identities))
    return found


def assert_settled(
    bookkeeper: Bookkeeper, calls: int, settled: int = 1, *, repeated: int = 0, given_up: int = 0, doctor: bool = True
) -> None:
    """So many calls in all, so many of them settled at the cost of `RATED`, none unknown; the doctor agrees. Others
    repeated one, or were given up before."""
    assert len(corrections(bookkeeper)) == 2 * (settled + repeated + given_up)
    with bookkeeper.ledger.reader() as reader:
        (sums,) = reader.grouped(())
    assert (sums["calls"], sums["requests"], sums["unknown_calls"], sums["bound_usd"]) == (calls, calls, 0, 0)
    assert sums["cost_usd"] == money.total([RATED.cost_usd or money.ZERO] * settled)
    assert sums["input_tokens"] == settled * (RATED.usage.input_tokens or 0)
    assert bookkeeper.awaiting() == []
    if not doctor:
        return
    assert [finding for finding in examine(bookkeeper, report_totals=report_totals) if not finding.ok] == []


@pytest.fixture
def writers(books: Books) -> Iterator[tuple[JournalWriter, JournalWriter]]:
    pair = JournalWriter.open(books.journal_dir), JournalWriter.open(books.journal_dir)
    yield pair
    for writer in pair:
        writer.close()


def test_a_result_settles_the_call_that_awaits_it(books: Books, writers: tuple[JournalWriter, JournalWriter]) -> None:
    bookkeeper = books.open()
    asked = ask(writers[0])
    bookkeeper.catch_up()
    assert bookkeeper.awaiting() == [asked]
    read(writers[1])
    assert bookkeeper.catch_up() == 3
    back, right = corrections(bookkeeper)
    assert (back.refers_to, right.refers_to, back.calls, right.calls) == (asked.entry_id, asked.entry_id, -1, 1)
    assert (right.kind, right.owner, right.key_id, right.cost_usd) == (
        "correction",
        asked.owner,
        asked.key_id,
        RATED.cost_usd,
    )
    assert right.started_at == asked.started_at
    assert_settled(bookkeeper, 2)


@pytest.mark.parametrize("first", ["result", "call", "both"])
def test_whichever_is_posted_first(books: Books, writers: tuple[JournalWriter, JournalWriter], first: str) -> None:
    bookkeeper = books.open()
    bookkeeper.catch_up()
    steps: tuple[Callable[[JournalWriter], Entry], ...] = (ask, read) if first == "call" else (read, ask)
    for step, writer in zip(steps, writers, strict=True):
        step(writer)
        if first != "both":
            bookkeeper.catch_up()
    bookkeeper.catch_up()
    assert_settled(bookkeeper, 2)


def test_a_result_that_is_read_again_and_again_counts_once(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    bookkeeper = books.open()
    ask(writers[0])
    for number in range(3):
        for writer in writers:
            read(writer)
            if number == 1:
                bookkeeper.catch_up()
    bookkeeper.catch_up()
    assert_settled(bookkeeper, 7)
    assert not bookkeeper.settle([result()])
    for again in (bookkeeper.catch_up, bookkeeper.rebuild):
        again()
        assert_settled(bookkeeper, 7)
    books.close()
    bookkeeper = books.open()
    read(writers[0])
    bookkeeper.catch_up()
    assert_settled(bookkeeper, 8)


def test_a_poller_settles_what_is_awaited(books: Books, writers: tuple[JournalWriter, JournalWriter]) -> None:
    bookkeeper = books.open()
    assert not bookkeeper.settle([result()]), "nothing awaits it"
    ask(writers[0])
    ask(writers[1], "resp_2")
    bookkeeper.catch_up()
    assert {entry.provider_response_id for entry in bookkeeper.awaiting()} == {"resp_1", "resp_2"}
    assert not bookkeeper.settle([result(provider="another")])
    assert not bookkeeper.settle([result(basis="unknown", cost_usd=None, reason_unknown=AWAITING_RESULT, charges=())])
    assert bookkeeper.settle([result()])
    assert not bookkeeper.settle([result()])
    assert [entry.provider_response_id for entry in bookkeeper.awaiting()] == ["resp_2"]
    assert bookkeeper.settle([result("resp_2")])
    assert_settled(bookkeeper, 2, settled=2)


def test_what_is_settled_together_is_one_record(books: Books, writers: tuple[JournalWriter, JournalWriter]) -> None:
    bookkeeper = books.open()
    names = [f"resp_{number}" for number in range(40)]
    for name in names:
        ask(writers[0], name)
    bookkeeper.catch_up()
    assert bookkeeper.settle([result(name) for name in (*names, "resp_0", "resp_unknown")]) == 40
    (own,) = [directory for directory in journals(books.journal_dir) if is_own(directory)]
    assert len(list(own.glob("*.parquet"))) == 1
    assert_settled(bookkeeper, 40, settled=40, doctor=False)


@pytest.mark.parametrize(("second", "start"), [("before", "before"), ("with", "never"), ("after", "after")])
def test_work_that_was_asked_for_twice_is_paid_for_once(
    books: Books, writers: tuple[JournalWriter, JournalWriter], second: str, start: str
) -> None:
    """A create that was sent again under its idempotency key answers with the same response."""
    bookkeeper = books.open()

    def renew(when: str) -> None:
        nonlocal bookkeeper
        if start == when:
            books.close()
            bookkeeper = books.open()
        bookkeeper.catch_up()

    ask(writers[0])
    if second == "before":
        ask(writers[1])
        bookkeeper.catch_up()
        assert len(bookkeeper.awaiting()) == 1, "nobody asks for it twice"
    renew("before")
    if second == "with":
        ask(writers[1])
    read(writers[0])
    bookkeeper.catch_up()
    if second == "after":
        ask(writers[1])
    renew("after")
    if start == "never":
        bookkeeper.rebuild()
    assert_settled(bookkeeper, 3, settled=1, repeated=1, doctor=False)
    told = sorted((entry.cost_usd, entry.notes) for entry in corrections(bookkeeper) if entry.cost_usd is not None)
    assert told == [(money.ZERO, (REPEATED,)), (RATED.cost_usd, ())]


def test_a_poller_settles_work_that_was_asked_for_twice(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    bookkeeper = books.open()
    for writer in writers:
        ask(writer)
    bookkeeper.catch_up()
    assert bookkeeper.settle([result(), result()]) == 1
    assert_settled(bookkeeper, 2, settled=1, repeated=1, doctor=False)


GIVEN_UP: dict[str, Any] = {
    "status": "unknown",
    "basis": "unknown",
    "reason_unknown": RESULT_GONE,
    "charges": (),
    **dict.fromkeys(("cost_usd", "list_cost_usd", "computed_cost_usd")),
}


@pytest.mark.parametrize(("by", "start"), [("caller", True), ("poller", False)])
def test_a_result_that_was_given_up_is_taken_all_the_same_when_it_comes(
    books: Books, writers: tuple[JournalWriter, JournalWriter], by: str, start: bool
) -> None:
    bookkeeper = books.open()
    ask(writers[0])
    bookkeeper.catch_up()
    assert bookkeeper.settle([result(**GIVEN_UP)]) == 1
    assert bookkeeper.awaiting() == []
    assert bookkeeper.settle([result(**GIVEN_UP)]) == 0
    if start:
        books.close()
        bookkeeper = books.open()
        bookkeeper.catch_up()
    if by == "caller":
        read(writers[1])
        bookkeeper.catch_up()
    else:
        assert bookkeeper.settle([result()]) == 1
    if start:
        bookkeeper.rebuild()
    read(writers[1])
    bookkeeper.catch_up()
    assert_settled(bookkeeper, 2 + (by == "caller"), given_up=1, doctor=False)


def test_results_that_nobody_awaits_are_not_held(books: Books, writers: tuple[JournalWriter, JournalWriter]) -> None:
    bookkeeper = books.open()
    for number in range(50):
        read(writers[0], result(f"resp_{number}"))
    bookkeeper.catch_up()
    assert bookkeeper._awaited is not None and bookkeeper._awaited._results == {}
    books.close()
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert bookkeeper._awaited is not None and bookkeeper._awaited._results == {}
    ask(writers[1], "resp_7")
    bookkeeper.catch_up()
    assert_settled(bookkeeper, 51, doctor=False)


def test_a_result_that_is_posted_before_its_call_is_found_by_any_id(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    names = ['say "hi"', "back\\slash", "\\", "über", "a/b", "💶", '","provider_response_id":"x']
    bookkeeper = books.open()
    for name in names:
        read(writers[0], result(name))
    bookkeeper.catch_up()
    for name in names:
        ask(writers[1], name)
    bookkeeper.catch_up()
    assert_settled(bookkeeper, 2 * len(names), settled=len(names), doctor=False)


def test_a_result_that_is_not_there_yet_settles_nothing(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    bookkeeper = books.open()
    asked = ask(writers[0])
    early = result(basis="unknown", cost_usd=None, reason_unknown=AWAITING_RESULT, charges=())
    read(writers[1], early)
    bookkeeper.catch_up()
    assert bookkeeper.awaiting() == [asked]
    read(writers[1])
    bookkeeper.catch_up()
    assert len(corrections(bookkeeper)) == 2


def test_a_result_of_unknown_cost_takes_the_call_off_the_list(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    bookkeeper = books.open()
    asked = ask(writers[0])
    nameless = result(
        basis="unknown",
        cost_usd=None,
        list_cost_usd=None,
        computed_cost_usd=None,
        charges=(),
        reason_unknown="unpriced",
    )
    read(writers[0], nameless)
    bookkeeper.catch_up()
    assert bookkeeper.awaiting() == []
    _, right = corrections(bookkeeper)
    assert (right.cost_usd, right.reason_unknown, right.bound_usd) == (None, "unpriced", asked.bound_usd)
    with bookkeeper.ledger.reader() as reader:
        (sums,) = reader.grouped(())
    assert (sums["unknown_calls"], sums["bound_usd"]) == (1, asked.bound_usd)


def test_a_call_that_was_moved_to_another_team_is_settled_there(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    bookkeeper = books.open()
    asked = ask(writers[0])
    bookkeeper.catch_up()
    moved = restated(asked, msgspec.structs.replace(asked, team="moved"), at=BORN, kind="correction")
    bookkeeper.record(moved)
    (awaiting,) = bookkeeper.awaiting()
    assert (awaiting.team, awaiting.kind) == ("moved", "correction")
    books.close()
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert bookkeeper.awaiting() == [awaiting]
    assert bookkeeper.settle([result()])
    with bookkeeper.ledger.reader() as reader:
        sums = {row["team"]: row["cost_usd"] for row in reader.grouped(("team",))}
    assert sums == {asked.team: 0, "moved": RATED.cost_usd}


def test_an_entry_without_a_response_id_awaits_for_ever(
    books: Books, writers: tuple[JournalWriter, JournalWriter]
) -> None:
    bookkeeper = books.open()
    write(writers[0], reason_unknown=AWAITING_RESULT)
    read(writers[0])
    bookkeeper.catch_up()
    assert bookkeeper.awaiting() == [] and corrections(bookkeeper) == []


class Killed(BaseException):
    """Stands for SIGKILL."""


def killing(at: int) -> pytest.MonkeyPatch:
    """Every step that leaves a trace is counted; the `at`th and all behind it raise."""
    patch, steps = pytest.MonkeyPatch(), [0]

    def wrapped(real: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] >= at:
                raise Killed
            return real(*arguments, **options)

        return step

    for owner, name in (
        (os, "fsync"),
        (os, "fdatasync"),
        (Path, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
        (Ledger, "post_table"),
        (Ledger, "entries"),
        (own_journal, "write_parquet"),
        (own_journal, "write_seal"),
        (reading, "write_parquet"),
        (reading, "write_seal"),
        (reading, "drop_raw"),
    ):
        patch.setattr(owner, name, wrapped(getattr(owner, name)))
    return patch


@pytest.mark.slow
def test_killed_at_every_fourth_step_it_is_settled_once(tmp_path: Path) -> None:
    killed_at_steps(tmp_path, 4)


@pytest.mark.soak
def test_killed_at_any_step_it_is_settled_once(tmp_path: Path) -> None:
    killed_at_steps(tmp_path, 1)


def killed_at_steps(tmp_path: Path, stride: int) -> None:
    source = Books(tmp_path / "source")
    one, other = JournalWriter.open(source.journal_dir), JournalWriter.open(source.journal_dir)
    ask(one)
    for writer in (one, other):
        read(writer)
        writer.close()
    # An empty ledger: to make one is no step of a pass, and need not be done again for each of them.
    source.open()
    source.close()
    at, dead = 1 - stride, True
    while dead:
        at += stride
        data = tmp_path / "data"
        shutil.copytree(source.journal_dir.parent, data)
        books = Books(data)
        bookkeeper = books.open()
        patch = killing(at)
        try:
            bookkeeper.catch_up()
            dead = False
        except Killed:
            pass
        finally:
            patch.undo()
            books.close()
        bookkeeper = books.open()
        bookkeeper.catch_up()
        assert_settled(bookkeeper, 3, doctor=at % 10 < stride)
        books.close()
        shutil.rmtree(data)
    assert at > 25


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 24))])
def test_any_interleaving_settles_every_call_once(tmp_path: Path, seed: int) -> None:
    """Workers, reads, polls, passes, kills, restarts, rebuilds in any order; in the end all are settled, once."""
    chance = random.Random(seed)
    books = Books(tmp_path)
    bookkeeper = books.open()
    writers = [JournalWriter.open(books.journal_dir, segment_bytes=6000) for _ in range(2)]
    names = [f"resp_{number}" for number in range(12)]
    asked: set[str] = set()
    reads = repeats = 0

    def renew() -> None:
        nonlocal bookkeeper
        books.close()
        bookkeeper = books.open()

    def crash() -> None:
        patch = killing(chance.randint(1, 20))
        try:
            bookkeeper.catch_up()
        except Killed:
            pass
        finally:
            patch.undo()
        renew()

    for _ in range(45):
        step, name, writer = chance.randrange(12), chance.choice(names), chance.choice(writers)
        if step < 3:
            repeats += name in asked
            asked.add(name)
            ask(writer, name)
        elif step < 6:
            read(writer, result(name))
            reads += 1
        elif step == 6:
            bookkeeper.settle([result(name)])
        elif step < 10:
            bookkeeper.catch_up()
        elif step == 10:
            crash()
        else:
            chance.choice((renew, bookkeeper.rebuild))()
        writer.rotate_if_due()
    for name in names:
        if name not in asked:
            ask(writers[0], name)
        read(writers[1], result(name))
    bookkeeper.catch_up()
    for _ in range(2):
        assert_settled(bookkeeper, len(names) * 2 + reads + repeats, settled=len(names), repeated=repeats)
        renew()
        bookkeeper.catch_up()
    for writer in writers:
        writer.close()
    books.close()


@pytest.mark.parametrize("by", ["caller", "poller"])
def test_a_result_that_comes_while_somebody_decides_waits_for_them(
    books: Books, writers: tuple[JournalWriter, JournalWriter], by: str
) -> None:
    bookkeeper = books.open()
    asked = ask(writers[0])
    bookkeeper.catch_up()

    def settle() -> None:
        if by == "poller":
            bookkeeper.settle([result()])
        else:
            read(writers[1])
            bookkeeper.catch_up()

    settling = threading.Thread(target=settle)
    with bookkeeper.posting():
        (old,) = bookkeeper.ledger.entries([(asked.journal, asked.sequence)])
        settling.start()
        settling.join(0.3)
        bookkeeper.record(restated(old, msgspec.structs.replace(old, team="moved"), at=BORN, kind="correction"))
    settling.join()
    bookkeeper.catch_up()
    with bookkeeper.ledger.reader() as reader:
        sums = {row["team"]: (row["calls"], row["cost_usd"]) for row in reader.grouped(("team",))}
    assert sums["moved"] == (1, RATED.cost_usd)
    assert bookkeeper.awaiting() == []
