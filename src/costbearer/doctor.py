"""The doctor: recomputes everything from the raw frames, in exact decimals, and proves that all views of it agree.

It reads the frames themselves (sealed and live), never the ledger's own sums, and has its own idea of which outcome of
a call counts. What it finds is compared with the seals, with every row and charge of the ledger, with the ledger's
sums, and, where they are handed in, with the reports and the metrics, all in one and the same state of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client.parser import text_string_to_metric_families

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.errors import CostbearerError, UsageInvalid
from costbearer.journal import Damage, FrameAt, Intent, Outcome, journals, live, verify
from costbearer.ledger import PROVIDER_DIFFERENCE, Entry, bounded, faults
from costbearer.prices import Card
from costbearer.standing import taken_back_twice
from costbearer.stores.duckdb import Position, Reader
from costbearer.stores.own_journal import is_own
from costbearer.stores.reading import REASON_OUTCOME_UNREADABLE
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.segments import Totals, charges_of, entries_of, holds, load_parquet, read_seals, totals_of
from costbearer.stores.soundness import faults_of
from costbearer.usage import REQUEST, leaves

DIMENSIONS: tuple[str, ...] = ("owner", "team", "agent", "workload", "provider", "model", "basis", "day")
METRIC_LABELS: tuple[str, ...] = ("team", "provider", "model", "basis")
NONE = "(none)"
ROWS_AT_ONCE = 100_000
"""Rows of the books' own journal that are compared in one step."""
SAMPLES = 3
"""How many examples a finding names; it counts all."""
EXPECTED_AFTER_A_CRASH = frozenset({"torn_tail"})
"""Damage that a power cut leaves by itself: a frame whose write never ended was never acknowledged."""

ReportTotals = Callable[[Reader, str], Mapping[str, Decimal]]
"""The report by one dimension: bucket (`(none)` for the missing value) -> sum of the known costs in USD."""
MetricsText = Callable[[Reader], str]
"""The text of /metrics, made from this state of the ledger."""
CardLookup = Callable[[str], Card | None]
Contracted = Callable[[Card], Collection[tuple[str, Decimal]]]
"""Every (meter, unit price) that was ever negotiated on a card."""
"""The rate card with this id; None where no kept price archive has it."""


class Finding(msgspec.Struct, frozen=True):
    """One check and whether it held, with what was compared or what differs."""

    check: str
    ok: bool
    detail: str


class Sums(NamedTuple):
    """What is added up per bucket."""

    entries: int = 0
    cost_usd: Decimal = money.ZERO
    calls: int = 0
    requests: int = 0
    unknown_calls: int = 0

    def plus(self, other: Sums) -> Sums:
        return Sums(
            self.entries + other.entries,
            money.total((self.cost_usd, other.cost_usd)),
            self.calls + other.calls,
            self.requests + other.requests,
            self.unknown_calls + other.unknown_calls,
        )

    def __str__(self) -> str:
        return (
            f"{money.text(self.cost_usd)} USD, {self.entries} entries, {self.calls} calls, {self.requests} requests, "
            f"{self.unknown_calls} unknown"
        )


_NOTHING = Sums()
Key = tuple[str | None, ...]


class _Complaints:
    """Counts what is wrong and keeps a few examples."""

    def __init__(self) -> None:
        self.count = 0
        self._samples: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self._samples) < SAMPLES:
            self._samples.append(text)

    def finding(self, check: str, good: str) -> Finding:
        if not self.count:
            return Finding(check, True, good)
        more = f" (and {self.count - len(self._samples)} more)" if self.count > len(self._samples) else ""
        return Finding(check, False, "; ".join(self._samples) + more)


