"""The bookkeeper: projects the journals into the ledger, exactly once, and never believes the ledger unchecked.

What is posted is a pure function of the journals. A pass reads every journal to its end, makes what it read durable,
and posts it in one transaction together with how far it read. Before the first pass the ledger's own rows are compared
with the seals and the unsealed tails; where anything differs the file is set aside and the ledger is built again. After
any failure everything in memory is dropped, and the next pass starts from the disk like a new process.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa

from costbearer.corrections import Closed, never, repeated, restated, settled
from costbearer.errors import CostbearerError, JournalFailed, PostingBusy, StoreFailed
from costbearer.journal import journals, live, take_over
from costbearer.ledger import Entry, Settlement
from costbearer.recovery import clear_unborn
from costbearer.stores.awaited import Awaited, Due
from costbearer.stores.duckdb import Ledger, Position
from costbearer.stores.ledger_schema import SEALED_ARROW
from costbearer.stores.own_journal import OwnJournal
from costbearer.stores.reading import JournalReading, Place
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.segments import Flaw, Totals, parquet_file

BATCH_ENTRIES = 122_880
"""Entries in one transaction, at least, where there is a backlog: a row group, which DuckDB writes past its log. In
step with the gateway a batch is what came in since the last pass."""

LATE_S = 120.0
"""From then on a ledger is late: a pass follows the other in moments, and one over a long backlog takes a minute."""

POSTING_WAIT_S = 30.0
"""How long one waits for another who posts before it is told to come back: less than a client waits for an answer."""

SEALING_THREADS = 2
"""Threads that compress, write and check the files of segments, which is done outside the interpreter's lock."""

_UNREADABLE = "unreadable "


class Progress(msgspec.Struct, frozen=True):
    """How far the bookkeeper is. `complete_to`: every frame written before then is posted; None before the first pass.

    `open_calls` are under way, the oldest since `oldest_open`. `held` names journals that cannot be posted any further
    before a restart, and `failure` is what the last pass failed of.
    """

    complete_to: datetime | None = None
    entries: int = 0
    journals: int = 0
    unsealed_segments: int = 0
    open_calls: int = 0
    oldest_open: datetime | None = None
    damage: int = 0
    held: tuple[str, ...] = ()
    failure: str | None = None


