"""Foreign usage as entries of the ledger: what an auditor reads from another gateway's log, posted once for ever.

An imported call is an entry of kind `import`. It is rated by the archive of its day like any other; what the provider
itself stated wins; where there is no price but the log states a cost, that is kept as an estimate; else the cost is
unknown, with the reason. Labels keep their provenance, and what a log does not say stays empty and counts as
unattributed. Tenants and users are hashed as the gateway hashes them.

Which call it is follows from the log alone: its format and the provider's id of the answer, or the log's own id, with
what it says where that id may be the number of a row, or only what it says. So importing again adds nothing, whatever
file it is in. A call that the gateway itself recorded, by the provider's id of its answer, is not imported; nor is one
of a closed month, which does not change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa

from costbearer import money
from costbearer.attribution import Hashers
from costbearer.audit.evidence import Evidence
from costbearer.audit.intake import Intake
from costbearer.corrections import Closed
from costbearer.ledger import HASHED, PROVIDER_DIFFERENCE, Charge, Entry, Field, faults
from costbearer.logformats.registry import GENERIC
from costbearer.rating import PROVIDER_CARD
from costbearer.rerate import PARTS_ARROW, rerate
from costbearer.usage import COUNTS, Usage

BATCH = 2_000
"""Entries that are posted in one go, and sent to a server in one request."""
SPAN_ROWS = 50_000
LOG_CARD = "log"
"""The card of a charge that rests on what a foreign log says and not on a rate card."""
_LABELS = ("owner", "team", "agent", "workload")


class Reader(Protocol):
    """One state of the ledger."""

    @property
    def entries(self) -> Any: ...

    def execute(self, expression: Any, /) -> pa.Table: ...


class Ledger(Protocol):
    """What is there already."""

    def reader(self) -> AbstractContextManager[Reader]: ...


class Books(Protocol):
    """What posts, and the block in which nobody else does (`Bookkeeper.posting`)."""

    def posting(self) -> AbstractContextManager[None]: ...

    def record(self, entries: Iterable[Entry], /) -> int: ...


class Imported(NamedTuple):
    """What became of calls: posted, in the ledger already, of a closed month, or not sound."""

    posted: int = 0
    known: int = 0
    closed: int = 0
    refused: int = 0

    def plus(self, other: Imported) -> Imported:
        return Imported(*(left + right for left, right in zip(self, other, strict=True)))

    def document(self) -> dict[str, int]:
        return self._asdict()


def post(ledger: Ledger, books: Books, batch: Sequence[Entry], closed: Closed) -> Imported:
    """Post those of a batch that are not there.

    Raises:
        PostingBusy: somebody else posts for too long.
        StoreFailed, JournalFailed: the ledger cannot be read, or the books cannot be written.
    """
    sound = [entry for entry in batch if not faults(entry) and _is_call(entry)]
    fresh: dict[str, Entry] = {}
    with books.posting():
        with ledger.reader() as reader:
            known = _known(reader, sound)
        for entry in sound:
            if entry.call_id not in known and entry.provider_response_id not in known:
                fresh.setdefault(entry.call_id, entry)
        open_ones = [entry for entry in fresh.values() if not closed(entry.started_at)]
        posted = books.record(open_ones) if open_ones else 0
    return Imported(
        posted=posted,
        known=len(sound) - len(fresh),
        closed=len(fresh) - len(open_ones),
        refused=len(batch) - len(sound),
    )


def _is_call(entry: Entry) -> bool:
    """Whether it is a call that was made, and nothing that takes something back or changes another entry."""
    counts = (getattr(entry.usage, name) for name in COUNTS)
    return (
        entry.kind == "import"
        and entry.calls > 0
        and entry.attempt > 0
        and entry.refers_to is None
        and entry.settlement is None
        and all(count is None or count >= 0 for count in counts)
    )


def _known(reader: Reader, batch: Sequence[Entry]) -> set[str]:
    """Ids of imported calls, and of answers to calls of the gateway, that the ledger has."""
    entries = reader.entries
    names = [entry.call_id for entry in batch]
    answers = [entry.provider_response_id for entry in batch if entry.provider_response_id]
    imported = entries.filter((entries.kind == "import") & entries.call_id.isin(names)).select(id="call_id")
    own = entries.filter((entries.kind == "usage") & entries.provider_response_id.isin(answers or [""]))
    both = imported.union(own.select(id="provider_response_id"))
    return {str(value) for value in reader.execute(both.distinct()).column("id").to_pylist()}


# -- from records to entries


def batches(evidence: Evidence, intake: Intake, hashers: Hashers) -> Iterator[list[Entry]]:
    """Everything that was read, as at most `BATCH` entries each; calls without a time cannot be posted: left out."""
    last = max(source.until for source in intake.sources)
    for begin in range(0, last, SPAN_ROWS):
        made = list(_entries(evidence, intake, hashers, begin, begin + SPAN_ROWS))
        for at in range(0, len(made), BATCH):
            yield made[at : at + BATCH]


_IDS = ("record_id", "response_id", "request_id", "trace_id", "session_id", "parent_id", "attempt", "ended_at")
_SAID = ("user", "tenant", "workflow", "feature", "env", "workspace", "key_id", "tags")


def _entries(evidence: Evidence, intake: Intake, hashers: Hashers, begin: int, end: int) -> Iterator[Entry]:
    calls, records = evidence.calls, evidence.records
    wanted = calls.filter((calls.row >= begin) & (calls.row < end) & calls.started_at.notnull())
    more = records.select("row", *(name for name in (*_IDS, *_SAID)))
    met = wanted.join(more, wanted.row == more.row)
    names = [name for name in wanted.columns if name not in {*_SAID, *_IDS}]
    chosen = met.select(*(wanted[name] for name in names), *(more[name] for name in (*_IDS, *_SAID)))
    table = evidence.logs.execute(chosen.order_by("row"))
    if not len(table):
        return
    charges = _charges(evidence, table)
    formats = {source.number: source.format.name for source in intake.sources}
    hashed: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.to_pylist(maps_as_pydicts="lossy"):
        yield _entry(row, formats[row["file"]], charges.get(row["row"], ()), hashers, hashed)


def _charges(evidence: Evidence, table: pa.Table) -> dict[int, tuple[Charge, ...]]:
    """What each call is charged, rated by the archive; none for what cannot be rated."""
    nothing = pa.nulls(len(table), pa.string())

    def column(name: str) -> Any:
        return table[name] if name in table.column_names else pa.nulls(len(table), pa.int64())

    parts = pa.table(
        {
            "row": table["row"],
            "part": pa.array([0] * len(table), pa.int64()),
            "provider": table["price_provider"].fill_null(""),
            "model": table["model"].fill_null(""),
            **{name: table[name] if name in table.column_names else nothing for name in PARTS_ARROW.names[4:8]},
            "at": table["started_at"].cast(pa.timestamp("us", tz="UTC")),
            "step": column("input_tokens"),
            **{name: column(name) for name in COUNTS},
        }
    )
    rated: dict[int, list[Charge]] = {}
    for line in rerate(parts, evidence.book, evidence.contract).lines.to_pylist():
        charge = Charge(*(line[name] for name in Charge.__struct_fields__))
        rated.setdefault(line["row"], []).append(charge)
    return {row: tuple(lines) for row, lines in rated.items()}


def _entry(
    row: Mapping[str, Any],
    format_: str,
    charges: tuple[Charge, ...],
    hashers: Hashers,
    hashed: dict[tuple[str, str], dict[str, str]],
) -> Entry:
    name = _identity(row, format_)
    started = _utc(row["started_at"])
    ended = None if row["ended_at"] is None else _utc(row["ended_at"])
    kept: dict[str, Any] = {}
    for private in HASHED:
        if row[private] is not None:
            key = (private, str(row[private]))
            if key not in hashed:
                hashed[key] = _hashed(*key, hashers)
            kept |= hashed[key]
    fields = {label: field for label in _LABELS if (field := _label(row, label, format_)) is not None}
    return Entry(
        journal="",
        sequence=0,
        kind="import",
        request_id=row["request_id"] or name,
        call_id=name,
        parent_id=row["parent_id"],
        trace_id=row["trace_id"],
        session_id=row["session_id"],
        attempt=row["attempt"] or 1,
        calls=row["calls"],
        requests=row["calls"] if (row["attempt"] or 1) == 1 else 0,
        started_at=started,
        ended_at=ended if ended is None or ended >= started else None,
        key_id=row["key_id"],
        owner=fields["owner"].value if "owner" in fields else None,
        team=fields["team"].value if "team" in fields else None,
        agent=fields["agent"].value if "agent" in fields else None,
        workload=fields["workload"].value if "workload" in fields else None,
        key_team=row["team"],
        project=row["workspace"],
        feature=row["feature"],
        workflow=row["workflow"],
        customer=None,
        env=row["env"],
        attribution=fields,
        tags=_tags(row["tags"]),
        provider=row["price_provider"] or row["provider"] or "unknown",
        provider_response_id=row["response_id"],
        cache_hit=row["cache_hit"],
        request_model=row["request_model"],
        response_model=row["model"] or row["response_model"],
        operation=row["operation"] or "chat",
        tier=row["tier"],
        region=row["geo"],
        status=row["status"] if row["status"] in {"ok", "error", "cancelled"} else "ok",
        usage=Usage(**{name: row.get(name) for name in COUNTS}),
        speed=row["speed"],
        variant=row["variant"],
        **kept,
        **_cost(row, charges),
    )


def _hashed(field: str, value: str, hashers: Hashers) -> dict[str, str]:
    """What is kept of a private value: its hash and, while two keys are live, the one before."""
    found = {field: hashers.now(field, value)}
    if hashers.before is not None:
        found[HASHED[field]] = hashers.before(field, value)
    return found


def _tags(text: str | None) -> dict[str, str]:
    """What the caller said beside the fields, by name; values that are no texts stay as JSON."""
    try:
        said = msgspec.json.decode(text or "{}", type=dict[str, Any] | list[Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
    pairs: list[tuple[str, Any]]
    if isinstance(said, list):
        pairs = [(name, value) for name, _, value in (str(each).partition(":") for each in said)]
    else:
        pairs = [(name, each) for name, each in said.items() if each is not None]
    return {name: each if isinstance(each, str) else msgspec.json.encode(each).decode() for name, each in pairs}


def _identity(row: Mapping[str, Any], format_: str) -> str:
    """The same for the same call, whatever file it stands in and however often.

    The ids of nobody's format may be row numbers, which begin anew in every table.
    """
    said = row["response_id"] or row["record_id"]
    if said is None or (format_ == GENERIC and said != row["response_id"]):
        said = "" if said is None else f"{said}\0"
        said += "\0".join(
            str(row[name]) for name in ("started_at", "ended_at", "response_model", "key_id", "user", "cost_usd")
        )
        said += "\0".join(str(row.get(name)) for name in COUNTS)
    return "imp_" + hashlib.sha256("\0".join((format_, said)).encode()).hexdigest()[:32]


def _label(row: Mapping[str, Any], label: str, format_: str) -> Field | None:
    """A label with how it is known: the log's own word, then the ownership map's, then the caller's."""
    source = f"log:{format_}"
    if row[label] is not None:
        return Field(row[label], "verified", source)
    if row.get(f"mapped_{label}") is not None:
        return Field(row[f"mapped_{label}"], "inferred", "ownership")
    asserted = row.get(f"asserted_{label}")
    return None if asserted is None else Field(asserted, "asserted", source)


