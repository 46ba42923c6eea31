"""Looking prices up and changing what holds: the answers that commands and API give, on one directory of prices.

Every method gives a plain document. Nothing is changed but by adding: archives and contracts are kept for ever, and the
file that says which of them hold remembers what held before.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from costbearer import money
from costbearer.contract import Contract
from costbearer.contract_rows import matches, term
from costbearer.errors import NotFound, PricesInvalid, QueryInvalid, StoreFailed
from costbearer.price_archive import Archive, faults
from costbearer.price_changes import Change, compare
from costbearer.prices import Card, Context, PriceBook, Unrated
from costbearer.rate_card import Price
from costbearer.stores import archive
from costbearer.stores.acts import note
from costbearer.stores.control import Actor
from costbearer.stores.sqlite import Database
from costbearer.usage import METER

Document = dict[str, Any]

FAULTS_SHOWN = 5
"""Faults of an archive that its refusal names; there are seldom more than one, or else there are thousands."""
ARCHIVE_BYTES_MAX = 32 * 1024 * 1024
_HASH = re.compile(r"[0-9a-f]{6,64}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Cards:
    """Every price archive and contract that was ever kept, for what charges rest on. Read when first asked."""

    def __init__(self, prices_dir: Path) -> None:
        self._dir = prices_dir

    @cached_property
    def books(self) -> list[PriceBook]:
        return [PriceBook.loads(archive.load(self._dir, digest)) for digest in archive.all_hashes(self._dir)]

    @cached_property
    def contracts(self) -> list[Contract]:
        kept = archive.all_contracts(self._dir)
        return [Contract.loads(archive.load_contract(self._dir, digest)) for digest in kept]

    def find(self, card_id: str) -> Card | None:
        """The card of that id; None where nothing that was kept has it.

        Raises:
            StoreFailed: an archive or a contract cannot be read.
        """
        found_by = [*(book.card for book in self.books), *(contract.find_card for contract in self.contracts)]
        return next((found for find in found_by if (found := find(card_id)) is not None), None)


class Desk:
    """The prices of one data directory. `now` is asked for the moment where none is given; `acts` has the audit log
    into which changes go."""

    def __init__(
        self,
        prices_dir: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        acts: Database | None = None,
    ) -> None:
        self._dir = prices_dir
        self._now = now
        self._acts = acts

    # -- looking

    def listed(self, *, provider: str | None = None, model: str = "*", at: datetime | None = None) -> Document:
        """The standard prices of every model whose id matches, those a contract prices beside the public ones.

        Raises:
            NotFound: no such provider.
        """
        when = at or self._now()
        held, book, contract = self._books()
        if provider is not None and provider not in book.providers():
            raise NotFound(f"no provider {provider!r}; known are {', '.join(book.providers())}")
        rows = []
        for name in [provider] if provider is not None else book.providers():
            for each in book.models(name):
                if matches(model, each):
                    card = book.standard(name, each, when)
                    rows.append({"provider": name, "model": each, **_card(card, contract, when)})
        return {**self._head(held, when), "prices": rows}

    def shown(self, model: str, *, provider: str | None = None, at: datetime | None = None) -> Document:
        """Everything that is known of a model's prices: every context at that moment, and every card before and after.

        Raises:
            NotFound: nobody has such a model.
        """
        when = at or self._now()
        held, book, contract = self._books()
        known = book.providers_of(model)
        named = provider or next(iter((*known, *(contract.sellers(model) if contract else ()))), "")
        cards = book.every(named, model, when)
        past = book.past(named, model)
        if isinstance(cards, Unrated) or isinstance(past, Unrated):
            own = contract.card(named, model, Context(), when) if contract is not None else None
            if own is None:
                hint = f"; known to {', '.join(known)}" if known else ""
                raise NotFound(f"no price for model {model!r}{f' at {provider}' if provider else ''}{hint}")
            cards, past = [own], []
        return {
            **self._head(held, when),
            "provider": named,
            "model": cards[0].model,
            "asked": model,
            "also_at": [each for each in known if each != named],
            "cards": [_card(card, contract, when) for card in cards],
            "history": [_card(card, contract, _first_moment(card)) for card in past],
        }

    def archives(self) -> Document:
        """What held when, the newest first, and every archive and contract that is kept."""
        held = archive.history(self._dir)
        bundled = hashlib.sha256(archive.bundled()).hexdigest()
        return {
            "bundled": bundled,
            "held": [_held(each) for each in reversed(held)],
            "archives": archive.all_hashes(self._dir),
            "contracts": archive.all_contracts(self._dir),
        }

    def find(self, reference: str) -> bytes:
        """The archive a reference means: `current`, `bundled`, the first digits of its hash, or a day it held on.

        Raises:
            NotFound: none, or more than one.
        """
        if reference == "current":
            return archive.current(self._dir).archive
        bundled = archive.bundled()
        if reference == "bundled":
            return bundled
        if _DAY.fullmatch(reference):
            try:
                return self._of_day(date.fromisoformat(reference))
            except ValueError:
                raise NotFound(f"{reference} is no day of any calendar") from None
        if not _HASH.fullmatch(reference):
            raise NotFound(f"{reference!r} is no archive; give current, bundled, a day, or 6 or more digits of a hash")
        known = {*archive.all_hashes(self._dir), hashlib.sha256(bundled).hexdigest()}
        found = sorted(each for each in known if each.startswith(reference))
        if len(found) != 1:
            raise NotFound(f"{'no archive begins' if not found else 'more than one archive begins'} with {reference}")
        return bundled if found[0] not in archive.all_hashes(self._dir) else archive.load(self._dir, found[0])

    def difference(self, old: str, new: str) -> Document:
        """What two kept archives say otherwise."""
        return difference(self.find(old), self.find(new), self._now().date())

    # -- changing

    def update(self, data: bytes | None, *, by: Actor, check: bool = False) -> Document:
        """Take an archive, the bundled one where none is given. With `check` nothing is changed.

        Raises:
            PricesInvalid: it contradicts itself; the message names the rows.
        """
        new = archive.bundled() if data is None else data
        checked(new)
        held = archive.current(self._dir)
        document = difference(held.archive, new, self._now().date())
        same = document["from"] == document["to"]
        if not check and not (same and held.revision):
            what = f"update to {document['to'][:12]}"
            with self._noted("prices.update", by, {"archive": document["to"]}, {"archive": document["from"]}):
                archive.hold(self._dir, expected=held.revision, archive=new, by=by.who, what=what)
        return {**document, "unchanged": same, "taken": not check}

    def take_contract(self, data: bytes, *, by: Actor) -> Document:
        """Let a contract's file hold in place of the one before.

        Raises:
            PricesInvalid: naming the line.
        """
        contract = Contract.loads(data)
        held = archive.current(self._dir)
        with self._noted("prices.contract", by, {"contract": contract.hash}):
            archive.hold(
                self._dir, expected=held.revision, contract=data, by=by.who, what=f"contract {contract.hash[:12]}"
            )
        return _contract(contract)

    def set_term(self, fields: Mapping[str, object], *, by: Actor) -> Document:
        """Add one term to the contract that holds. It begins today where no day is given, and ends an open one before.

        Raises:
            PricesInvalid: naming the field, or the term it contradicts.
        """
        new = term({"since": self._now().date(), **fields})
        held = archive.current(self._dir)
        contract = Contract.loads(held.contract or b"").with_term(new)
        data = contract.dumps()
        what = f"term for {new.provider}/{new.model}"
        with self._noted("prices.term", by, {"contract": hashlib.sha256(data).hexdigest(), "what": what}):
            archive.hold(self._dir, expected=held.revision, contract=data, by=by.who, what=what)
        return _contract(contract)

    def contract(self) -> Document:
        """The contract that holds: its rows, and its file as it was given."""
        data = archive.current(self._dir).contract or b""
        return {**_contract(Contract.loads(data)), "content": data.decode()}

    # -- in between

    @contextlib.contextmanager
    def _noted(
        self, action: str, by: Actor, after: Mapping[str, object], before: Mapping[str, object] | None = None
    ) -> Iterator[None]:
        """Write down the change that is made inside; without the row there is no change."""
        if self._acts is None:
            yield
            return
        with self._acts.writing() as connection:
            note(connection, by, action, self._now(), after, before)
            yield

    def _books(self) -> tuple[archive.Current, PriceBook, Contract | None]:
        held = archive.current(self._dir)
        return held, PriceBook.loads(held.archive), Contract.loads(held.contract) if held.contract else None

    def _head(self, held: archive.Current, when: datetime) -> Document:
        return {
            "at": when.astimezone(UTC).isoformat(),
            "archive": hashlib.sha256(held.archive).hexdigest(),
            "contract": hashlib.sha256(held.contract).hexdigest() if held.contract else None,
            "revision": held.revision,
            "newer_bundled": held.revision > 0 and held.archive != archive.bundled(),
        }

    def _of_day(self, day: date) -> bytes:
        """What held when the day ended; the archive of before anything was said is not known."""
        held = [each for each in archive.history(self._dir) if each.since is not None and each.since.date() <= day]
        if not held:
            raise NotFound(f"no archive held on {day}")
        return archive.load(self._dir, held[-1].archive)


def moment(text: str) -> datetime:
    """A moment as written: a day, which begins at midnight UTC, or a time with its offset.

    Raises:
        QueryInvalid: it is neither.
    """
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(0), UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise QueryInvalid({"at": f"{text[:40]!r} is not a day such as 2026-12-31, or a time with its offset"})
    return found.astimezone(UTC)


def packed(data: bytes) -> str:
    """A file as it goes to a server: gzip in base64, so that an archive fits into a request."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def unpacked(text: str) -> bytes:
    """The file that `packed` packed.

    Raises:
        PricesInvalid: it is none, or too large.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(text, validate=True))) as stream:
            data = stream.read(ARCHIVE_BYTES_MAX + 1)
    except (ValueError, OSError, EOFError, zlib.error):
        data = None
    # An empty text is no gzip either, though it reads as an empty file.
    if data is None or not text:
        raise PricesInvalid("the file is not gzip in base64")
    if len(data) > ARCHIVE_BYTES_MAX:
        raise PricesInvalid(f"the file has more than {ARCHIVE_BYTES_MAX:,} bytes")
    return data


def checked(data: bytes) -> Archive:
    """An archive that may be taken.

    Raises:
        PricesInvalid: it is none, or contradicts itself; the message names the rows.
    """
    read = _read(data)
    found = list(faults(read))
    if found:
        more = f"; and {len(found) - FAULTS_SHOWN} more" if len(found) > FAULTS_SHOWN else ""
        raise PricesInvalid("; ".join(found[:FAULTS_SHOWN]) + more)
    return read


def _read(data: bytes) -> Archive:
    if len(data) > ARCHIVE_BYTES_MAX:
        raise PricesInvalid(f"a price archive has at most {ARCHIVE_BYTES_MAX:,} bytes; this one has {len(data):,}")
    try:
        PriceBook.loads(data)
        return msgspec.json.decode(data, type=Archive)
    except StoreFailed as error:
        raise PricesInvalid(error.message) from None


def is_archive(data: bytes) -> bool:
    """Whether a file of prices is an archive, rather than a contract."""
    return data.lstrip()[:1] == b"{"


def difference(old: bytes, new: bytes, today: date) -> Document:
    """What two archives say otherwise, the findings first.

    Raises:
        PricesInvalid: one of them is none.
    """
    changes = compare(_read(old), _read(new), today)
    return {
        "from": hashlib.sha256(old).hexdigest(),
        "to": hashlib.sha256(new).hexdigest(),
        "findings": sum(change.is_finding for change in changes),
        "changes": [_change(change) for change in changes],
    }


def price_rows(card: Document) -> Iterator[Document]:
    """The prices of a card's document, one row per meter and step: what CSV shows."""
    for price in card["prices"]:
        steps = [{"above_input_tokens": None, "price_usd": price["price_usd"]}, *price["steps"]]
        contracted = (
            [*price["contract_steps_usd"], *[None] * len(steps)] if price["contract_usd"] else [None] * len(steps)
        )
        for place, step in enumerate(steps):
            yield {
                "meter": price["meter"],
                "unit": price["unit"],
                "above_input_tokens": step["above_input_tokens"],
                "price_usd": step["price_usd"],
                "contract_usd": price["contract_usd"] if place == 0 else contracted[place - 1],
            }


