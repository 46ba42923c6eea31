"""The ownership map: who answers for a key, an identity, a workspace, from a date. It resolves what a log does not say.

A row says what it matches (`key`, `identity`, `workspace`, `project`, `user` or `agent`, with `*` as a wildcard), whom
it belongs to (`owner`, `team`, `agent`, `workload`) and, if it was not always so, `from` which day. Of several
rows that match, the more exact kind wins in the order above, then the latest `from`.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import pyarrow as pa

from costbearer import labels
from costbearer.errors import InputInvalid
from costbearer.owners import OwnerRow
from costbearer.stores.logs import Logs

KINDS: Mapping[str, tuple[str, ...]] = {
    "key": ("key_id", "key_name"),
    "identity": ("identity",),
    "workspace": ("workspace",),
    "project": ("workspace",),
    "agent": ("agent", "hop"),
    "user": ("user",),
}
"""What a row can match, the most exact first, and the columns of a record that hold it."""
GIVES = ("owner", "team", "agent", "workload")
_EVER = datetime(1, 1, 1)  # noqa: DTZ001  as all times of records, UTC without saying so
_NEVER = datetime(9999, 1, 1)  # noqa: DTZ001


class Rule(NamedTuple):
    """One row: what is matched, and whom it belongs to from a moment on."""

    kind: str
    value: str
    since: datetime
    gives: Mapping[str, str]


class Ownership(NamedTuple):
    """All rows of a map."""

    rules: tuple[Rule, ...]

    def joined(self, logs: Logs, records: Any) -> Any:
        """The records with `mapped_owner`, `mapped_team`, `mapped_agent` and `mapped_workload`."""
        found: dict[str, list[Any]] = {name: [] for name in GIVES}
        joined = records
        pairs = [(kind, column) for kind, columns in KINDS.items() for column in columns]
        for number, (kind, column) in enumerate(pairs):
            rules = [rule for rule in self.rules if rule.kind == kind]
            rows = self._spans(logs, records, column, rules) if rules else []
            if not rows:
                continue
            table = logs.given(f"ownership_{number}", pa.Table.from_pylist(rows, schema=_SPANS))
            table = table.rename({f"{name}_{number}": name for name in table.columns})
            when = ibis.coalesce(joined.started_at, ibis.literal(_EVER, "timestamp(6)"))
            same = [
                joined[column] == table[f"value_{number}"],
                when >= table[f"since_{number}"],
                when < table[f"until_{number}"],
            ]
            joined = joined.left_join(table, same)
            for name in GIVES:
                found[name].append(f"{name}_{number}")
        nothing = ibis.null("string")
        return joined.mutate(
            **{
                f"mapped_{name}": ibis.coalesce(*(joined[each] for each in columns)) if columns else nothing
                for name, columns in found.items()
            }
        )

    def _spans(self, logs: Logs, records: Any, column: str, rules: Sequence[Rule]) -> list[dict[str, Any]]:
        """For every value that occurs, whom it belongs to and from when to when."""
        values = logs.execute(records.select(column).distinct()).column(0).to_pylist()
        rows = []
        for value in values:
            if value is None:
                continue
            matching = [rule for rule in rules if _matches(rule.value, value)]
            # An exact name is dearer than a pattern; of equals the one further down in the file.
            latest = {rule.since: rule for rule in sorted(matching, key=lambda rule: rule.value == value)}
            starts = [*sorted(latest), _NEVER]
            for begin, end in itertools.pairwise(starts):
                given = latest[begin].gives
                rows.append({"value": value, "since": begin, "until": end} | {name: given.get(name) for name in GIVES})
        return rows


_SPANS = pa.schema(
    [("value", pa.string()), ("since", pa.timestamp("us")), ("until", pa.timestamp("us"))]
    + [(name, pa.string()) for name in GIVES]
)


def _matches(pattern: str, value: str) -> bool:
    return pattern == value or ("*" in pattern and fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")))


def read(file: Path) -> Ownership:
    """A map out of a YAML or CSV file.

    Raises:
        InputInvalid: it cannot be read; the message names the row and what is wrong with it.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    rows = _yaml_rows(text, file) if file.suffix.lower() in {".yaml", ".yml", ".json"} else _csv_rows(text, file)
    rules = tuple(_rule(row, f"{file}, row {number}") for number, row in enumerate(rows, 1))
    if not rules:
        raise InputInvalid(
            f"{file}: the map has no rows; a row is such as `key: sk-search-1, team: search, owner: ana`"
        )
    return Ownership(rules)


def of_rows(rows: Iterable[OwnerRow]) -> Ownership:
    """The map that the control store keeps."""
    return Ownership(tuple(Rule(row.kind, row.value, _plain(row.since), row.gives) for row in rows))


def rows_of(found: Ownership) -> list[OwnerRow]:
    """A map as the control store keeps it."""
    return [
        OwnerRow(
            rule.kind, rule.value, None if rule.since == _EVER else rule.since.replace(tzinfo=UTC), dict(rule.gives)
        )
        for rule in found.rules
    ]


def _plain(moment: datetime | None) -> datetime:
    return _EVER if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def _yaml_rows(text: str, file: Path) -> list[Mapping[str, Any]]:
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A date that is none and a number of thousands of digits are ValueErrors of what YAML is made into.
        raise InputInvalid(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    rows = document.get("ownership") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputInvalid(f"{file}: the map is a list of rows (or one under `ownership:`), each with names and values")
    return rows


def _csv_rows(text: str, file: Path) -> list[Mapping[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise InputInvalid(f"{file}: not CSV: {error}") from None
    if any(None in row for row in rows):
        number = next(number for number, row in enumerate(rows, 1) if None in row)
        raise InputInvalid(f"{file}, row {number}: it has more cells than the first line has names")
    return [{name.strip().lower(): value for name, value in row.items() if value} for row in rows]


def _rule(row: Mapping[str, Any], place: str) -> Rule:
    kinds = [kind for kind in KINDS if row.get(kind) is not None]
    # `agent` says whom a row gives it to, unless it is all that a row could match.
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if kind != "agent"]
    unknown = sorted(map(str, set(row) - KINDS.keys() - set(GIVES) - {"from"}))
    if unknown:
        raise InputInvalid(f"{place}: {', '.join(unknown)}: there is no such column; there are {_columns()}")
    if len(kinds) != 1:
        raise InputInvalid(f"{place}: a row matches exactly one of {', '.join(KINDS)}")
    kind = kinds[0]
    gives = {name: str(row[name]) for name in GIVES if row.get(name) is not None and name != kind}
    if not gives.keys() & {"owner", "team"}:
        raise InputInvalid(f"{place}: it says neither owner nor team")
    for name, value in gives.items():
        fault = labels.fault(value)
        if fault is not None:
            raise InputInvalid(f"{place}: {name}: {fault}")
    return Rule(kind, str(row[kind]), _moment(row.get("from"), place), gives)


def _columns() -> str:
    return ", ".join((*KINDS, *(name for name in GIVES if name not in KINDS), "from"))


def _moment(value: Any, place: str) -> datetime:
    if value is None:
        return _EVER
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime.combine(value, time())
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        raise InputInvalid(f"{place}: from: {value!r} is not a date such as 2026-11-01") from None
