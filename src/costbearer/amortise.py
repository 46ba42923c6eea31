"""Capacity that is paid by time, in the effective cost of the calls that used it.

A commitment of the contract (`contract_rows.Commitment`) costs its fee whether it is used or not, and calls that run on
it cost nothing more (their tier is `provisioned`). Day by day its fee is spread over those calls by their tokens, and
what nobody used stays with nobody: an entry of its own without labels. Over any days, effective costs then add up to
what all other calls cost and the fees, to the last digit. `cost_usd` is untouched: fees are billed apart.

What is posted are entries of the kind `amortisation` whose effective cost is the whole or the change of a share. What
effective cost a call has beyond its cost is its share so far, however it came there, so that doing it again finds what
is missing and nothing else: a call that came late, was corrected or taken back changes the shares of its day. Days are
UTC, because fees are, and whole, because a day's shares follow from all of its calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import ibis
import msgspec
import pyarrow as pa

from costbearer import money
from costbearer.contract import Contract, effective_cost
from costbearer.contract_rows import Commitment
from costbearer.corrections import Closed, never
from costbearer.ledger import AMORTISATION, Entry
from costbearer.price_context import PROVISIONED, Context, words_of
from costbearer.standing import calls as calls_of
from costbearer.usage import Usage

NOBODY = "(none)"
"""The commitment of a share that no commitment accounts for."""
UNUSED = "unused_capacity"
"""The operation of an entry that carries what nobody used of a commitment on one day."""
DAY = timedelta(days=1)
BATCH = 10_000
"""Entries that are posted in one go."""
LOOK_BACK = timedelta(days=40)
"""How far back the console looks by itself, once a day: calls of the month before are still corrected in this one."""
LATELY = timedelta(days=2)
"""How far back it looks in between, for the day that has just ended."""

_NOTE = "commitment:"
_USE = ("provider", "price_provider", "request_model", "response_model", "tier", "speed", "region")


class Reader(Protocol):
    """One state of the ledger."""

    @property
    def entries(self) -> Any: ...

    def execute(self, expression: Any, /) -> pa.Table: ...


class Ledger(Protocol):
    """What can be read."""

    def reader(self) -> AbstractContextManager[Reader]: ...

    def entries(self, identities: Sequence[tuple[str, int]], /) -> list[Entry]: ...


class Books(Protocol):
    """What posts, and the block in which nobody else does (`Bookkeeper.posting`)."""

    def posting(self) -> AbstractContextManager[None]: ...

    def record(self, entries: Iterable[Entry], /) -> int: ...


class Share(NamedTuple):
    """One call's part of a day's fee: what it is now, and what was posted of it. `call` is its (journal, sequence)."""

    call: tuple[str, int]
    team: str | None
    model: str | None
    tokens: int
    share_usd: Decimal
    posted_usd: Decimal


class DayOfCommitment(NamedTuple):
    """A commitment on one day: its fee, each call's share, and what nobody used, now and as posted."""

    commitment: Commitment
    day: datetime
    fee_usd: Decimal
    shares: tuple[Share, ...]
    unused_usd: Decimal
    unused_posted_usd: Decimal


def amortise(
    ledger: Ledger,
    books: Books,
    contract: Contract | None,
    *,
    since: datetime,
    until: datetime,
    now: datetime,
    apply: bool,
    closed: Closed = never,
) -> dict[str, Any]:
    """Spread the fees of the whole days in `[since, until)` that are over; with `apply` what is missing is posted, for
    days of a closed month, as `closed` says, in the open one.

    Each day of a commitment is posted in batches; who is cut off in between posts the rest the next time.

    Raises:
        PostingBusy: somebody else posts for too long; the days before are posted.
        StoreFailed, JournalFailed: the ledger cannot be read, or the entries not be posted.
    """
    days = list(_days(since, min(until, now)))
    found: list[DayOfCommitment] = []
    posted = 0 if apply else None
    for day in days:
        with books.posting() if apply else contextlib.nullcontext():
            for each in _of_day(ledger, contract, day):
                found.append(each)
                if posted is not None:
                    posted += _post(ledger, books, each, now, in_open_month=closed(day))
    return _document(found, since=since, until=until, days=len(days), applied=posted)


class Amortiser:
    """Posts what is missing of the days that are over, whenever it looks. One thread does."""

    def __init__(
        self, ledger: Ledger, books: Books, contract: Callable[[], Contract | None], closed: Closed = never
    ) -> None:
        self._ledger = ledger
        self._books = books
        self._contract = contract
        self._closed = closed
        self._looked = datetime.min.replace(tzinfo=UTC)

    def look(self) -> None:
        """The last days, and once a day `LOOK_BACK`. What a failure leaves missing is found again the next time.

        Raises:
            StoreFailed, JournalFailed: as `amortise`.
        """
        held, now = self._contract(), datetime.now(UTC)
        if held is None or not held.commitments:
            return
        far = now - self._looked >= DAY
        since = now - (LOOK_BACK if far else LATELY)
        amortise(self._ledger, self._books, held, since=since, until=now, now=now, apply=True, closed=self._closed)
        self._looked = now if far else self._looked


