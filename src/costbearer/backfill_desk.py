"""What can be done about spend that came before: the list, labelling a key's past, replacing keys. For API and command.

Every method takes plain fields and gives back the document that both show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from costbearer import backfill, forms, money
from costbearer.corrections import Closed
from costbearer.errors import Conflict, FieldInvalid, NotFound
from costbearer.keys import stamp
from costbearer.labels import cleaned, label_faults
from costbearer.ledger import LABELS
from costbearer.owners import OwnerRow
from costbearer.standing import Books, Ledger
from costbearer.stores.control import Actor, Control
from costbearer.stores.directory import Directory, Replacement

KEYS_MAX = 1_000
"""Keys that are replaced in one go: their secrets are shown once, in one list."""
KEY_CHARACTERS_MAX = 1024
_NAME_OF_OLD = 40


class _Wanted(NamedTuple):
    """A key to be replaced, and the labels of the one that replaces it."""

    old_key: str
    labels: dict[str, str]


class BackfillDesk:
    """One per data directory."""

    def __init__(
        self,
        directory: Directory,
        control: Control,
        ledger: Ledger,
        books: Books,
        *,
        closed: Callable[[], Closed],
        gateway_url: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._directory, self._control = directory, control
        self._ledger, self._books, self._closed = ledger, books, closed
        self._gateway_url, self._now = gateway_url, now

    def listed(self) -> dict[str, Any]:
        """The keys whose spend nobody wholly bears, what to do about each, and how far it has come."""
        with self._ledger.reader() as reader:
            found, total = backfill.survey(reader)
        replaced = {each.old_key: each for each in self._directory.replacements()}
        labelled = {row.value for row in self._directory.owners() if row.kind == "key"}

        def known(key: str) -> backfill.Replaced:
            own = replaced.get(key)
            if own is None:
                return backfill.Replaced(labelled=key in labelled)
            return backfill.Replaced(own.key_id, own.expires_at, key in labelled)

        return backfill.document(found, total, known, self._now())

    def label(self, given: Mapping[str, object], actor: Actor) -> dict[str, Any]:
        """What labelling a key moves; with `apply` the map has the row and the calls are posted under it.

        Fields: `key`, the four labels, `from` (a day; from ever unless given), `apply`.

        Raises:
            FieldInvalid: naming every faulty field.
            NotFound: no call of that key lacks a label.
            PostingBusy: somebody else posts for too long.
        """
        faults = dict.fromkeys(set(given) - {"key", *LABELS, "from", "apply"}, "unknown field")
        faults |= label_faults(given)
        key = _text(given.get("key"), "key", faults)
        since = _since(given.get("from"), faults)
        if not isinstance(given.get("apply", False), bool):
            faults["apply"] = "must be true or false"
        if faults:
            raise FieldInvalid(faults)
        labels = {name: cleaned(str(given[name])) for name in LABELS}
        apply = given.get("apply") is True
        with self._books.posting() if apply else contextlib.nullcontext():
            closed = self._closed()
            with self._ledger.reader() as reader:
                calls = backfill.affected(reader, key, since)
            if not len(calls):
                raise NotFound(f"no call of key {key[:60]!r} lacks a label{' from then on' if since else ''}")
            moved = backfill.months(calls, closed)
            applied = None
            if apply:
                self._directory.add_owners([OwnerRow("key", key, since, labels)], actor)
                applied = backfill.reattribute(self._ledger, self._books, key, labels, since, closed)
        return {
            "key": key,
            **labels,
            "from": None if since is None else stamp(since),
            "calls": sum(each.calls for each in moved),
            "cost_usd": money.text(money.total(each.cost_usd for each in moved)),
            "months": [
                {"month": each.month, "calls": each.calls, "cost_usd": money.text(each.cost_usd), "closed": each.closed}
                for each in moved
            ],
            "applied": applied,
        }

    def rotate(self, given: Mapping[str, object], actor: Actor) -> dict[str, Any]:
        """Issue a virtual key for each of these keys, and say by when the old ones must be gone.

        Fields: `keys`, a list of objects with `key` and the four labels; `expires`, a day or a length of time.

        Raises:
            FieldInvalid: naming every faulty row; nothing is issued then.
            Conflict: one was replaced before; nothing is issued.
        """
        faults = dict.fromkeys(set(given) - {"keys", "expires"}, "unknown field")
        now = self._now()
        length = forms.duration(given.get("expires"))
        expires = forms.moment(given.get("expires")) if length is None else now + min(length, forms.LIFE_MAX)
        if expires is None or expires <= now:
            faults["expires"] = "must be a day to come (2026-12-31) or a length of time (30d)"
        wanted = _rows(given.get("keys"), faults)
        if faults or expires is None:
            raise FieldInvalid(faults)
        before = {each.old_key for each in self._directory.replacements()}
        again = [each.old_key for each in wanted if each.old_key in before]
        if again:
            raise Conflict(f"replaced before: {', '.join(key[:60] for key in again[:5])}; nothing is issued")
        with self._control.database.together():
            made = [self._replaced(each, expires, now, actor) for each in wanted]
        return {"expires_at": stamp(expires), "keys": made}

    def _replaced(self, each: _Wanted, expires: datetime, now: datetime, actor: Actor) -> dict[str, Any]:
        fields: dict[str, object] = {**each.labels, "name": f"replaces {each.old_key[:_NAME_OF_OLD]}"}
        draft = forms.draft(fields, now, forms.LIFE_MAX.days)
        issued = self._control.issue(draft, actor)
        found = Replacement(each.old_key, issued.record.key_id, each.labels["owner"], expires)
        self._directory.replace(found, actor)
        return {"old_key": each.old_key, **issued.document(now, self._gateway_url)}


def _rows(given: object, faults: dict[str, str]) -> list[_Wanted]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not 0 < len(given) <= KEYS_MAX:
        faults["keys"] = f"must be a list of 1 to {KEYS_MAX} objects with key, {', '.join(LABELS)}"
        return []
    found: list[_Wanted] = []
    for number, row in enumerate(given, 1):
        place = f"keys, row {number}"
        if not isinstance(row, Mapping) or set(row) - {"key", *LABELS}:
            faults[place] = f"must have key, {', '.join(LABELS)} and nothing else"
            continue
        wrong = label_faults(row)
        own: dict[str, str] = {}
        key = _text(row.get("key"), "key", own)
        if key in {each.old_key for each in found}:
            own["key"] = "is named before"
        wrong |= own
        if wrong:
            faults[place] = "; ".join(f"{name}: {words}" for name, words in wrong.items())
        else:
            found.append(_Wanted(key, {name: cleaned(str(row[name])) for name in LABELS}))
    return found


def _text(value: object, name: str, faults: dict[str, str]) -> str:
    if isinstance(value, str) and 0 < len(value.strip()) <= KEY_CHARACTERS_MAX:
        return value
    faults[name] = f"must be a text of 1 to {KEY_CHARACTERS_MAX} characters"
    return ""


def _since(value: object, faults: dict[str, str]) -> datetime | None:
    if value is None:
        return None
    found = forms.moment(value)
    if found is None:
        faults["from"] = "must be a day such as 2026-08-01, or a time with its offset"
    return found
