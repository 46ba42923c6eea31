"""From files, directories and databases to records: what was read, what was not, and where each record stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from costbearer import money
from costbearer.errors import InputInvalid
from costbearer.logformats.base import LogFormat
from costbearer.logformats.record import Record, asked
from costbearer.logformats.registry import AUTO, recognised
from costbearer.reconcile import invoices
from costbearer.stores.logfiles import LogFile, Told, Unread, line_of, opened
from costbearer.stores.lognames import found
from costbearer.stores.logs import Logs
from costbearer.stores.logtables import is_address, table_of

UNREAD_SHOWN = 20
NAMES_SHOWN_CHARS = 200
BILL_BYTES_MAX = 50_000_000
"""What is no log is looked at as a bill up to this size."""


class Source(NamedTuple):
    """A file or table in one format; its records are the rows `[first, until)`. `rejected` lines are none of them."""

    number: int
    file: LogFile
    format: LogFormat
    steps: tuple[str, ...]
    first: int
    until: int
    rejected: tuple[int, ...] = ()

    def line(self, row: int) -> int | None:
        """The line of its file in which a record stands."""
        return line_of(self.file, self.steps, row - self.first, self.rejected)


class Intake(NamedTuple):
    """`unread` are the first things that could not be read, `unread_count` all of them."""

    sources: tuple[Source, ...]
    unread: tuple[Unread, ...]
    unread_count: int

    def place(self, row: int, line: int | None) -> tuple[str, int | None]:
        """The file and line in which a record stands; no line in a file that has none (Parquet, a database)."""
        source = next(each for each in self.sources if each.first <= row < each.until)
        if line is not None:
            return source.file.name, line
        return source.file.name, source.line(row)

    @property
    def formats(self) -> tuple[LogFormat, ...]:
        return tuple({source.format.name: source.format for source in self.sources}.values())


class _Unread:
    """Counts what cannot be read and keeps the first of it."""

    def __init__(self) -> None:
        self.kept: list[Unread] = []
        self.count = 0

    def __call__(self, unread: Unread) -> None:
        self.count += 1
        if len(self.kept) < UNREAD_SHOWN:
            self.kept.append(unread)


Progress = Callable[[str], None]


def taken(
    logs: Logs,
    names: Sequence[str],
    *,
    wanted: str = AUTO,
    columns: Mapping[str, str] | None = None,
    progress: Progress = lambda _: None,
) -> Intake:
    """Read everything into the engine.

    Raises:
        InputInvalid: a name means nothing, a limit is exceeded, or nothing at all could be read.
    """
    unread = _Unread()
    sources: list[Source] = []
    addresses = [name for name in names if is_address(name)]
    files = found([name for name in names if not is_address(name)])
    for name in (*addresses, *files):
        progress(f"reading {name.rpartition('@')[2] if is_address(name) else name}")
        file = table_of(name, logs) if is_address(name) else _opened(name, logs, unread, alone=len(files) == 1)
        if file is None:
            continue
        matches = recognised(file.head, wanted, columns)
        if not matches:
            unread(Unread(file.name, 0, _unrecognised(file, wanted)))
        readings: list[Source] = []
        for match in matches:
            readings.append(_taken(logs, file, len(sources) + len(readings), match.format, match.steps))
            for line, why in logs.rejected:
                unread(Unread(file.name, line, why))
        sources += readings
        if len({source.steps for source in readings}) == 1:
            _tell_unreadable(logs, readings, unread)
    if not sources:
        why = "; ".join(f"{each.file}{f':{each.line}' if each.line else ''}: {each.why}" for each in unread.kept[:3])
        raise InputInvalid(f"nothing could be read: {why}")
    logs.complete()
    return Intake(tuple(sources), tuple(unread.kept), unread.count)


def _opened(name: str, logs: Logs, unread: Told, *, alone: bool) -> LogFile | None:
    try:
        return opened(name, logs.work, logs.limits, unread)
    except InputInvalid as error:
        if alone:
            raise
        unread(Unread(name, 0, error.message.removeprefix(f"{name}: ")))
        return None


def _unrecognised(file: LogFile, wanted: str) -> str:
    if wanted != AUTO:
        return f"not of the format {wanted}; without --format it is looked for"
    if file.kind in {"document", "csv"} and file.bytes <= BILL_BYTES_MAX:
        try:
            bill = invoices.read(file.path)
        except InputInvalid:
            pass
        else:
            return f"a bill ({bill.kind}, {money.display(bill.amount_usd)}) and no log; give it with --invoice"
    names = ", ".join(dict.fromkeys(name for value in file.head[:5] for name in _names(value)))
    if not names:
        return "it holds no records"
    shown = names if len(names) <= NAMES_SHOWN_CHARS else names[:NAMES_SHOWN_CHARS] + "..."
    return f"no format recognised it; name its columns with --map, or the format with --format; it has {shown}"


def _names(value: Any) -> list[str]:
    """The names in a value, or in the first of a list."""
    first = value[0] if isinstance(value, list) and value else value
    return [str(name) for name in first] if isinstance(first, dict) else []


def _taken(logs: Logs, file: LogFile, number: int, format_: LogFormat, steps: tuple[str, ...]) -> Source:
    asks = asked(format_.columns)

    def columns(values: Mapping[Any, Any]) -> Mapping[str, Any]:
        return format_.columns(Record(values))

    first, until = logs.take(file, number, asks, steps, columns)
    return Source(number, file, format_, steps, first, until, tuple(line for line, _ in logs.rejected))


def _tell_unreadable(logs: Logs, readings: Sequence[Source], unread: _Unread) -> None:
    """Say which rows are no records of any format of a file."""
    first = readings[0]
    count, rows = logs.unreadable([(source.number, source.first) for source in readings], UNREAD_SHOWN)
    titles = " or ".join(source.format.title for source in readings)
    for place, line in rows:
        number = line if line is not None else first.line(first.first + place)
        unread(Unread(first.file.name, number or 0, f"not a record of {titles}"))
    unread.count += count - len(rows)
