"""What a report is asked: dimensions, filters, periods and options, read from text and held as one frozen value.

The command line, the API and the pages all build their question with `Query.parse`, so that the same words mean the
same rows everywhere, and every answer can print the command that asks for it again. What each report takes is said by
its `Form`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from costbearer.errors import QueryInvalid
from costbearer.ledger import HASHED
from costbearer.reports.dimensions import NONE, column_of, dimension, spelled, value_of
from costbearer.reports.periods import FIRST, ZONE_UTC, Period, Zone, instant, parse_instant, shown, zone

if TYPE_CHECKING:
    import pyarrow as pa

PARAMETERS: Mapping[str, str] = {
    "id": "what is looked at: the id of a trace, session, request or entry, or an owner's name",
    "by": "dimensions to group by, DIM[,DIM...]",
    "where": "only calls with DIM=VALUE; repeated: any of the values of one dimension, all of the dimensions",
    "since": "begin of the period: 2026-11-01, 2026-11, RFC 3339, 7d or 24h ago; the first of the month unless given",
    "until": "end of the period, excluded; now unless given",
    "compare": "period to compare with: previous, or T..T",
    "sort": "order of the rows: cost, delta (the size of the change) or name",
    "tz": "time zone of days, weeks, months and of dates without a time, such as Europe/Berlin; reports.time_zone "
    "unless given",
    "limit": "most rows, 1 to 100000; what lies behind is one row, (the rest)",
    "per": "units to divide by: request, session, trace, user, or the name of an imported business figure; "
    "several with commas (explain: day, or period)",
    "as": "model to price the same usage at, MODEL or PROVIDER/MODEL",
    "cache_rate": "share of the input tokens to price as cache reads, 0 to 1",
    "at": "prices to use: list or contract; contract unless given",
}
"""What a question can say, with the help text that the command line and the API description share."""
SORTS: tuple[str, ...] = ("cost", "delta", "name")
BY_MAX = 8
"""More levels than anybody reads; each adds a column and multiplies the rows."""
WHERE_MAX = 1000
VALUE_CHARACTERS_MAX = 1024
LIMIT = 1000
LIMIT_MAX = 100_000
PER_MAX = 8

Sort = Literal["cost", "delta", "name"]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_USUAL = ("by", "where", "since", "until", "compare", "sort", "tz", "limit")


class Reader(Protocol):
    """What a report needs of the ledger: its tables as Ibis expressions, and a way to run one."""

    @property
    def entries(self) -> Any: ...

    @property
    def charges(self) -> Any: ...

    @property
    def rollups(self) -> Any | None:
        """The hourly sums of entries (see `facts`); None where the ledger keeps none."""

    @property
    def charge_rollups(self) -> Any | None:
        """Those of charges."""

    def execute(self, expression: Any, /) -> pa.Table: ...

    def newest(self, field: str, hashes: Collection[str], /) -> Mapping[str, str]:
        """Of hashes of tenants or users, those that are not the newest of their value, and which is."""


class Form(NamedTuple):
    """What one report can be asked: its name, what it tells, the parameters it takes and what they are unless given.

    `argument` names the parameter that a command takes without an option's name; it must be given.
    """

    name: str
    tells: str
    takes: tuple[str, ...] = _USUAL
    by: str = "team"
    compare: str = ""
    sort: Sort = "cost"
    per: str = ""
    argument: str | None = None
    ever: bool = False
    """Whether `since` is the beginning of time unless it is given."""


SPEND = Form("spend", "Calls, tokens and exact cost by any dimensions.")


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `where` holds (dimension, spelled values): any of the values, all of the dimensions."""

    by: tuple[str, ...]
    where: tuple[tuple[str, tuple[str, ...]], ...]
    period: Period
    compare: Period | None = None
    sort: Sort = "cost"
    report: str = "spend"
    zone: Zone = ZONE_UTC
    limit: int = LIMIT
    options: tuple[tuple[str, str], ...] = ()
    says_zone: bool = False

    @classmethod
    def parse(
        cls, parameters: Iterable[tuple[str, str]], *, now: datetime, form: Form = SPEND, home: Zone = ZONE_UTC
    ) -> Query:
        """Read the parameters of a request or a command, each a (name, text) pair; `by` and `where` may repeat.

        `since` defaults to the first of the month in which the period ends, or of the current month where that is
        earlier; `until` to `now`; the time zone to `home`.

        Raises:
            QueryInvalid: names every faulty parameter at once.
        """
        given: dict[str, list[str]] = {}
        faults: dict[str, str] = {}
        for name, text in parameters:
            if name in form.takes:
                given.setdefault(name, []).append(text)
            elif name in PARAMETERS:
                faults[name] = f"is not a parameter of this report; it takes {', '.join(form.takes)}"
            else:
                faults[_plain(name)] = f"unknown parameter; known are {', '.join(form.takes)} (over HTTP also format)"
        for name, texts in given.items():
            if len(texts) > 1 and name not in {"by", "where"}:
                faults[name] = "given more than once"
        reading = _Reading(given, faults, now, form, home)
        by, where, period, sort = reading.by(), reading.where(), reading.period(), reading.sort()
        compare = reading.compare(period)
        limit, options = reading.limit(), reading.options()
        if sort == "delta" and not any(given.get("compare", ())) and not form.compare:
            faults["sort"] = "delta needs a comparison; add compare=previous"
        if faults or period is None:
            raise QueryInvalid(faults)
        says = reading.zone != ZONE_UTC or home != ZONE_UTC
        return cls(by, where, period, compare, cast(Sort, sort), form.name, reading.zone, limit, options, says)

    def option(self, name: str) -> str | None:
        """An option's value; None where it was not given."""
        return dict(self.options).get(name)

    @property
    def periods(self) -> list[Period]:
        """The period that is asked for, and the one it is compared with."""
        return [self.period, *([self.compare] if self.compare is not None else [])]

    def parameters(self) -> list[tuple[str, str]]:
        """The pairs that `parse` reads back as this query, with absolute times."""
        pairs = [(name, value) for name, value in self.options if name == "id"]
        pairs += [("by", ",".join(self.by))] if self.by else []
        pairs += [("where", f"{name}={value}") for name, values in self.where for value in values]
        pairs += [("since", instant(self.period.since)), ("until", instant(self.period.until))]
        if self.compare is not None:
            pairs.append(("compare", str(self.compare)))
        if self.sort != "cost":
            pairs.append(("sort", self.sort))
        if self.says_zone:
            pairs.append(("tz", self.zone.name))
        if self.limit != LIMIT:
            pairs.append(("limit", str(self.limit)))
        return pairs + [(name, value) for name, value in self.options if name != "id"]

    def command(self, form: Form = SPEND) -> str:
        """The shell command that asks the same again."""
        words = ["costbearer", "report", self.report]
        for name, text in self.parameters():
            if name == form.argument:
                words.append(text)
            elif name in form.takes:
                words += ["--" + name.replace("_", "-"), text]
        return " ".join(_shell_word(word) for word in words)

    def head(self) -> dict[str, Any]:
        """The question as the answer's JSON document repeats it."""
        compare = self.compare
        return {
            "since": instant(self.period.since),
            "until": instant(self.period.until),
            "by": list(self.by),
            "where": {name: list(values) for name, values in self.where},
            "compare": {"since": instant(compare.since), "until": instant(compare.until)} if compare else None,
            "sort": self.sort,
            "tz": self.zone.name,
            "limit": self.limit,
            "options": dict(self.options),
        }

    def conditions(self, entries: Any) -> list[Any]:
        """The filter on the entries table, period apart, as Ibis booleans that must all hold."""
        found = []
        for name, values in self.where:
            asked = dimension(name)
            unit = asked.unit
            if unit:
                tests = [within(entries, self.zone.span_of(unit, value)) for value in values]
            else:
                column = asked.column(entries)
                wanted = [value_of(value) for value in values]
                named = [value for value in wanted if value is not None]
                tests = [column.isin(named)] if named else []
                tests += [column.isnull()] if len(named) < len(wanted) else []
            condition = tests[0]
            for test in tests[1:]:
                condition |= test
            found.append(condition)
        return found

    def followed(self, reader: Reader) -> Query:
        """The same question with every tenant and user it names under the newest hash, as the answer will have them."""
        where = dict(self.where)
        for name in HASHED.keys() & where.keys():
            newest = reader.newest(name, where[name])
            where[name] = tuple(dict.fromkeys(newest.get(value, value) for value in where[name]))
        return replace(self, where=tuple(where.items()))

    def within(self, entries: Any, period: Period) -> list[Any]:
        """The conditions together with a period of them."""
        return [within(entries, period), *self.conditions(entries)]

    def keys(self, entries: Any, by: Sequence[str] | None = None) -> dict[str, Any]:
        """The columns to group by, under `by_0`, `by_1` and so on; for rows within the query's periods."""
        names = self.by if by is None else by
        columns = [column_of(name, entries, self.zone, self.periods) for name in names]
        return {f"by_{place}": column for place, column in enumerate(columns)}

    def keys_of(self) -> tuple[str, ...]:
        """The names of `keys`."""
        return tuple(f"by_{place}" for place in range(len(self.by)))

    def buckets(self, row: Mapping[str, Any], by: Sequence[str] | None = None) -> tuple[str, ...]:
        """The buckets that a row of such a grouping stands for."""
        names = self.by if by is None else by
        return tuple(spelled(name, row[f"by_{place}"], self.zone) for place, name in enumerate(names))