def examine(
    bookkeeper: Bookkeeper,
    *,
    report_totals: ReportTotals | None = None,
    metrics_text: MetricsText | None = None,
    card_lookup: CardLookup | None = None,
    contracted: Contracted | None = None,
) -> list[Finding]:
    """Post what is due, then recompute everything from the raw frames and compare. One finding per check.

    Posting goes on meanwhile: the comparison is with the ledger as it was at the start, and the frames up to there.

    Raises:
        StoreFailed: the ledger cannot be read at all.
    """
    findings = []
    with ExitStack() as stack:
        with bookkeeper.paused():
            findings.append(_post(bookkeeper))
            reader = stack.enter_context(bookkeeper.ledger.reader(held=False))
            flaws = [flaw for flaw in bookkeeper.damage if flaw.kind not in EXPECTED_AFTER_A_CRASH]
        positions = reader.positions()
        audit = _Audit(reader, card_lookup, contracted)
        for name in positions.keys() - {directory.name for directory in journals(bookkeeper.journal_dir)}:
            audit.damage.add(f"journal {name} is gone")
        for flaw in flaws:
            audit.damage.add(f"journal {flaw.journal}, segment {flaw.segment}: {flaw.detail}")
        for directory in journals(bookkeeper.journal_dir):
            audit.journal(directory, positions.get(directory.name))
        findings += audit.findings()
        findings.append(_against_ledger(reader, audit.sums))
        findings += [_rollups(reader), _reversals(reader)]
        if report_totals is not None:
            findings.append(_against_report(reader, audit.sums, report_totals))
        if metrics_text is not None:
            findings.append(_against_metrics(metrics_text(reader), audit.sums))
    return findings


def _post(bookkeeper: Bookkeeper) -> Finding:
    try:
        posted = bookkeeper.catch_up()
    except CostbearerError as error:
        return Finding("posting", False, error.message)
    progress = bookkeeper.progress()
    detail = f"{progress.entries} entries of {progress.journals} journals are posted, {posted} of them now"
    notices = bookkeeper.notices
    if progress.held:
        return Finding("posting", False, f"{detail}; held: {', '.join(progress.held)}")
    return Finding("posting", True, "; ".join([detail, *notices]))


