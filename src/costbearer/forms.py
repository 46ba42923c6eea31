"""What is filled in to issue, rotate or relabel a key, checked as a whole: every faulty field is named at once. Pure.

The command line and the console's API pass on what they were given; the rules, the words and the defaults are here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import msgspec

from costbearer.errors import FieldInvalid
from costbearer.keys import spoken
from costbearer.labels import OPTIONS, REQUIRE_PRICE, Labels, cleaned, fault, label_faults, option_faults
from costbearer.ledger import DESCRIPTIONS, LABELS

LIFE_MAX = timedelta(days=3660)
"""A life beyond ten years is a slip of the finger; `never` says it on purpose."""
OVERLAP_MAX = timedelta(days=30)
"""Two living secrets are a transition, not a state."""
OVERLAP_DEFAULT = timedelta(hours=24)
NEVER = "never"

_DURATION = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:\d\d)")

REQUIRABLE = (*DESCRIPTIONS, REQUIRE_PRICE)
"""What a key can require: that a caller states a field, or that a call has a price."""

_ISSUE_FIELDS = (*LABELS, *OPTIONS, "require", "expires")
_ROTATE_FIELDS = ("overlap", "expires")
_RELABEL_FIELDS = (*LABELS, "from")


class KeyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A key about to be issued; only `draft` makes one."""

    labels: Labels
    expires_at: datetime | None
    name: str | None = None
    env: str | None = None
    project: str | None = None
    cost_center: str | None = None
    require: tuple[str, ...] = ()


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """A rotation about to be done. `expires_at` is UNSET where the key keeps the expiry it has."""

    overlap: timedelta = OVERLAP_DEFAULT
    expires_at: datetime | msgspec.UnsetType | None = msgspec.UNSET


class Relabelling(msgspec.Struct, frozen=True, kw_only=True):
    """A relabelling about to be done: only the labels that change. `since` None means from now on."""

    changes: dict[str, str]
    since: datetime | None = None


def draft(given: Mapping[str, object], now: datetime, life_days: int) -> KeyDraft:
    """The key that the fields describe. `life_days` holds where `expires` is left out.

    Fields: the four labels; `name`, `env`, `project`, `cost_center`; `require`, a list of fields a caller must assert,
    and of `price` where calls of an unknown price are refused; `expires`: `90d`, `2026-12-31` (00:00 UTC), a time with
    offset, or `never`.

    Raises:
        FieldInvalid: naming every faulty field.
    """
    faults = _unknown(given, _ISSUE_FIELDS) | label_faults(given) | option_faults(given)
    required, wrong = _require(given.get("require"))
    if wrong:
        faults["require"] = wrong
    expires_at, wrong = _expiry(given.get("expires"), now, now + timedelta(days=life_days))
    if wrong:
        faults["expires"] = wrong
    if faults:
        raise FieldInvalid(faults)
    options = {name: cleaned(str(given[name])) for name in OPTIONS if given.get(name) is not None}
    labels = Labels(*(cleaned(str(given[name])) for name in LABELS))
    return KeyDraft(labels=labels, expires_at=expires_at, require=required, **options)


def rotation(given: Mapping[str, object], now: datetime) -> Rotation:
    """The rotation that the fields describe: `overlap` (`24h` if left out, `0` ends the old secret now) and `expires`.

    Raises:
        FieldInvalid: naming every faulty field.
    """
    faults = _unknown(given, _ROTATE_FIELDS)
    overlap: timedelta | None = OVERLAP_DEFAULT
    if given.get("overlap") is not None:
        overlap = duration(given["overlap"])
        if overlap is None:
            faults["overlap"] = f"{_quoted(given['overlap'])} is not a length of time such as 30m, 24h, 7d or 0"
        elif overlap > OVERLAP_MAX:
            faults["overlap"] = f"longer than {OVERLAP_MAX.days} days; two living secrets are for a change-over"
    expires_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    if given.get("expires") is not None:
        expires_at, wrong = _expiry(given["expires"], now, None)
        if wrong:
            faults["expires"] = wrong
    if faults or overlap is None:
        raise FieldInvalid(faults)
    return Rotation(overlap=overlap, expires_at=expires_at)


def relabelling(given: Mapping[str, object], now: datetime) -> Relabelling:
    """The relabelling that the fields describe: one or more labels, and `from`, now or later (now if left out).

    Raises:
        FieldInvalid: naming every faulty field; a past `from` too, because posted entries do not change.
    """
    faults = _unknown(given, _RELABEL_FIELDS)
    named = {name: given[name] for name in LABELS if given.get(name) is not None}
    faults |= {name: words for name, value in named.items() if (words := fault(value)) is not None}
    if not named:
        faults["labels"] = f"nothing changes; name at least one of {', '.join(LABELS)}"
    since = None
    if given.get("from") is not None:
        since = moment(given["from"])
        if since is None:
            faults["from"] = _not_a_time(given["from"])
        elif since < now:
            faults["from"] = (
                f"{spoken(since)} has passed, and posted entries do not change; "
                "leave it out to relabel from now on, or name a later time"
            )
    if faults:
        raise FieldInvalid(faults)
    return Relabelling(changes={name: cleaned(str(value)) for name, value in named.items()}, since=since)


def nothing(given: Mapping[str, object]) -> None:
    """For what takes no fields.

    Raises:
        FieldInvalid: naming those that were given.
    """
    if given:
        raise FieldInvalid({str(name)[:60]: "not a field here; this takes none" for name in given})


def duration(value: object) -> timedelta | None:
    """`30m`, `24h`, `7d`, `2w` or `0`; None for anything else."""
    if not isinstance(value, str):
        return None
    if value == "0":
        return timedelta(0)
    match = _DURATION.fullmatch(value)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def moment(value: object) -> datetime | None:
    """`2026-12-31` (00:00 UTC) or RFC 3339 with Z or an offset, in UTC; None for anything else.

    A time without an offset is none: whose midnight it means would be a guess.
    """
    if not isinstance(value, str):
        return None
    try:
        if _DATE.fullmatch(value):
            day = date.fromisoformat(value)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        if _MOMENT.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return None


def _expiry(value: object, now: datetime, default: datetime | None) -> tuple[datetime | None, str | None]:
    if value is None:
        return default, None
    if value == NEVER:
        return None, None
    length = duration(value)
    expires_at = now + min(length, 2 * LIFE_MAX) if length is not None else moment(value)
    if expires_at is None:
        return None, _not_a_time(value, "90d, ", f" or {NEVER!r}")
    if expires_at <= now:
        return None, f"{spoken(expires_at)} is not in the future"
    if expires_at - now > LIFE_MAX:
        return None, f"{spoken(expires_at)} is more than ten years away; say {NEVER!r} if that is meant"
    return expires_at, None


def _require(value: object) -> tuple[tuple[str, ...], str | None]:
    if value is None:
        return (), None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return (), "must be a list of field names"
    for name in value:
        if name not in REQUIRABLE:
            return (), f"{_quoted(name)} cannot be required; what can is {', '.join(REQUIRABLE)}"
    return tuple(dict.fromkeys(value)), None


def _unknown(given: Mapping[str, object], known: tuple[str, ...]) -> dict[str, str]:
    return {str(name)[:60]: f"not a field here; known are {', '.join(known)}" for name in given if name not in known}


def _not_a_time(value: object, before: str = "", after: str = "") -> str:
    return f"{_quoted(value)} is not a time such as {before}2026-12-31, 2026-12-31T18:00:00Z{after}"


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