class _Reading:
    """Reads one parameter after the other and collects what is wrong with each under its name."""

    def __init__(
        self, given: Mapping[str, Sequence[str]], faults: dict[str, str], now: datetime, form: Form, home: Zone
    ) -> None:
        self.given, self.faults, self.now, self.form = given, faults, now, form
        self.zone = home
        name = given.get("tz", [""])[0]
        try:
            self.zone = zone(name) if name else home
        except ValueError as error:
            faults["tz"] = str(error)

    def by(self) -> tuple[str, ...]:
        texts = self.given.get("by", [self.form.by] if self.form.by else [])
        names = tuple(name.strip() for text in texts for name in text.split(","))
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
                self.faults.setdefault("where", f"{shown(text)} is not DIM=VALUE")
            elif self._known("where", name) and self._sound(name, value):
                found.setdefault(name, {})[value] = None
        return tuple((name, tuple(values)) for name, values in found.items())

    def period(self) -> Period | None:
        until = self._instant("until", self.now)
        if until is None:
            return None
        last = min(self.now, until - timedelta(microseconds=1))
        first = self.zone.wall(last).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        since = self._instant("since", FIRST if self.form.ever else self.zone.moment(first))
        if since is None:
            return None
        return self._period("since", since, until)

    def compare(self, period: Period | None) -> Period | None:
        text = self.given.get("compare", [self.form.compare])[0]
        if not text or period is None:
            return None
        if text == "previous":
            try:
                return period.previous(self.zone)
            except QueryInvalid as error:
                self.faults.update(error.fields)
                return None
        since, dots, until = text.partition("..")
        if not dots:
            self.faults["compare"] = f"{shown(text)} is neither previous nor a period T..T"
            return None
        try:
            ends = parse_instant(since, self.now, self.zone), parse_instant(until, self.now, self.zone)
        except ValueError as error:
            self.faults["compare"] = str(error)
            return None
        return self._period("compare", *ends)

    def sort(self) -> str:
        text = self.given.get("sort", [self.form.sort])[0]
        if text not in SORTS:
            self.faults["sort"] = f"{shown(text)} is not one of {', '.join(SORTS)}"
        return text

    def limit(self) -> int:
        text = self.given.get("limit", [str(LIMIT)])[0]
        if text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= LIMIT_MAX:
            return int(text)
        self.faults["limit"] = f"is a whole number from 1 to {LIMIT_MAX}"
        return LIMIT

    def options(self) -> tuple[tuple[str, str], ...]:
        found = []
        for name, checked in OPTIONS.items():
            texts = self.given.get(name, [self.form.per] if name == "per" and self.form.per else [])
            if texts:
                try:
                    found.append((name, checked(texts[0])))
                except ValueError as error:
                    self.faults.setdefault(name, str(error))
            elif name == self.form.argument:
                self.faults.setdefault(name, "is missing")
        return tuple(found)

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
            self.faults.setdefault("where", f"{shown(name)} has no value; write {name}={NONE} for the missing one")
            return False
        if unit is None:
            return self._encodable("where", value)
        try:
            self.zone.span_of(unit, value)
        except ValueError:
            example = self.zone.spell(unit, datetime(2026, 11, 22, 14, tzinfo=UTC))
            self.faults.setdefault("where", f"{shown(value)} is not a {unit} such as {example}")
            return False
        return True

    def _encodable(self, parameter: str, text: str) -> bool:
        """A lone surrogate can be in no row and would fail inside the engine."""
        if len(text) > VALUE_CHARACTERS_MAX:
            self.faults.setdefault(parameter, f"{shown(text)} has more than {VALUE_CHARACTERS_MAX} characters")
            return False
        try:
            text.encode()
        except UnicodeEncodeError:
            self.faults.setdefault(parameter, f"{shown(text)} is not valid text")
            return False
        return True

    def _instant(self, name: str, default: datetime) -> datetime | None:
        text = self.given.get(name, [""])[0]
        if not text:
            return default
        try:
            return parse_instant(text, self.now, self.zone)
        except ValueError as error:
            self.faults[name] = str(error)
            return None

    def _period(self, name: str, since: datetime, until: datetime) -> Period | None:
        try:
            return Period(since, until)
        except QueryInvalid as error:
            self.faults[name] = error.fields["since"]
            return None