class _Audit:
    """Walks the raw frames of all journals and adds up on its own."""

    def __init__(self, reader: Reader, card_lookup: CardLookup | None, contracted: Contracted | None) -> None:
        self.sums: dict[Key, Sums] = {}
        self.damage = _Complaints()
        self._reader = reader
        self._card_lookup = card_lookup
        self._cards: dict[str, Card | None] = {}
        self._contracted = contracted
        self._negotiated: dict[str, Collection[tuple[str, Decimal]]] = {}
        self._faults = _Complaints()
        self._unknown_cards = _Complaints()
        self._seals = _Complaints()
        self._rows = _Complaints()
        self._seal_count = 0
        self._entry_count = 0
        self._charge_count = 0

    def findings(self) -> list[Finding]:
        entries, charges = self._entry_count, self._charge_count
        total = money.total(sums.cost_usd for sums in self.sums.values())
        found = [
            self.damage.finding(
                "journal", "every frame can be read, none is missing, every segment follows the one before"
            ),
            self._seals.finding("seals", f"{self._seal_count} seals: hashes, chain, counts and sums hold"),
            self._faults.finding("entries", f"{entries} entries are sound and add up to {money.text(total)} USD"),
            self._rows.finding(
                "rows", f"{entries} rows and {charges} charges of the ledger equal the frames in every column"
            ),
        ]
        if self._card_lookup is not None:
            good = f"{len(self._cards)} rate cards are in the kept price archives and have the prices that were charged"
            found.append(self._unknown_cards.finding("cards", good))
        return found

    def journal(self, directory: Path, position: Position | None) -> None:
        """One journal, up to where it is posted."""
        if is_own(directory):
            self._own(directory, position)
            return
        name = directory.name
        here: list[tuple[int, Entry]] = []
        by_segment: dict[int, list[tuple[int, Entry]]] = {}
        calls = _Calls()
        last, whole = 0, True
        for segment, item in verify(directory):
            if isinstance(item, Damage):
                if item.kind not in EXPECTED_AFTER_A_CRASH:
                    self.damage.add(f"journal {name}, segment {segment}: {item.detail}")
                continue
            if position is None or (segment, item.end) > (position.segment, position.offset):
                whole = False
                continue
            if segment != last:
                self._compare(name, here)
                here = by_segment[segment] = []
                last = segment
            here += calls.take(name, item)
        if whole and last and position is not None and position.segment > last and not live(directory):
            here += calls.without_outcome()
        self._compare(name, here)
        self._check_seals(directory, {number: _totals(entries) for number, entries in by_segment.items()}, last)

    def _own(self, directory: Path, position: Position | None) -> None:
        """The books' own journal has no frames, and segments of any size: they are judged as tables."""
        totals: dict[int, Totals] = {}
        posted = position.segment if position is not None else 0
        for seal, _ in read_seals(directory)[0]:
            if seal.segment >= posted:
                continue
            table = load_parquet(directory, seal)
            if table is None:
                self.damage.add(f"journal {seal.journal}, segment {seal.segment}: it cannot be read")
                continue
            totals[seal.segment] = totals_of(table)
            for start in range(0, table.num_rows, ROWS_AT_ONCE):
                self._judge(seal.journal, table.slice(start, ROWS_AT_ONCE))
        self._check_seals(directory, totals, max(totals, default=0))

    def _judge(self, journal: str, table: pa.Table) -> None:
        for entry_id, fault in faults_of(table):
            self._faults.add(f"{entry_id}: {fault}")
        charges = charges_of(table)
        if self._card_lookup is not None:
            priced = charges.filter(pc.not_equal(charges.column("meter"), PROVIDER_DIFFERENCE))
            kinds = priced.group_by(["meter", "unit_price_usd", "card"]).aggregate([("sequence", "min")])
            for row in kinds.to_pylist():
                wrong = self._mispriced(self._card_lookup, row["meter"], row["unit_price_usd"], row["card"])
                if wrong:
                    self._unknown_cards.add(f"{journal}.{row['sequence_min']}: {wrong}")
        for key, part in _sums_of(table).items():
            self.sums[key] = self.sums.get(key, _NOTHING).plus(part)
        self._with_ledger(journal, table)

    def _compare(self, journal: str, closed: list[tuple[int, Entry]]) -> None:
        """Each entry by itself, and all of them with the ledger's rows between the first and the last."""
        if not closed:
            return
        batch = [Posted(*pair) for pair in sorted(closed, key=lambda pair: pair[0])]
        for posted in batch:
            self._add(posted.entry)
        self._with_ledger(journal, table_of(batch))

    def _with_ledger(self, journal: str, table: pa.Table) -> None:
        """The ledger holds exactly these rows between the first and the last of them, which are in order."""
        closed = table.column("closed_sequence")
        first, last = closed[0].as_py(), closed[-1].as_py()
        held, charges = self._reader.rows(journal, first, last)
        expected = charges_of(table)
        where = f"journal {journal}, closed by frames {first} to {last}"
        if not held.equals(entries_of(table)):
            self._rows.add(f"{where}: {_difference(held, entries_of(table))}")
        if not _sorted(charges).equals(_sorted(expected)):
            self._rows.add(
                f"{where}: the ledger has {charges.num_rows} charges, the frames {expected.num_rows}, and they differ"
            )
        self._entry_count += table.num_rows
        self._charge_count += expected.num_rows

    def _add(self, entry: Entry) -> None:
        for fault in faults(entry):
            self._faults.add(f"{entry.entry_id}: {fault}")
        priced = [charge for charge in entry.charges if charge.meter != PROVIDER_DIFFERENCE]
        try:
            used = sum(leaves(entry.usage).values())
            counted = [charge.quantity for charge in priced if charge.meter != REQUEST]
            if counted and sum(counted) != used:
                self._faults.add(f"{entry.entry_id}: the charges do not cover the usage, {used} in all")
        except UsageInvalid as error:
            self._faults.add(f"{entry.entry_id}: {error.message}")
        if self._card_lookup is not None:
            for charge in priced:
                wrong = self._mispriced(self._card_lookup, charge.meter, charge.unit_price_usd, charge.card)
                if wrong:
                    self._unknown_cards.add(f"{entry.entry_id}: {wrong}")
        key = _key(entry)
        unknown = entry.calls if entry.cost_usd is None else 0
        one = Sums(1, entry.cost_usd or money.ZERO, entry.calls, entry.requests, unknown)
        self.sums[key] = self.sums.get(key, _NOTHING).plus(one)

    def _mispriced(self, lookup: CardLookup, meter: str, unit_price: Decimal, name: str) -> str | None:
        """What is wrong with the price of a charge: its card is not kept, or does not have it. None if nothing is."""
        if name not in self._cards:
            self._cards[name] = lookup(name)
        card = self._cards[name]
        if card is None:
            return f"{meter} names card {name!r}, which no archive has"
        price = card.prices.get(meter)
        if price is not None and unit_price in price.every():
            return None
        if name not in self._negotiated:
            self._negotiated[name] = self._contracted(card) if self._contracted is not None else ()
        if (meter, unit_price) not in self._negotiated[name]:
            return f"{meter} at {money.text(unit_price)} is not a price of card {name!r}"
        return None

    def _check_seals(self, directory: Path, totals: Mapping[int, Totals], last: int) -> None:
        seals, flaws = read_seals(directory)
        for flaw in flaws:
            self._seals.add(f"journal {flaw.journal}: {flaw.detail}")
        for seal, _ in seals:
            self._seal_count += 1
            where = f"journal {seal.journal}, segment {seal.segment}"
            if not holds(directory, seal):
                self._seals.add(f"{where}: its files are not what was sealed")
            found = totals.get(seal.segment, Totals())
            if seal.segment <= last and found != seal.totals:
                self._seals.add(f"{where}: sealed {seal.totals}; its frames hold {found}")