def _card(card: Card, contract: Contract | None, when: datetime) -> Document:
    contracted = (contract.at(card, when) if contract is not None else None) or {}
    own = [meter for meter in contracted if meter not in card.prices]
    return {
        "context": card.context,
        "valid_from": card.valid_from.isoformat() if card.valid_from else None,
        "valid_until": card.valid_until.isoformat() if card.valid_until else None,
        "hours": card.hours,
        "context_window": card.context_window,
        "source": card.source,
        "card": card.id,
        "prices": [
            *(_price(meter, price, contracted.get(meter)) for meter, price in card.prices.items()),
            *(_price(meter, None, contracted[meter]) for meter in own),
        ],
        "unmetered": [_price(unit, price, None) for unit, price in card.unmetered.items()],
    }


def _price(meter: str, price: Price | None, contracted: Price | None) -> Document:
    return {
        "meter": meter,
        "unit": METER[meter].unit if meter in METER else "",
        "price_usd": money.text(price.base) if price else None,
        "steps": [
            {"above_input_tokens": threshold, "price_usd": money.text(stepped)}
            for threshold, stepped in (price.steps if price else ())
        ],
        "contract_usd": money.text(contracted.base) if contracted else None,
        "contract_steps_usd": [money.text(stepped) for _, stepped in (contracted.steps if contracted else ())],
    }


