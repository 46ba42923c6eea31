"""What a spend report is asked: dimensions, filters and periods, read from text and held as one frozen value.

The command line, the API and the pages all build their question with `SpendQuery.parse`, so that the same words mean
the same rows everywhere, and every answer can print the command that asks for it again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from costbearer.attribution import FIELD_OF_TAG
from costbearer.errors import QueryInvalid

if TYPE_CHECKING:
    import pyarrow as pa

NONE = "(none)"
"""The bucket of the missing value. An empty text says nothing and counts as missing."""

TAG = "tag:"
PARAMETERS: Mapping[str, str] = {
    "by": "dimensions to group by, DIM[,DIM...]; team unless given",
    "where": "only calls with DIM=VALUE; repeated: any of the values of one dimension, all of the dimensions",
    "since": "begin of the period: 2026-11-01, 2026-11, RFC 3339, 7d or 24h ago; the first of the month unless given",
    "until": "end of the period, excluded; now unless given",
    "compare": "period to compare with: previous, or T..T",
    "sort": "order of the rows: cost, delta (the size of the change) or name",
}
"""What a question can say, with the help text that the command line and the API description share."""
SORTS: tuple[str, ...] = ("cost", "delta", "name")
BY_MAX = 8
"""More levels than anybody reads; each adds a column and multiplies the rows."""
WHERE_MAX = 1000
VALUE_CHARACTERS_MAX = 1024

_SPELLS_NONE = re.compile(r"\\*\(none\)")
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2200, 1, 1, tzinfo=UTC)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH = re.compile(r"\d{4}-\d{2}")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})")
_AGO = re.compile(r"(\d{1,5})([dh])")

Sort = Literal["cost", "delta", "name"]
Unit = Literal["month", "week", "day", "hour"]


class Reader(Protocol):
    """What a report needs of the ledger: its two tables as Ibis expressions, and a way to run one."""

    @property
    def entries(self) -> Any: ...

    @property
    def charges(self) -> Any: ...

    def execute(self, expression: Any, /) -> pa.Table: ...


class Dimension(NamedTuple):
    """One way to slice. `column` makes the Ibis text column (NULL where missing) out of the entries table.

    A dimension of time has a `unit` instead: its column is the start of the bucket as a timestamp.
    """

    name: str
    column: Callable[[Any], Any]
    unit: Unit | None = None


def _column(name: str) -> Callable[[Any], Any]:
    return lambda entries: entries[name].nullif("")


def _model(entries: Any) -> Any:
    return entries["response_model"].nullif("").coalesce(entries["request_model"].nullif(""))


def _start(code: str) -> Callable[[Any], Any]:
    return lambda entries: entries["started_at"].truncate(code)


def _tag(name: str) -> Callable[[Any], Any]:
    return lambda entries: entries["tags"].get(name).nullif("")


DIMENSIONS: Mapping[str, Dimension] = {
    dimension.name: dimension
    for dimension in (
        *(Dimension(name, _column(name)) for name in ("owner", "team", "agent", "workload")),
        Dimension("key", _column("key_id")),
        *(Dimension(name, _column(name)) for name in ("key_team", "project", "cost_center", "feature", "workflow")),
        *(Dimension(name, _column(name)) for name in ("customer", "tenant", "user", "env")),
        Dimension("session", _column("session_id")),
        Dimension("trace", _column("trace_id")),
        Dimension("request", _column("request_id")),
        Dimension("provider", _column("provider")),
        Dimension("model", _model),
        *(Dimension(name, _column(name)) for name in ("request_model", "route", "operation", "tier", "region")),
        *(Dimension(name, _column(name)) for name in ("status", "basis", "kind", "reason", "reason_unknown")),
        Dimension("error_code", _column("error_code")),
        Dimension("day", _start("D"), "day"),
        Dimension("week", _start("W"), "week"),
        Dimension("month", _start("M"), "month"),
        Dimension("hour", _start("h"), "hour"),
    )
}
"""Every dimension by name, `tag:NAME` apart. `model` is the one that answered; where none did, the one asked for."""


def dimension(name: str) -> Dimension:
    """The dimension of that name.

    Raises:
        KeyError: there is no such dimension; the message lists those there are.
    """
    tag = name.removeprefix(TAG)
    if name.startswith(TAG) and tag in FIELD_OF_TAG:
        field = FIELD_OF_TAG[tag]
        raise KeyError(f"{name} is a field of its own; ask for {field.removesuffix('_id')}")
    if name.startswith(TAG) and tag:
        return Dimension(name, _tag(tag))
    if name not in DIMENSIONS:
        raise KeyError(f"{_shown(name)} is not a dimension; known are {', '.join(DIMENSIONS)} and tag:NAME")
    return DIMENSIONS[name]


def bucket(value: str | None) -> str:
    r"""How a value is spelled as a bucket: missing is `(none)`, a value that really reads `(none)` is `\(none)`."""
    if value is None:
        return NONE
    return "\\" + value if _SPELLS_NONE.fullmatch(value) else value


def value_of(spelled: str) -> str | None:
    """The value a bucket's spelling stands for; the reverse of `bucket`."""
    if spelled == NONE:
        return None
    return spelled[1:] if _SPELLS_NONE.fullmatch(spelled) else spelled


