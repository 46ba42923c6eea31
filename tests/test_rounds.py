"""Work that is done again and again: no failure ends it, and each is told."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from costbearer.errors import StoreFailed
from costbearer.jobs import Poller
from costbearer.rounds import Rounds
from tests.pages import console, settings


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rounds]:
    monkeypatch.setattr("costbearer.rounds.BACK_OFF_S", 0.001)
    rounds = Rounds()
    yield rounds
    rounds.stop.set()
    for thread in threading.enumerate():
        if thread.name == "work":
            thread.join()


TROUBLES = [
    StoreFailed("the store is shut"),
    OSError(errno.EMFILE, "too many open files"),
    MemoryError("no memory"),
    KeyError("responses.retrieve"),
]


def test_no_failure_ends_it_and_each_is_told_once(rounds: Rounds, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def work() -> None:
        done.append(len(done))
        if len(done) <= 3 * len(TROUBLES):
            raise TROUBLES[(len(done) - 1) // 3]
        rounds.stop.set()

    rounds.keep("work", 0.0, work)
    assert len(done) == 3 * len(TROUBLES) + 1
    for trouble in TROUBLES:
        assert caplog.text.count(f"a round failed and is made again: {_told(trouble)}") == 1
    assert "work: goes on" in caplog.text


def _told(trouble: Exception) -> str:
    return trouble.message if isinstance(trouble, StoreFailed) else f"{type(trouble).__name__}: {trouble}"


def test_who_asks_is_told_what_fails_and_what_has_ended(rounds: Rounds) -> None:
    fails, made = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        made.release()
        if fails.is_set():
            raise KeyError("gone")

    def rounds_made(count: int) -> None:
        for _ in range(count):
            assert made.acquire(timeout=10)

    rounds.start("work", 0.001, work, at_once=True)
    rounds_made(2)
    assert rounds.sound() == {"work": True}
    fails.set()
    rounds_made(3)
    assert rounds.sound() == {"work": False}
    fails.clear()
    rounds_made(3)
    assert rounds.sound() == {"work": True}
    rounds.stop.set()
    rounds.join("work")
    assert rounds.sound() == {"work": False}


def test_the_first_round_waits_unless_it_is_made_at_once(rounds: Rounds) -> None:
    done: list[str] = []
    rounds.stop.set()
    rounds.keep("work", 10.0, lambda: done.append("made"))
    assert done == []


def test_a_console_one_of_whose_rounds_fails_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Semaphore(0)

    def look(poller: Poller) -> int:
        looked.release()
        raise KeyError("responses.retrieve")

    monkeypatch.setattr(Poller, "look", look)
    monkeypatch.setattr("costbearer.rounds.BACK_OFF_S", 0.01)
    with console(settings(tmp_path, ledger__poll_interval_s="0.1")) as http:
        assert looked.acquire(timeout=20) and looked.acquire(timeout=20)
        answer = http.get("/readyz")
        checks = {
            "control": True,
            "ledger": True,
            "bookkeeper": True,
            "amortise": True,
            "rekeying": True,
            "jobs": False,
        }
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "checks": checks})