def _cost(row: Mapping[str, Any], charges: tuple[Charge, ...]) -> dict[str, Any]:
    """What the call costs and what that rests on."""
    free = row["cache_hit"] or row["retrieved"]
    charges = () if free else charges
    computed = None if row["expected_usd"] is None else money.total(charge.cost_usd for charge in charges)
    listed = None if computed is None else money.total(charge.list_cost_usd for charge in charges)
    stated, own = row["stated_usd"], row["provider_cost_usd"]
    model = row["model"] or row["response_model"] or ""
    known = {"computed_cost_usd": computed, "list_cost_usd": listed}
    if own is not None:
        difference = money.minus(own, computed or money.ZERO)
        extra = (_flat(difference, model, PROVIDER_CARD),) if difference or computed is None else ()
        return known | _sum(own, (*charges, *extra), "provider_cost") | {"provider_cost_usd": own}
    if computed is not None:
        differs = stated is not None and stated != computed
        return known | _sum(computed, charges, "metered") | {"notes": (f"log_cost:{stated}",) if differs else ()}
    if stated is not None:
        return known | _sum(stated, (_flat(stated, model, LOG_CARD),), "estimated") | {"notes": ("cost_from_log",)}
    return {"basis": "unknown", "reason_unknown": row["reason"] or "usage_missing"}


def _sum(cost: Decimal, charges: tuple[Charge, ...], basis: str) -> dict[str, Any]:
    return {"cost_usd": cost, "charges": charges, "basis": basis, "effective_cost_usd": cost}


def _flat(usd: Decimal, model: str, card: str) -> Charge:
    return Charge(PROVIDER_DIFFERENCE, 1, usd, usd, usd, model, card)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
