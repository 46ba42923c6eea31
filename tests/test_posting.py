"""Who posts entries that follow from what the ledger has: one after the other, and never twice what failed before."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from httpx2 import Response

from costbearer import backfill as backfilling
from costbearer import bookkeeper as bookkeeping
from costbearer import restate as restating
from costbearer.bookkeeper import Bookkeeper
from costbearer.errors import StoreFailed
from costbearer.ledger import Entry
from costbearer.stores import duckdb as engine
from costbearer.stores.answers import Answers
from costbearer.usage import Usage
from tests.books import Books
from tests.factories import make_entry, make_unknown
from tests.pages import Reader, admin_token, console, settings

CALLS = 40
OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)
TERM = {"provider": "openai", "model": "own-model", "since": "2026-01-01", "prices_per_million": {"input": "2"}}
EACH_USD = Decimal("0.002")
"""What 1,000 tokens of the call below cost by that term."""


def unpriced(number: int) -> Entry:
    """An imported call of nobody's, in October, of a model without a price."""
    return make_unknown(
        "x",
        number,
        kind="import",
        call_id=f"imp_{number}",
        request_id=f"imp_{number}",
        started_at=OCTOBER + timedelta(seconds=number),
        key_id="old",
        owner=None,
        provider="openai",
        request_model="own-model",
        response_model="own-model",
        reason_unknown="model_unpriced",
        usage=Usage(input_tokens=1000),
        status="ok",
        bound_usd=None,
    )


class Desk:
    """Somebody with the token, in front of a console."""

    def __init__(self, http: Reader, token: str) -> None:
        self.http = http
        http.headers["authorization"] = f"Bearer {token}"

    def post(self, path: str, **options: Any) -> Response:
        return self.http.post(f"/api/v1/{path}", **options)

    def restate(self) -> Response:
        return self.post("restatements", params={"since": "2026-10-01", "until": "2026-11-01", "apply": "true"})

    def label(self) -> Response:
        labels = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "rerank"}
        return self.post("backfill/labels", json={"key": "old", "apply": True, **labels})

    def october(self) -> tuple[Decimal, int, int]:
        """Spend, calls and calls of unknown cost."""
        period = {"since": "2026-10-01", "until": "2026-11-01"}
        found = self.http.get("/api/v1/reports/spend", params=period).json()
        return Decimal(found["total_usd"]), found["calls"], found["unknown_calls"]

    def priced(self) -> None:
        assert self.post("prices/contract/terms", json=TERM).status_code == 201


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    config = settings(tmp_path)
    with console(config, [unpriced(number) for number in range(CALLS)]) as http:
        desk = Desk(http, admin_token(config))
        while http.get("/readyz").status_code != 200:
            pass
        yield desk


def at_once(*acts: Callable[[], Response]) -> list[Response]:
    answers: list[Response] = []
    threads = [threading.Thread(target=lambda act=act: answers.append(act())) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def failing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next time entries are in the books' own journal and go to the ledger, its engine has no memory."""
    real, left = engine._insert, [1]

    def insert(*given: Any) -> None:
        if left.pop() if left else 0:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate")
        real(*given)

    monkeypatch.setattr(engine, "_insert", insert)


def meeting(monkeypatch: pytest.MonkeyPatch, *decisions: tuple[Any, str]) -> None:
    """Two who have decided what to post wait for each other, for a moment: without a lock they meet."""
    here = threading.Barrier(2)

    def then_waits(decide: Callable[..., Any]) -> Callable[..., Any]:
        def decided(*given: Any, **named: Any) -> Any:
            found = decide(*given, **named)
            with contextlib.suppress(threading.BrokenBarrierError):
                here.wait(0.3)
            return found

        return decided

    for module, name in decisions:
        monkeypatch.setattr(module, name, then_waits(getattr(module, name)))


def imported() -> dict[str, Any]:
    entries = [make_entry("x", number, kind="import", call_id=f"new_{number}") for number in range(CALLS)]
    given = [msgspec.structs.replace(each, started_at=OCTOBER, ended_at=None) for each in entries]
    return {"entries": json.loads(msgspec.json.encode(given))}


@pytest.mark.parametrize("header", [{}, {"idempotency-key": "one"}])
def test_an_import_that_failed_halfway_and_is_sent_again_is_there_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, header: dict[str, str]
) -> None:
    failing_once(monkeypatch)
    first, second = (desk.post("imports", json=imported(), headers=header) for _ in range(2))
    assert (first.status_code, first.json()["error"]["code"]) == (500, "store_failed")
    assert second.json() == {"posted": 0, "known": CALLS, "closed": 0, "refused": 0}
    assert desk.october()[1] == 2 * CALLS