def within(entries: Any, period: Period) -> Any:
    """The condition that an entry's call started in the period."""
    return (entries["started_at"] >= period.since) & (entries["started_at"] < period.until)


def _checked_per(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names) or len(names) > PER_MAX or not all(map(_NAME.fullmatch, names)):
        raise ValueError(f"{shown(text)} is not a list of at most {PER_MAX} names, each once")
    return ",".join(names)


def _checked_share(text: str) -> str:
    try:
        value = Decimal(text)
        if not 0 <= value <= 1 or len(text) > 12:
            raise ValueError
    except (InvalidOperation, ValueError):
        raise ValueError(f"{shown(text)} is not a share from 0 to 1") from None
    return text


def _checked_at(text: str) -> str:
    if text not in {"list", "contract"}:
        raise ValueError(f"{shown(text)} is not one of list, contract")
    return text


def _checked_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if len(text) > VALUE_CHARACTERS_MAX:
        raise ValueError(f"{shown(text)} has more than {VALUE_CHARACTERS_MAX} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)} is not valid text") from None
    return text


OPTIONS: Mapping[str, Callable[[str], str]] = {
    "id": _checked_text,
    "per": _checked_per,
    "as": _checked_text,
    "cache_rate": _checked_share,
    "at": _checked_at,
}
"""How an option's text is checked."""


def _plain(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", text) else shown(text)


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