class _Calls:
    """Which outcome of which call counts: the first one."""

    def __init__(self) -> None:
        self._open: dict[int, Entry] = {}
        self._closed = bytearray()
        """One bit per sequence: a journal may have tens of millions."""

    def take(self, journal: str, item: FrameAt) -> list[tuple[int, Entry]]:
        frame = item.frame
        if isinstance(frame, Intent) and frame.entry.journal == journal:
            self._open[item.sequence] = frame.entry
        if not isinstance(frame, Outcome) or frame.entry.journal != journal or not self._close(frame.entry.sequence):
            return []
        self._open.pop(frame.entry.sequence, None)
        return [(item.sequence, bounded(frame.entry))]

    def without_outcome(self) -> list[tuple[int, Entry]]:
        """What is left open in a journal that has ended: unknown, closed by the intent itself."""
        left, self._open = self._open, {}
        changes = {"status": "unknown", "reason_unknown": REASON_OUTCOME_UNREADABLE}
        return [
            (sequence, bounded(msgspec.structs.replace(entry, **changes))) for sequence, entry in sorted(left.items())
        ]

    def _close(self, sequence: int) -> bool:
        at, bit = divmod(sequence, 8)
        if at >= len(self._closed):
            self._closed.extend(bytes(at + 1 - len(self._closed)))
        if self._closed[at] >> bit & 1:
            return False
        self._closed[at] |= 1 << bit
        return True


def _totals(closed: Iterable[tuple[int, Entry]]) -> Totals:
    totals = Totals()
    for sequence, entry in closed:
        one = Totals(
            entries=1,
            unknown=1 if entry.cost_usd is None else 0,
            cost_usd=entry.cost_usd or money.ZERO,
            charges=len(entry.charges),
            charges_usd=money.total(charge.cost_usd for charge in entry.charges),
            closed_sequence=sequence,
        )
        totals = totals.plus(one)
    return totals


def _key(entry: Entry) -> Key:
    labels = (entry.owner, entry.team, entry.agent, entry.workload)
    return (
        *labels,
        entry.provider,
        entry.response_model or entry.request_model,
        entry.basis,
        f"{entry.started_at:%Y-%m-%d}",
    )


def _sums_of(table: pa.Table) -> dict[Key, Sums]:
    """The same buckets of a whole table; Arrow adds 128-bit integers, hence exactly."""
    answered, asked = table.column("response_model"), table.column("request_model")
    model = pc.if_else(pc.fill_null(pc.not_equal(answered, ""), False), answered, asked)
    unknown = pc.if_else(pc.is_null(table.column("cost_usd")), table.column("calls"), 0)
    keys = {
        **{name: table.column(name) for name in ("owner", "team", "agent", "workload", "provider")},
        "model": model,
        "basis": table.column("basis"),
        "day": pc.strftime(table.column("started_at"), format="%Y-%m-%d"),
    }
    values = {name: table.column(name) for name in ("cost_usd", "calls", "requests")} | {"unknown": unknown}
    grouped = pa.table(keys | values).group_by(list(keys))
    sums = grouped.aggregate([([], "count_all"), *((name, "sum") for name in values)]).to_pylist()
    return {
        tuple(row[name] for name in keys): Sums(
            row["count_all"],
            row["cost_usd_sum"] or money.ZERO,
            row["calls_sum"],
            row["requests_sum"],
            row["unknown_sum"],
        )
        for row in sums
    }