def _days(since: datetime, until: datetime) -> Iterator[datetime]:
    """The beginnings of the whole days between, in UTC."""
    begin = since.astimezone(UTC)
    day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    day += DAY if day < begin else timedelta()
    while day + DAY <= until:
        yield day
        day += DAY


def _of_day(ledger: Ledger, contract: Contract | None, day: datetime) -> list[DayOfCommitment]:
    """Every commitment that costs something on that day, or of which something is posted for it."""
    known = () if contract is None else contract.commitments
    commitments = {each.name: each for each in known if each.holds(day.date())}
    with ledger.reader() as reader:
        calls = _calls(reader, contract, day)
        unused = _unused_posted(reader, day)
    found = [
        _spread(commitment, day, calls.pop(name, []), unused.pop(name, money.ZERO))
        for name, commitment in commitments.items()
    ]
    # What was posted of commitments that the contract does not know any more is taken back.
    for name in sorted(calls.keys() | unused.keys()):
        gone = Commitment(name=name, provider=NOBODY, fee_usd=money.ZERO, every="month")
        found.append(_spread(gone, day, calls.get(name, []), unused.get(name, money.ZERO)))
    return found


def _spread(commitment: Commitment, day: datetime, calls: list[dict[str, Any]], unused: Decimal) -> DayOfCommitment:
    tokens = [row["tokens"] if commitment.provider != NOBODY else 0 for row in calls]
    spread = effective_cost(commitment, day, "day", tokens)
    shares = tuple(
        Share((row["journal"], row["sequence"]), row["team"], row["model"], used, part, row["posted"])
        for row, used, part in zip(calls, tokens, spread.shares_usd, strict=True)
    )
    return DayOfCommitment(commitment, day, spread.fee_usd, shares, spread.unused_usd, unused)