def spell_start(unit: Unit, start: datetime) -> str:
    """A bucket of time: `2026-11`, `2026-W47` (ISO week, from Monday), `2026-11-22`, `2026-11-22T14:00:00Z`."""
    if unit == "month":
        return f"{start:%Y-%m}"
    if unit == "week":
        year, week, _ = start.isocalendar()
        return f"{year:04d}-W{week:02d}"
    return f"{start:%Y-%m-%d}" if unit == "day" else f"{start:%Y-%m-%dT%H}:00:00Z"


def span_of(unit: Unit, spelled: str) -> Period:
    """The period a bucket of time stands for.

    Raises:
        ValueError: not a bucket of this unit as `spell_start` writes it.
    """
    if unit == "hour":
        start = datetime.fromisoformat(spelled)
    else:
        start = datetime.combine(
            date.fromisoformat(spelled + "-01" if unit == "month" else spelled), datetime.min.time(), UTC
        )
    if start.tzinfo is None or not _FIRST <= start < _LAST or spell_start(unit, start) != spelled:
        raise ValueError(spelled)
    if unit == "month":
        return Period(start, _months_later(start, 1))
    return Period(
        start, start + {"week": timedelta(weeks=1), "day": timedelta(days=1), "hour": timedelta(hours=1)}[unit]
    )


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open period `[since, until)` in UTC.

    Raises:
        QueryInvalid: it ends before it begins, or is empty.
    """

    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if self.since >= self.until:
            raise QueryInvalid({"since": f"{instant(self.since)} is not before until, {instant(self.until)}"})

    def previous(self) -> Period:
        """The period directly before it: as many whole calendar months where it is whole months, else of equal length.

        Raises:
            QueryInvalid: it would begin before 1970.
        """
        if _is_month_start(self.since) and _is_month_start(self.until):
            months = (self.until.year - self.since.year) * 12 + self.until.month - self.since.month
            since = _months_later(self.since, -months)
        else:
            since = self.since - (self.until - self.since)
        if since < _FIRST:
            raise QueryInvalid({"compare": f"the period before {instant(self.since)} begins before 1970"})
        return Period(since, self.since)

    def __str__(self) -> str:
        return f"{instant(self.since)}..{instant(self.until)}"


def instant(moment: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_instant(text: str, now: datetime) -> datetime:
    """A point in time: `2026-11-01` or `2026-11` (its first moment in UTC), RFC 3339, or `7d`, `24h` (that long ago).

    Raises:
        ValueError: the text is none of these, with a message for a person.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            moment = now - int(ago[1]) * (timedelta(days=1) if ago[2] == "d" else timedelta(hours=1))
        elif _RFC3339.fullmatch(text):
            moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
        elif _DATE.fullmatch(text) or _MONTH.fullmatch(text):
            day = date.fromisoformat(text if _DATE.fullmatch(text) else text + "-01")
            moment = datetime.combine(day, datetime.min.time(), UTC)
        else:
            raise ValueError
        if not _FIRST <= moment < _LAST:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"{_shown(text)} is not a time from 1970 to 2199 such as 2026-11-01, 2026-11-01T08:00:00Z, 7d or 24h"
        ) from None
    return moment


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """One question. `where` holds (dimension, spelled values): any of the values, all of the dimensions."""

    by: tuple[str, ...]
    where: tuple[tuple[str, tuple[str, ...]], ...]
    period: Period
    compare: Period | None = None
    sort: Sort = "cost"
    report: str = "spend"

    @classmethod
    def parse(cls, parameters: Iterable[tuple[str, str]], *, now: datetime) -> SpendQuery:
        """Read the parameters of a request or a command, each a (name, text) pair; `by` and `where` may repeat.

        `since` defaults to the first of the month (UTC) in which the period ends, or of the current month where that
        is earlier; `until` to `now`; `by` to `team`.

        Raises:
            QueryInvalid: names every faulty parameter at once.
        """
        given: dict[str, list[str]] = {}
        faults: dict[str, str] = {}
        for name, text in parameters:
            if name in PARAMETERS:
                given.setdefault(name, []).append(text)
            else:
                faults[_plain(name)] = f"unknown parameter; known are {', '.join(PARAMETERS)} (over HTTP also format)"
        for name, texts in given.items():
            if len(texts) > 1 and name not in {"by", "where"}:
                faults[name] = "given more than once"
        reading = _Reading(given, faults, now)
        by, where, period, sort = reading.by(), reading.where(), reading.period(), reading.sort()
        compare = reading.compare(period)
        if sort == "delta" and not any(given.get("compare", ())):
            faults["sort"] = "delta needs a comparison; add compare=previous"
        if faults or period is None:
            raise QueryInvalid(faults)
        return cls(by, where, period, compare, cast(Sort, sort))

    def parameters(self) -> list[tuple[str, str]]:
        """The pairs that `parse` reads back as this query, with absolute times."""
        pairs = [("by", ",".join(self.by))]
        pairs += [("where", f"{name}={value}") for name, values in self.where for value in values]
        pairs += [("since", instant(self.period.since)), ("until", instant(self.period.until))]
        if self.compare is not None:
            pairs.append(("compare", str(self.compare)))
        if self.sort != "cost":
            pairs.append(("sort", self.sort))
        return pairs

    def command(self) -> str:
        """The shell command that asks the same again."""
        words = ["costbearer", "report", self.report]
        fixed = {"by"} if self.report != "spend" else set()
        for name, text in self.parameters():
            if name in fixed:
                continue
            words += [f"--{name}", text]
        return " ".join(_shell_word(word) for word in words)

    def conditions(self, entries: Any) -> list[Any]:
        """The filter on the entries table, period apart, as Ibis booleans that must all hold."""
        found = []
        for name, values in self.where:
            asked = dimension(name)
            tests = [_within(entries, span_of(asked.unit, value)) for value in values] if asked.unit else []
            if not asked.unit:
                column = asked.column(entries)
                wanted = [value_of(value) for value in values]
                named = [value for value in wanted if value is not None]
                tests += [column.isin(named)] if named else []
                tests += [column.isnull()] if len(named) < len(wanted) else []
            condition = tests[0]
            for test in tests[1:]:
                condition |= test
            found.append(condition)
        return found

    def within(self, entries: Any, period: Period) -> list[Any]:
        """The conditions together with a period of them."""
        return [_within(entries, period), *self.conditions(entries)]