def test_a_restatement_that_failed_halfway_is_not_posted_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.priced()
    failing_once(monkeypatch)
    assert desk.restate().status_code == 500
    assert desk.restate().json()["applied"] == 0
    assert desk.october() == (CALLS * EACH_USD, CALLS, 0)


def test_two_restatements_at_once_are_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.priced()
    meeting(monkeypatch, (restating, "restatement"))
    answers = at_once(desk.restate, desk.restate)
    assert sorted(answer.json()["applied"] for answer in answers) == [0, 2 * CALLS]
    assert desk.october() == (CALLS * EACH_USD, CALLS, 0)


def test_a_restatement_beside_labelling_the_same_calls(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.priced()
    meeting(monkeypatch, (restating, "restatement"), (backfilling, "whole"))
    restated, labelled = at_once(desk.restate, desk.label)
    assert {restated.status_code, labelled.status_code} == {200}
    assert desk.october() == (CALLS * EACH_USD, CALLS, 0)
    findings = desk.http.get("/api/v1/doctor").json()["findings"]
    assert [each for each in findings if not each["ok"]] == []


def test_a_month_is_closed_when_what_is_being_posted_is_posted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it is posted in the open month; what a closed month says never changes."""
    desk.priced()
    begun, go_on = threading.Event(), threading.Event()
    real = restating.restatement

    def slow(*given: Any, **named: Any) -> Any:
        begun.set()
        go_on.wait(5)
        return real(*given, **named)

    monkeypatch.setattr(restating, "restatement", slow)
    answers: list[Response] = []
    restatement = threading.Thread(target=lambda: answers.append(desk.restate()))
    restatement.start()
    assert begun.wait(5)
    closing = threading.Thread(target=lambda: answers.append(desk.post("periods", json={"month": "2026-10"})))
    closing.start()
    closing.join(0.3)
    assert closing.is_alive(), "it waits"
    go_on.set()
    restatement.join()
    closing.join()
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert desk.october() == (CALLS * EACH_USD, CALLS, 0)


def test_who_waits_too_long_is_told_and_has_done_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "POSTING_WAIT_S", 0.1)
    desk.priced()
    real = restating.restatement
    answers: list[Response] = []

    def meanwhile(*given: Any, **named: Any) -> Any:
        other = threading.Thread(
            target=lambda: answers.append(desk.post("imports", json=imported(), headers={"idempotency-key": "patient"}))
        )
        other.start()
        other.join()
        return real(*given, **named)

    monkeypatch.setattr(restating, "restatement", meanwhile)
    assert desk.restate().status_code == 200
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "posting_busy")
    assert "send it again later" in answers[0].json()["error"]["message"]
    again = desk.post("imports", json=imported(), headers={"idempotency-key": "patient"})
    assert again.json()["posted"] == CALLS


def test_an_answer_that_was_not_kept_may_be_asked_for_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = Answers.end, [1]

    def end(self: Answers, key: str, answer: Any) -> None:
        if left:
            left.clear()
            self._running.discard(key)
            raise StoreFailed("the store does not take it")
        real(self, key, answer)

    monkeypatch.setattr(Answers, "end", end)
    header = {"idempotency-key": "one"}
    first, second, third = (desk.post("imports", json=imported(), headers=header) for _ in range(3))
    assert first.status_code == 500
    assert second.json()["known"] == CALLS and third.json() == second.json()
    assert desk.october()[1] == 2 * CALLS


def test_what_the_journal_holds_is_posted_before_anything_is_decided(tmp_path: Path) -> None:
    """The ledger of a new process may be empty, and its journal not."""
    books = Books(tmp_path)
    bookkeeper: Bookkeeper = books.open()
    bookkeeper.record([unpriced(1)])
    bookkeeper.ledger.set_aside("a ledger that is gone")
    again = Bookkeeper(books.journal_dir, bookkeeper.ledger)
    with again.posting():
        assert sum(each.entries for each in again.ledger.positions().values()) == 1
        with again.posting():
            assert again.record([unpriced(2)]) == 1
    books.close()