def _calls(reader: Reader, contract: Contract | None, day: datetime) -> dict[str, list[dict[str, Any]]]:
    """By commitment the calls of the day that ran on it, as they stand, in the order of their journals; under `NOBODY`
    those that have a share and ran on none."""
    standing = _standing(reader, day)
    uses = reader.execute(standing.select(*_USE).distinct()).to_pylist()
    named = [
        {"commitment": _commitment_of(use, contract, day), **{key: use[key] or "" for key in _USE}} for use in uses
    ]
    rows = pa.Table.from_pylist(named, schema=pa.schema([(key, pa.string()) for key in ("commitment", *_USE)]))
    met = standing.mutate(**{key: ibis.coalesce(standing[key], "") for key in _USE}).join(ibis.memtable(rows), _USE)
    met = met.filter(met.commitment.notnull() | (met.posted != 0))
    wanted = met.select(
        "journal",
        "sequence",
        "team",
        "posted",
        commitment=ibis.coalesce(met.commitment, NOBODY),
        model=ibis.coalesce(met.response_model.nullif(""), met.request_model.nullif("")),
        tokens=ibis.coalesce(met.input_tokens, 0) + ibis.coalesce(met.output_tokens, 0),
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in reader.execute(wanted.order_by(["journal", "sequence"])).to_pylist():
        found.setdefault(row["commitment"], []).append(row)
    return found


def _standing(reader: Reader, day: datetime) -> Any:
    """The calls of a day whose cost is known, without those that were reversed, with the share each has so far."""
    entries = reader.entries.mutate(
        beyond=ibis.coalesce(reader.entries.effective_cost_usd, reader.entries.cost_usd) - reader.entries.cost_usd
    )
    differences = entries.filter((entries.calls == 0) & entries.refers_to.notnull())
    differences = differences.group_by("refers_to").aggregate(more=differences.beyond.sum())
    calls = calls_of(entries, day, day + DAY)
    calls = calls.filter(calls.cost_usd.notnull())
    met = calls.left_join(differences, calls.entry_id == differences.refers_to)
    kind = calls.cost_usd.type()
    posted = calls.beyond.cast(kind) + ibis.coalesce(differences.more, 0).cast(kind)
    names = ("journal", "sequence", "team", *_USE, "input_tokens", "output_tokens")
    return met.select(*(calls[name] for name in names), posted=posted.cast(kind))


def _commitment_of(use: Mapping[str, Any], contract: Contract | None, day: datetime) -> str | None:
    """The commitment that such a call ran on: one that covers it, where its tier is capacity paid by time."""
    if contract is None:
        return None
    provider = use["price_provider"] or use["provider"]
    special = words_of(provider, Context(use["tier"], use["speed"], use["region"]))
    if special.get("tier") != PROVISIONED:
        return None
    model = use["response_model"] or use["request_model"] or ""
    found = contract.commitment_for(provider, model, use["request_model"], day)
    return None if found is None else found.name


def _unused_posted(reader: Reader, day: datetime) -> dict[str, Decimal]:
    """By commitment what was posted as unused of it on a day."""
    entries = reader.entries
    of_day = entries.call_id.endswith(_of(day))
    mine = entries.filter((entries.kind == AMORTISATION) & entries.refers_to.isnull() & of_day)
    found: dict[str, Decimal] = {}
    for row in reader.execute(mine.select("notes", "effective_cost_usd")).to_pylist():
        name = next(note.removeprefix(_NOTE) for note in row["notes"] if note.startswith(_NOTE))
        found[name] = money.total((found.get(name, money.ZERO), row["effective_cost_usd"]))
    return found


def _post(ledger: Ledger, books: Books, of: DayOfCommitment, now: datetime, *, in_open_month: bool) -> int:
    """Post what is missing of a day, what nobody used with the first batch."""
    due = [share for share in of.shares if share.share_usd != share.posted_usd]
    begun = {"started_at": now} if in_open_month else {}
    first = [msgspec.structs.replace(_unused(of, now), **begun)] if of.unused_usd != of.unused_posted_usd else []
    posted = 0
    for start in range(0, max(len(due), len(first)), BATCH):
        batch = due[start : start + BATCH]
        calls = ledger.entries([share.call for share in batch]) if batch else []
        entries = [
            msgspec.structs.replace(_share(call, share, of, now), **begun)
            for call, share in zip(calls, batch, strict=True)
        ]
        posted += books.record([*(first if start == 0 else []), *entries])
    return posted


def _share(call: Entry, share: Share, of: DayOfCommitment, now: datetime) -> Entry:
    """The change of one call's share, under the call's own labels and time."""
    return msgspec.structs.replace(
        call,
        refers_to=call.entry_id,
        **_money_only(of, money.minus(share.share_usd, share.posted_usd), max(now, call.started_at)),
    )


def _unused(of: DayOfCommitment, now: datetime) -> Entry:
    commitment = of.commitment
    called = commitment.name + _of(of.day)
    empty = Entry(
        journal="",
        sequence=0,
        request_id=called,
        call_id=called,
        started_at=of.day,
        provider=commitment.provider,
        operation=UNUSED,
    )
    return msgspec.structs.replace(
        empty, **_money_only(of, money.minus(of.unused_usd, of.unused_posted_usd), max(now, of.day))
    )


def _of(day: datetime) -> str:
    """How the ids of a day's unused capacity end."""
    return f".{day:%Y-%m-%d}"


def _money_only(of: DayOfCommitment, amount: Decimal, at: datetime) -> dict[str, Any]:
    """The fields of an entry that carries an effective cost and nothing else that adds."""
    return {
        "kind": AMORTISATION,
        "calls": 0,
        "requests": 0,
        "ended_at": at,
        "first_byte_ms": None,
        "duration_ms": None,
        "status": "ok",
        "usage": Usage(),
        "charges": (),
        "cost_usd": money.ZERO,
        "list_cost_usd": money.ZERO,
        "computed_cost_usd": money.ZERO,
        "provider_cost_usd": None,
        "effective_cost_usd": amount,
        "basis": "metered",
        "bound_usd": None,
        "reason_unknown": None,
        "settlement": None,
        "work": (),
        "notes": (_NOTE + of.commitment.name,),
    }


def _document(
    found: Sequence[DayOfCommitment], *, since: datetime, until: datetime, days: int, applied: int | None
) -> dict[str, Any]:
    """The API's and the command's answer: per commitment its fee and who bore how much of it."""
    sums: dict[str, dict[tuple[str | None, str | None], list[Share]]] = {}
    fees: dict[str, list[Decimal]] = {}
    unused: dict[str, list[Decimal]] = {}
    missing = 0
    for each in found:
        name = each.commitment.name
        fees.setdefault(name, []).append(each.fee_usd)
        unused.setdefault(name, []).append(each.unused_usd)
        missing += (each.unused_usd != each.unused_posted_usd) + sum(
            share.share_usd != share.posted_usd for share in each.shares
        )
        for share in each.shares:
            sums.setdefault(name, {}).setdefault((share.team, share.model), []).append(share)
    commitments = [
        {
            "commitment": name,
            "fee_usd": money.text(money.total(fees[name])),
            "unused_usd": money.text(money.total(unused[name])),
            "rows": [
                {
                    "team": team,
                    "model": model,
                    "calls": sum(bool(share.tokens) for share in shares),
                    "tokens": sum(share.tokens for share in shares),
                    "effective_cost_usd": money.text(money.total(share.share_usd for share in shares)),
                }
                for (team, model), shares in sorted(
                    sums.get(name, {}).items(), key=lambda item: (item[0][0] or "", item[0][1] or "")
                )
            ],
        }
        for name in sorted(fees)
    ]
    return {
        "since": _stamp(since),
        "until": _stamp(until),
        "days": days,
        "commitments": commitments,
        "missing": missing,
        "applied": applied,
    }


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