def _fold(sums: Mapping[Key, Sums], names: tuple[str, ...]) -> dict[Key, Sums]:
    places = [DIMENSIONS.index(name) for name in names]
    folded: dict[Key, Sums] = {}
    for key, part in sums.items():
        short = tuple(key[place] for place in places)
        folded[short] = folded.get(short, _NOTHING).plus(part)
    return folded


def _against_ledger(reader: Reader, sums: Mapping[Key, Sums]) -> Finding:
    complaints = _Complaints()
    for names in ((), *((name,) for name in DIMENSIONS)):
        expected = _fold(sums, names) or ({(): _NOTHING} if not names else {})
        held = {tuple(row[name] for name in names): _sums(row) for row in reader.grouped(names)}
        for key in expected.keys() | held.keys():
            left, right = held.get(key, _NOTHING), expected.get(key, _NOTHING)
            if left != right:
                complaints.add(f"{_bucket(names, key)}: the ledger has {left}; the frames {right}")
    return complaints.finding("ledger", f"its sums over all and by {', '.join(DIMENSIONS)} equal the frames'")


def _sums(row: Mapping[str, Any]) -> Sums:
    """A row of `Reader.grouped`; without entries the sums of counts are NULL."""
    counts = row["entries"], row["calls"] or 0, row["requests"] or 0, row["unknown_calls"]
    return Sums(counts[0], row["cost_usd"], *counts[1:])


def _rollups(reader: Reader) -> Finding:
    wrong, groups = reader.rollups_difference()
    if wrong:
        return Finding("roll-ups", False, f"{wrong} of {groups} hourly sums are not what the entries add up to")
    astray, links = reader.links_difference()
    if astray:
        return Finding("roll-ups", False, f"{astray} links between hashes are not what the entries state")
    linked = f", and {links} links between hashes are what they state" if links else ""
    return Finding("roll-ups", True, f"{groups} hourly sums equal the entries in every figure{linked}")


def _reversals(reader: Reader) -> Finding:
    twice = _Complaints()
    for entry_id in taken_back_twice(reader):
        twice.add(f"entry {entry_id} was taken back more than once")
    return twice.finding("reversed", "no entry was taken back more than once")


def _against_report(reader: Reader, sums: Mapping[Key, Sums], report_totals: ReportTotals) -> Finding:
    complaints = _Complaints()
    for name in DIMENSIONS:
        expected = {key[0] or NONE: part.cost_usd for key, part in _fold(sums, (name,)).items()}
        shown = report_totals(reader, name)
        for bucket in expected.keys() | shown.keys():
            left, right = shown.get(bucket), expected.get(bucket)
            if left != right:
                complaints.add(f"{name} {bucket}: the report says {left}, the frames {right}")
    return complaints.finding("report", f"the reports by {', '.join(DIMENSIONS)} equal the frames")


def _against_metrics(text: str, sums: Mapping[Key, Sums]) -> Finding:
    """Prometheus holds binary floats: each series must be the float nearest to the exact sum."""
    complaints = _Complaints()
    wanted: dict[tuple[str, tuple[str, ...]], float] = {}
    for key, part in _fold(sums, METRIC_LABELS).items():
        labels = tuple(value or NONE for value in key)
        wanted["costbearer_cost_usd_total", labels] = float(part.cost_usd)
        wanted["costbearer_calls_total", labels] = part.calls
    names = {name for name, _ in wanted} | {"costbearer_cost_usd_total", "costbearer_calls_total"}
    shown = {
        (sample.name, tuple(sample.labels.get(label, "") for label in METRIC_LABELS)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in names
    }
    for series in wanted.keys() | shown.keys():
        if wanted.get(series) != shown.get(series):
            complaints.add(
                f"{series[0]}{{{', '.join(map(str, series[1]))}}}: {shown.get(series)}, not {wanted.get(series)}"
            )
    return complaints.finding("metrics", f"{len(wanted)} series equal the frames")


def _bucket(names: tuple[str, ...], key: Key) -> str:
    return " ".join(f"{name} {value or NONE}" for name, value in zip(names, key, strict=True)) or "in all"


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in table.column_names])


def _difference(held: pa.Table, expected: pa.Table) -> str:
    if held.num_rows != expected.num_rows:
        return f"the ledger has {held.num_rows} rows, the frames {expected.num_rows}"
    columns = [name for name in expected.column_names if not held.column(name).equals(expected.column(name))]
    return f"rows differ in {', '.join(columns) or 'their types'}"