def _first_moment(card: Card) -> datetime:
    day = card.valid_from or card.valid_until or date(2020, 1, 1)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _contract(contract: Contract) -> Document:
    return {
        "contract": contract.hash,
        "terms": [
            {
                **{name: getattr(each, name) for name in ("provider", "model", "tier", "geo")},
                "since": each.since.isoformat() if each.since else None,
                "until": each.until.isoformat() if each.until else None,
                "discount": f"{each.discount:f}" if each.discount is not None else None,
                "prices": {meter: money.text(price) for meter, price in each.prices.items()},
            }
            for each in contract.terms
        ],
        "commitments": [
            {
                **{name: getattr(each, name) for name in ("name", "provider", "model", "deployment", "every")},
                "fee_usd": money.text(each.fee_usd),
                "since": each.since.isoformat() if each.since else None,
                "until": each.until.isoformat() if each.until else None,
            }
            for each in contract.commitments
        ],
    }


def _held(held: archive.Held) -> Document:
    return {
        "revision": held.revision,
        "since": held.since.isoformat() if held.since else None,
        "by": held.by,
        "what": held.what,
        "archive": held.archive,
        "contract": held.contract,
    }


def _change(change: Change) -> Document:
    return {
        "code": change.code,
        "finding": change.is_finding,
        "provider": change.provider or None,
        "model": change.model or None,
        "context": change.context or None,
        "day": change.day.isoformat() if change.day else None,
        "old": change.old,
        "new": change.new,
    }