class _Reading:
    """Reads one parameter after the other and collects what is wrong with each under its name."""

    def __init__(self, given: Mapping[str, Sequence[str]], faults: dict[str, str], now: datetime) -> None:
        self.given, self.faults, self.now = given, faults, now

    def by(self) -> tuple[str, ...]:
        names = tuple(name.strip() for text in self.given.get("by", ["team"]) for name in text.split(","))
        for name in names:
            self._known("by", name)
        if len(set(names)) < len(names):
            self.faults.setdefault("by", "names a dimension twice")
        if len(names) > BY_MAX:
            self.faults.setdefault("by", f"names more than {BY_MAX} dimensions")
        return names

    def where(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        found: dict[str, dict[str, None]] = {}
        texts = self.given.get("where", [])
        if len(texts) > WHERE_MAX:
            self.faults["where"] = f"more than {WHERE_MAX} conditions"
            return ()
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                self.faults.setdefault("where", f"{_shown(text)} is not DIM=VALUE")
            elif self._known("where", name) and self._sound(name, value):
                found.setdefault(name, {})[value] = None
        return tuple((name, tuple(values)) for name, values in found.items())

    def period(self) -> Period | None:
        until = self._instant("until", self.now)
        if until is None:
            return None
        last = min(self.now, until - timedelta(microseconds=1))
        since = self._instant("since", last.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
        if since is None:
            return None
        return self._period("since", since, until)

    def compare(self, period: Period | None) -> Period | None:
        text = self.given.get("compare", [""])[0]
        if not text or period is None:
            return None
        if text == "previous":
            try:
                return period.previous()
            except QueryInvalid as error:
                self.faults.update(error.fields)
                return None
        since, dots, until = text.partition("..")
        if not dots:
            self.faults["compare"] = f"{_shown(text)} is neither previous nor a period T..T"
            return None
        try:
            ends = parse_instant(since, self.now), parse_instant(until, self.now)
        except ValueError as error:
            self.faults["compare"] = str(error)
            return None
        return self._period("compare", *ends)

    def sort(self) -> str:
        text = self.given.get("sort", ["cost"])[0]
        if text not in SORTS:
            self.faults["sort"] = f"{_shown(text)} is not one of {', '.join(SORTS)}"
        return text

    def _known(self, parameter: str, name: str) -> bool:
        try:
            dimension(name)
        except KeyError as error:
            self.faults.setdefault(parameter, str(error.args[0]))
            return False
        return self._encodable(parameter, name)

    def _sound(self, name: str, value: str) -> bool:
        unit = dimension(name).unit
        if not value:
            self.faults.setdefault("where", f"{_shown(name)} has no value; write {name}={NONE} for the missing one")
            return False
        if unit is None:
            return self._encodable("where", value)
        try:
            span_of(unit, value)
        except ValueError:
            example = spell_start(unit, datetime(2026, 11, 22, 14, tzinfo=UTC))
            self.faults.setdefault("where", f"{_shown(value)} is not a {unit} such as {example}")
            return False
        return True

    def _encodable(self, parameter: str, text: str) -> bool:
        """A lone surrogate can be in no row and would fail inside the engine."""
        if len(text) > VALUE_CHARACTERS_MAX:
            self.faults.setdefault(parameter, f"{_shown(text)} has more than {VALUE_CHARACTERS_MAX} characters")
            return False
        try:
            text.encode()
        except UnicodeEncodeError:
            self.faults.setdefault(parameter, f"{_shown(text)} is not valid text")
            return False
        return True

    def _instant(self, name: str, default: datetime) -> datetime | None:
        text = self.given.get(name, [""])[0]
        if not text:
            return default
        try:
            return parse_instant(text, self.now)
        except ValueError as error:
            self.faults[name] = str(error)
            return None

    def _period(self, name: str, since: datetime, until: datetime) -> Period | None:
        try:
            return Period(since, until)
        except QueryInvalid as error:
            self.faults[name] = error.fields["since"]
            return None


def _within(entries: Any, period: Period) -> Any:
    return (entries["started_at"] >= period.since) & (entries["started_at"] < period.until)


def _is_month_start(moment: datetime) -> bool:
    return moment == moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _months_later(moment: datetime, months: int) -> datetime:
    years, month = divmod(moment.month - 1 + months, 12)
    return moment.replace(year=moment.year + years, month=month + 1)


def _shown(text: str) -> str:
    """A caller's text inside a message: quoted, cut, and without what would change the terminal."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _plain(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", text) else _shown(text)


def _shell_word(word: str) -> str:
    """Quoted for a shell; a word with control characters in the `$'...'` form, so that printing it is harmless."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        character
        if character.isprintable() and character not in "\\'"
        else "".join(f"\\x{byte:02x}" for byte in character.encode())
        for character in word
    )
    return f"$'{escaped}'"