class Bookkeeper:
    """The one that posts. Safe to call from several threads; a pass runs in one at a time."""

    def __init__(
        self,
        journal_dir: Path,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        batch_entries: int = BATCH_ENTRIES,
        closed: Closed = never,
    ) -> None:
        """`journal_dir` holds the journals, and nobody else takes them over or seals them. `closed` says of a moment
        whether its month is closed: what is learned of a call of such a month is posted in the open one."""
        self.journal_dir = journal_dir
        self.ledger = ledger
        self.complete_to: datetime | None = None
        self.failure: str | None = None
        self._clock = clock
        self._closed = closed
        self._batch_entries = batch_entries
        self._lock = threading.RLock()
        # Taken before `_lock`, never after it.
        self._deciding = threading.RLock()
        self._readings: dict[str, JournalReading] | None = None
        self._done: dict[str, list[Flaw]] = {}
        self._held: dict[str, str] = {}
        self._notices: list[str] = []
        self._damage: tuple[Flaw, ...] = ()
        self._progress = Progress()
        self._own: OwnJournal | None = None
        self._awaited: Awaited | None = None
        self._loaded = 0

    @property
    def notices(self) -> list[str]:
        """What a person should know, in plain words: ledgers that were set aside, journals that are held."""
        return [*self.ledger.notices, *self._notices]

    @property
    def damage(self) -> tuple[Flaw, ...]:
        """Everything that is wrong with the journals, as of the last pass; what is sealed is known from its seal."""
        return self._damage

    @property
    def current(self) -> bool:
        """Whether the last pass went well and is not longer ago than `LATE_S`. Never waits for one that runs."""
        complete_to = self.complete_to
        return (
            self.failure is None and complete_to is not None and (self._clock() - complete_to).total_seconds() <= LATE_S
        )

    def progress(self) -> Progress:
        """How far the last pass came. Never waits for one that runs."""
        return self._progress

    def catch_up(self) -> int:
        """One pass: post all that the journals hold and the ledger does not, take over the dead, seal what is due.

        Returns:
            How many entries were posted.

        Raises:
            JournalFailed: a journal cannot be read, taken over or made durable.
            StoreFailed: the ledger failed, or a sealed file does not read back.
        """
        with self._lock, self._from_the_disk_after_a_failure():
            # Leaving the block waits for what is under way: nobody else may write the same files.
            with _no_collector(), ThreadPoolExecutor(SEALING_THREADS, "sealing") as pool:
                posted = self._pass(pool)
            self.failure = None
            self._take_stock()
            return posted

    @contextmanager
    def posting(self) -> Iterator[None]:
        """Inside the block nobody else posts corrections or imports, and the ledger has all that was recorded before.

        Whoever decides by the ledger what is missing decides and records in one block: between the two it could be
        posted by somebody else, or by the pass that follows a failure. It may be entered again inside. Calls of the
        gateway and results of jobs are posted meanwhile.

        Raises:
            PostingBusy: somebody else has been posting all the time for `POSTING_WAIT_S`.
            JournalFailed, StoreFailed: as `catch_up`.
        """
        end = time.monotonic() + POSTING_WAIT_S
        if not self._deciding.acquire(timeout=POSTING_WAIT_S):
            raise PostingBusy(
                "what another request posts takes long; nothing of this one was done, send it again later"
            )
        try:
            if not self._lock.acquire(timeout=max(end - time.monotonic(), 0)):
                raise PostingBusy(
                    "what the journals hold is being posted; nothing of this request was done, send it again later"
                )
            try:
                self._be_ready()
            finally:
                self._lock.release()
            yield
        finally:
            self._deciding.release()

    def record(self, entries: Iterable[Entry] | pa.Table) -> int:
        """Write entries that are no calls into the books' own journal, all or none of them, and post them.

        What they say as journal and sequence is replaced. For very many hand in a table of the columns of
        `ledger_schema.SEALED_ARROW`; it becomes one segment, so its size is what a rebuild holds in memory. Entries
        that follow from what the ledger has are decided on and recorded within one block of `posting`.

        Returns:
            How many there were.

        Raises:
            PostingBusy: as `posting`.
            JournalFailed: they are not written, or whether they are only the next pass will tell.
            StoreFailed: they are written and not posted, which the next pass does; or the ledger cannot be read.
        """
        with self.posting():
            return self._recorded(entries)

    def _recorded(self, entries: Iterable[Entry] | pa.Table) -> int:
        with self._lock:
            self._be_ready()
            table = entries if isinstance(entries, pa.Table) else table_of(Posted(0, entry) for entry in entries)
            with self._from_the_disk_after_a_failure():
                posted = self._record(table)
            self._take_stock()
            return posted

    def settle(self, results: Iterable[Settlement]) -> int:
        """Correct the calls that await these results, all of them in one record. Gives how many results were applied:
        nothing awaits the others, as the call is not posted yet or was settled before.

        Raises:
            JournalFailed, StoreFailed: as `record`.
        """
        with self._lock:
            due = self._be_ready().due_by(results, self.ledger)
            if due:
                self._recorded(self._settling(due))
            return sum(each.result is not None for each in due)

    def awaiting(self) -> list[Entry]:
        """The calls whose result is not known yet, for who asks the provider for it; as of the last pass. Of several
        that await the same result the one that will bear its cost.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        with self._lock:
            awaited = self._be_ready()
            return self.ledger.entries([calls[0] for calls in awaited.open.values()])

    def rebuild(self, reason: str = "a rebuild was asked for") -> int:
        """Set the ledger's file aside and post everything again. Gives how many entries were posted.

        Raises:
            JournalFailed, StoreFailed: as `catch_up`.
        """
        with self._lock:
            self.ledger.set_aside(reason)
            self._forget()
            return self.catch_up()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No pass runs inside the block."""
        with self._lock:
            yield

    @contextmanager
    def _from_the_disk_after_a_failure(self) -> Iterator[None]:
        """Whatever stopped the block, memory may be ahead of the ledger: the next pass starts from the disk."""
        try:
            yield
        except BaseException as error:
            self._forget()
            self.failure = str(error) or type(error).__name__
            held = tuple(sorted(self._held))
            self._progress = msgspec.structs.replace(self._progress, failure=self.failure, held=held)
            if isinstance(error, CostbearerError):
                self._notice(error.message)
            if isinstance(error, OSError):
                raise JournalFailed(f"the journals cannot be read or sealed: {error}") from error
            raise

    def _be_ready(self) -> Awaited:
        """Memory stands for what is on the disk, after a pass where it does not."""
        if self._readings is None or self._awaited is None or self.ledger.broken:
            self.catch_up()
        assert self._awaited is not None, "a pass that did not fail has surveyed"
        return self._awaited

    def _record(self, table: pa.Table) -> int:
        if not table.num_rows:
            return 0
        if self._own is None:
            self._own = OwnJournal.open(self.journal_dir, self._clock())
        own, readings = self._own, self._readings
        assert readings is not None, "after a pass"
        if own.id not in readings:
            readings[own.id] = JournalReading.open(own.directory)
        rows, seal = own.write(table)
        reading = readings[own.id]
        reading.recorded(seal)
        self._write(rows, [_position(reading)])
        return int(rows.num_rows)

    def _settling(self, due: list[Due]) -> list[Entry]:
        corrections: list[Entry] = []
        for old, (_, result) in zip(self.ledger.entries([each.call for each in due]), due, strict=True):
            new = repeated(old) if result is None else settled(old, result)
            closed = self._closed(old.started_at)
            corrections += restated(old, new, at=self._clock(), kind="correction", closed=closed)
        return corrections

    def _settle_due(self) -> int:
        """Apply every result that was posted to the call it belongs to."""
        if self._awaited is None:
            self._awaited = Awaited.survey(self.ledger)
        due = self._awaited.due(self.ledger)
        if not due:
            return 0
        return self._record(table_of(Posted(0, entry) for entry in self._settling(due)))

    def _pass(self, pool: Executor) -> int:
        began = self._clock()
        readings = self._open(pool) if self._readings is None or self.ledger.broken else self._readings
        self._readings = readings
        self._find_new(readings)
        posted = self._loaded + self._advance(readings, pool)
        self._loaded = 0
        # What a dead writer left is posted and sealed before it is taken over, which reads what is not sealed again.
        for reading in readings.values():
            if not reading.dead and not reading.own and not live(reading.directory):
                reading.dead = self._taken_over(reading)
                posted += self._advance({reading.id: reading}, pool)
        posted += self._settle_due()
        self.ledger.admit_readers()
        for name, reading in list(readings.items()):
            if reading.done:
                self._done[name] = reading.flaws
                del readings[name]
        if not self._held:
            self.complete_to = began
        return posted

    def _advance(self, readings: dict[str, JournalReading], pool: Executor) -> int:
        """Post what these journals hold by now, then seal what is due."""
        for reading in readings.values():
            reading.look()
        posted = self._post(readings, pool)
        for name, reading in readings.items():
            if name not in self._held:
                reading.seal_due(pool)
        return posted

    def _take_stock(self) -> None:
        readings = self._readings or {}
        began = [started for reading in readings.values() for started in reading.open_intents.values()]
        done = [flaw for name in sorted(self._done) for flaw in self._done[name]]
        self._damage = (*done, *(flaw for name in sorted(readings) for flaw in readings[name].flaws))
        self._progress = Progress(
            complete_to=self.complete_to,
            entries=sum(position.entries for position in self.ledger.positions().values()),
            journals=len(readings) + len(self._done),
            unsealed_segments=sum(reading.unsealed for reading in readings.values()),
            open_calls=len(began),
            oldest_open=min(began, default=None),
            damage=len(self._damage),
            held=tuple(sorted(self._held)),
        )

    def _find_new(self, readings: dict[str, JournalReading]) -> None:
        for directory in journals(self.journal_dir):
            if directory.name not in readings and directory.name not in self._done:
                readings[directory.name] = JournalReading.open(directory)

    def _taken_over(self, reading: JournalReading) -> bool:
        taken = take_over(reading.directory, now=self._clock())
        if taken is not None and taken.closed:
            self._notice(f"journal {reading.id}: its writer died; {len(taken.closed)} calls under way are unknown")
        return taken is not None

    def _post(self, readings: dict[str, JournalReading], pool: Executor) -> int:
        """Read on in every journal and post. With a backlog one batch is written while the next one is read."""
        posted = 0
        tables: list[pa.Table] = []
        moved: dict[str, JournalReading] = {}
        with ThreadPoolExecutor(1, "ledger-posting") as poster:
            pending: Future[int] | None = None
            for reading in readings.values():
                if reading.id in self._held:
                    continue
                for table in reading.moves(pool):
                    tables.append(table)
                    moved[reading.id] = reading
                    if sum(table.num_rows for table in tables) >= self._batch_entries:
                        posted += pending.result() if pending is not None else 0
                        pending = poster.submit(self._write, *self._batch(tables, moved))
                        tables, moved = [], {}
                self._lose(reading)
            posted += pending.result() if pending is not None else 0
        return posted + self._write(*self._batch(tables, moved))

    def _batch(self, tables: list[pa.Table], moved: dict[str, JournalReading]) -> tuple[pa.Table, list[Position]]:
        """Everything that one transaction posts, durable in the journals."""
        for reading in moved.values():
            try:
                reading.sync()
            except JournalFailed as error:
                # A second fdatasync would succeed without having written anything: nothing of it is posted any more.
                self._held[reading.id] = error.message
                self._notice(f"{error.message}; it is not posted any further before a restart")
                raise
        return pa.concat_tables(tables or [SEALED_ARROW.empty_table()]), [
            _position(reading) for reading in moved.values()
        ]

    def _write(self, table: pa.Table, positions: list[Position]) -> int:
        if table.num_rows:
            self.ledger.post_table(table, positions)
            if self._awaited is not None:
                self._awaited.take(table)
        return int(table.num_rows)

    def _open(self, pool: Executor) -> dict[str, JournalReading]:
        """Every journal from the disk, each at the place to which the ledger is proven to agree with it."""
        self._forget()
        if self.ledger.broken:
            self.ledger.reopen()
        clear_unborn(self.journal_dir)
        readings = {directory.name: JournalReading.open(directory) for directory in journals(self.journal_dir)}
        difference = self._difference(readings, pool)
        if difference:
            self.ledger.set_aside(difference)
            readings = {directory.name: JournalReading.open(directory) for directory in journals(self.journal_dir)}
        if readings and not self.ledger.positions():
            self.ledger.hold_readers("the ledger is being rebuilt from the journal; try again in a moment")
            self._load(readings, pool)
        if self.ledger.mend_projections():
            self._notice("hourly sums or links of the ledger did not hold and were made anew from its entries")
        return readings

    def _load(self, readings: dict[str, JournalReading], pool: Executor) -> None:
        """Into an empty ledger, at once, what is sealed and intact; the rest is posted as ever."""
        files: list[Path] = []
        positions: list[Position] = []
        for reading in readings.values():
            seals = reading.intact(pool)
            if seals:
                reading.replay(Place(seals[-1].segment + 1, 0), pool)
                files += [parquet_file(reading.directory, seal.segment) for seal in seals if seal.entries]
                positions.append(_position(reading))
        if not files:
            return
        try:
            self.ledger.load(files, positions)
        except StoreFailed as error:
            # Without their files journals are as good: slower, from the rows.
            self._notice(f"{error.message}; the sealed files are read one by one")
            self.ledger.set_aside("sealed files could not be loaded")
            readings.update({name: JournalReading.open(reading.directory) for name, reading in readings.items()})
            return
        self._loaded = sum(position.entries for position in positions)

    def _difference(self, readings: dict[str, JournalReading], pool: Executor) -> str | None:
        """In what the ledger differs from the journals as far as it says it has posted them; None where in nothing."""
        try:
            self.ledger.scan()
            totals = self.ledger.totals_by_journal()
            marks = self.ledger.marks()
        except StoreFailed as error:
            return error.message
        positions = self.ledger.positions()
        for name in sorted(positions.keys() | totals.keys()):
            held = totals.get(name, Totals())
            if name not in readings:
                return f"journal {name} is gone, of which it holds {held}"
            position = positions.get(name)
            if position is None:
                return f"it holds rows of journal {name} without a position"
            if (held.entries, held.cost_usd) != (position.entries, position.cost_usd):
                return (
                    f"journal {name}: it holds {held}, and says {position.entries} entries of {position.cost_usd} USD"
                )
            reading = readings[name]
            try:
                expected = reading.replay(Place(position.segment, position.offset), pool, _lost_segments(marks, name))
            except StoreFailed as error:
                return error.message
            if held != expected:
                return f"journal {name}: it holds {held}, the journal {expected}"
        return None

    def _lose(self, reading: JournalReading) -> None:
        """Sealed segments of which nothing can be read: the ledger goes on without them, and says so."""
        known = _lost_segments(self.ledger.marks(), reading.id) if reading.unreadable else frozenset()
        for number in sorted(reading.unreadable - known):
            self.ledger.mark(f"{_UNREADABLE}{reading.id}.{number}")
            self._notice(
                f"journal {reading.id}: sealed segment {number} cannot be read; its entries are missing in the ledger"
            )
        reading.unreadable.clear()

    def _forget(self) -> None:
        self._readings = None
        self._own = None
        self._awaited = None
        self._done = {}

    def _notice(self, text: str) -> None:
        if text not in self._notices:
            self._notices.append(text)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without Python's cyclic collector: a batch is a hundred thousand objects without cycles that live for a moment,
    and walking them again and again takes a fifth of the time of posting (measured).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _position(reading: JournalReading) -> Position:
    return Position(
        journal=reading.id,
        segment=reading.place.segment,
        offset=reading.place.offset,
        closed_sequence=reading.totals.closed_sequence,
        entries=reading.totals.entries,
        cost_usd=reading.totals.cost_usd,
    )


def _lost_segments(marks: set[str], journal: str) -> frozenset[int]:
    prefix = f"{_UNREADABLE}{journal}."
    return frozenset(int(mark.removeprefix(prefix)) for mark in marks if mark.startswith(prefix))
