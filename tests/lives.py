"""Lives that are led to be ended: what a process does that dies at a chosen system call, and the process that forks it.

Run as `python -m tests.lives` it has imported what most of them need and done nothing else. For each line
`NAME DIRECTORY` it forks a child that leads that life, and says how it ended. A child says what it has done when that
is done and acknowledged, and not before: a test holds what comes after its death to it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from costbearer.errors import CostbearerError, JournalFailed
from costbearer.journal import Intent, JournalWriter, Outcome, journals, take_over
from costbearer.ledger import Entry
from tests.books import Books
from tests.factories import make_entry, make_intent

Say = Callable[[str], None]
SEGMENT_BYTES = 4000
CALLS = 12
"""How many calls a worker answers."""
BATCHES = (1, 3, 2)
"""How many entries are recorded into the books' own journal at a time."""


def journal(data: Path, say: Say) -> None:
    """A worker's journal from its birth to its close: eight calls, every third left open, over several segments."""
    writer = JournalWriter.open(data / "journal", segment_bytes=SEGMENT_BYTES)
    for number in range(8):
        sequence = writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
        say(f"intent {writer.id} {sequence}")
        if number % 3:
            writer.append(Outcome(make_entry(writer.id, sequence)))
            say(f"outcome {writer.id} {sequence}")
        writer.sync()
        writer.rotate_if_due()
    writer.close()
    say("closed")


def stubborn(data: Path, say: Say) -> None:
    """The same under a disk that fails: what is refused is tried once more, and then the next thing, to the end."""
    try:
        writer = JournalWriter.open(data / "journal", segment_bytes=SEGMENT_BYTES)
    except JournalFailed:
        say("refused unborn")
        return
    under_way: list[int] = []

    def tries(kind: str, work: Callable[[], object]) -> None:
        for _ in range(2):
            try:
                done = work()
            except JournalFailed:
                say(f"refused {'for ever' if writer.failed else 'once'}")
            else:
                if kind == "intent":
                    under_way.append(int(str(done)))
                say(f"{kind} {writer.id} {under_way[-1] if under_way else 0}")
                return

    for number in range(8):
        tries("intent", lambda: writer.append(Intent(make_intent(writer.id, writer.next_sequence))))
        if number % 3 and under_way:
            tries("outcome", lambda: writer.append(Outcome(make_entry(writer.id, under_way[-1]))))
        tries("synced", writer.sync)
        tries("rotated", writer.rotate_if_due)
    tries("end", writer.close)
    say("closed")


def worker(data: Path, say: Say) -> None:
    """A gateway's worker that answers callers one after the other, each as soon as its outcome is on the disk."""
    from tests.harness import gateway, make_config, run

    data.mkdir(exist_ok=True)
    origin = (data / "provider").read_text()

    async def live() -> None:
        config = make_config(data, f"{origin}/v1", origin, **{"journal.sync": "always"})
        async with gateway(config) as running:
            for number in range(CALLS):
                order = f"[[sim:mark=w{number} output=5]]"
                body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": order}], "max_tokens": 9}
                wire = await running.ask(body, headers=[("x-costbearer-tags", f"mark:w{number}"), *_key(running.key)])
                say(f"answered w{number} {wire.status}")

    run(live)
    say("closed")


def _key(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def books(data: Path, say: Say) -> None:
    """Take-over of the dead, posting, sealing; then the ledger is set aside and built again from what was sealed."""
    books = Books(data)
    bookkeeper = books.open(batch_entries=5)
    say(f"posted {bookkeeper.catch_up()}")
    say(f"rebuilt {bookkeeper.rebuild()}")
    books.close()
    say("closed")


def own(data: Path, say: Say) -> None:
    """Batches that are recorded in the books' own journal."""
    books = Books(data)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    for batch in own_batches():
        bookkeeper.record(batch)
        say(f"recorded {len(batch)}")
    books.close()
    say("closed")


def own_batches() -> Iterable[list[Entry]]:
    """What `own` records, batch by batch."""
    first = 1
    for size in BATCHES:
        yield [make_entry("elsewhere", number, kind="import") for number in range(first, first + size)]
        first += size


def taken_over(data: Path, say: Say) -> None:
    """A start after a death, of who has only journals."""
    for directory in journals(data / "journal"):
        assert take_over(directory) is not None, "the dead still hold the lock"
    say("closed")


def recovered(data: Path, say: Say) -> None:
    """A start after a death, of who keeps the books."""
    books = Books(data)
    books.open().catch_up()
    books.close()
    say("closed")


def failing_books(data: Path, say: Say) -> None:
    """The keeper's passes under a disk that fails, as its loop makes them: again and again."""
    books = Books(data)
    try:
        bookkeeper = books.open()
    except CostbearerError as error:
        say(f"refused {type(error).__name__}")
        return
    for _ in range(3):
        try:
            say(f"posted {bookkeeper.catch_up()}")
        except CostbearerError as error:
            say(f"refused {type(error).__name__}")
    say("closed")


ALL = (journal, stubborn, worker, books, failing_books, own, taken_over, recovered)
LIVES = {life.__name__: life for life in ALL}


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def serve() -> None:
    """Fork one child per line, one after the other."""
    for line in sys.stdin:
        name, directory = line.rstrip("\n").split(" ", 1)
        child = os.fork()
        if not child:
            status = 1
            try:
                LIVES[name](Path(directory), _say)
                status = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
                _say(f"failed {type(error).__name__}: {str(error).splitlines()[0]}")
                status = 3
            finally:
                os._exit(status)
        _say(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    serve()
