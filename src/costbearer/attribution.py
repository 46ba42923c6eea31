"""Who bears a call: the key's labels, what the caller says beside them, and who vouches for each. Pure.

A key's labels are *verified*: the caller proved possession of the key. Tags in the body, the `x-costbearer-tags` header
and W3C `baggage` are *asserted*: kept, reported, never believed over the key. Where two sources differ, the first in
`PRECEDENCE` holds and the other is kept as a conflict.

Baggage and traceparent follow W3C Baggage (8192 bytes, percent-encoded values, properties behind `;`) and W3C Trace
Context (`00-<32 hex>-<16 hex>-<2 hex>`, all-zero ids invalid).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from costbearer.errors import LabelMissing, TagMalformed
from costbearer.ledger import HASHED, Claim, Entry, Field, Provenance

TAGS_MAX = 32
"""Tags of one call, all sources together: a call is described, not documented."""
TAG_NAME_CHARS_MAX = 64
TAG_VALUE_CHARS_MAX = 256
TAGS_HEADER_BYTES_MAX = 8192
BAGGAGE_BYTES_MAX = 8192
"""What W3C Baggage requires a propagator to carry; a longer header is ignored as a whole and noted."""

ATTRIBUTIONS_KNOWN_MAX = 512
"""How many attributions an `Attributor` remembers before it begins afresh; callers choose what they say."""

PRECEDENCE: tuple[tuple[str, Provenance], ...] = (
    ("key", "verified"),
    ("header", "asserted"),
    ("body", "asserted"),
    ("baggage", "asserted"),
)
"""Sources, the one that is believed first. Only a key verifies."""

FIELD_OF_TAG: Mapping[str, str] = {
    "owner": "owner",
    "team": "team",
    "owner_team": "team",
    "agent": "agent",
    "workload": "workload",
    "project": "project",
    "cost_center": "cost_center",
    "feature": "feature",
    "workflow": "workflow",
    "workflow_id": "workflow",
    "customer": "customer",
    "customer_id": "customer",
    "tenant": "tenant",
    "tenant_id": "tenant",
    "user": "user",
    "user_id": "user",
    "session": "session_id",
    "session_id": "session_id",
    "env": "env",
}
"""Tags and baggage members that are fields of the entry; every other tag goes into its tag map."""

_TAG_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.\-/]{{0,{TAG_NAME_CHARS_MAX - 1}}}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_BLANK = Entry(
    journal="", sequence=0, request_id="", call_id="", started_at=datetime.min.replace(tzinfo=UTC), provider=""
)

Hasher = Callable[[str, str], str]
"""(field, value) -> keyed hash as text."""


class Hashers(NamedTuple):
    """What hashes under the active key and, while two are live, under the one before."""

    now: Hasher
    before: Hasher | None = None


class Bearer(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True, gc=False):
    """What a key says of every call made with it. `require` names fields that the caller must assert."""

    key_id: str
    owner: str
    team: str
    agent: str
    workload: str
    project: str | None = None
    cost_center: str | None = None
    env: str | None = None
    require: tuple[str, ...] = ()
    require_price: bool = False


class Attribution(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The outcome for one call: a value per field, who vouches for each, the free tags, and what was odd.

    `entry` says all of this and nothing else: an entry is made of it by filling in whatever else it must have.
    """

    entry: Entry
    values: dict[str, str]
    fields: dict[str, Field]
    tags: dict[str, str]
    trace_id: str | None = None
    parent_id: str | None = None
    notes: tuple[str, ...] = ()


class Said(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the caller said: the raw header, the body's tag list, the raw baggage and traceparent headers."""

    tags_header: str | None = None
    body_tags: tuple[str, ...] = ()
    baggage: str | None = None
    traceparent: str | None = None


def attribute(bearer: Bearer, said: Said, hashers: Hashers) -> Attribution:
    """Attribute one call.

    Raises:
        TagMalformed: a tag in the header or body that is not `name:value` within the limits (baggage is not the
            caller's own writing: what is malformed there is ignored and noted).
        LabelMissing: the key requires fields that nobody stated.
    """
    return _traced(_claimed(bearer, said, hashers), said.traceparent)


class Attributor:
    """Attributes calls, and remembers what it made of the ones before: most callers say the same in every call.

    Not remembered is what names a person or a customer's customer (`HASHED`), nor baggage, of which nobody knows what
    it holds beside the known members. For one thread.
    """

    def __init__(self, hashers: Hashers) -> None:
        self.hashers = hashers
        """May be replaced at any time: nothing that was hashed is remembered."""
        self._known: dict[tuple[Bearer, str | None, tuple[str, ...]], Attribution] = {}

    def attribute(self, bearer: Bearer, said: Said) -> Attribution:
        """As the function `attribute`. The outcome may be that of an earlier call: its maps must not be changed."""
        if said.baggage:
            return attribute(bearer, said, self.hashers)
        key = (bearer, said.tags_header, said.body_tags)
        done = self._known.get(key)
        if done is None:
            done = _claimed(bearer, said, self.hashers)
            if HASHED.keys().isdisjoint(done.values):
                if len(self._known) >= ATTRIBUTIONS_KNOWN_MAX:
                    self._known.clear()
                self._known[key] = done
        return _traced(done, said.traceparent) if said.traceparent else done


def _claimed(bearer: Bearer, said: Said, hashers: Hashers) -> Attribution:
    """The attribution without its trace."""
    values = {"owner": bearer.owner, "team": bearer.team, "agent": bearer.agent, "workload": bearer.workload}
    if bearer.project is not None:
        values["project"] = bearer.project
    if bearer.cost_center is not None:
        values["cost_center"] = bearer.cost_center
    if bearer.env is not None:
        values["env"] = bearer.env
    fields = {name: Field(value, "verified", "key") for name, value in values.items()}
    tags: dict[str, str] = {}
    links: dict[str, str] = {}
    notes: list[str] = []
    if said.tags_header or said.body_tags or said.baggage:
        spoken: list[tuple[str, str, str]] = []
        if said.tags_header:
            spoken += _header_tags(said.tags_header)
        spoken += [("body", *_tag(text, "metadata.tags")) for text in said.body_tags]
        if len(spoken) > TAGS_MAX:
            raise TagMalformed(f"{len(spoken)} tags in one call; at most {TAGS_MAX} are kept")
        if said.baggage:
            spoken += _baggage(said.baggage, notes)
        for source, name, value in spoken:
            field = FIELD_OF_TAG.get(name)
            if field is None:
                _claim_tag(fields, tags, name, Claim(value, source))
            elif field in HASHED:
                kept = hashers.now(field, value)
                if hashers.before is not None and field not in values:
                    links[HASHED[field]] = hashers.before(field, value)
                _claim(fields, field, Claim(kept, source))
                values.setdefault(field, kept)
            else:
                _claim(fields, field, Claim(value, source))
                values.setdefault(field, value)
    missing = [name for name in bearer.require if name not in fields and name not in tags]
    if missing:
        raise LabelMissing(
            f"this key requires every call to state {', '.join(missing)}: as metadata.tags, in x-costbearer-tags "
            f"({missing[0]}:VALUE) or as W3C baggage"
        )
    found = tuple(dict.fromkeys(notes))
    entry = msgspec.structs.replace(
        _BLANK,
        key_id=bearer.key_id,
        key_team=bearer.team,
        attribution=fields,
        tags=tags,
        notes=found,
        **values,
        **links,
    )
    return Attribution(entry=entry, values=values, fields=fields, tags=tags, notes=found)


def _claim(fields: dict[str, Field], name: str, claim: Claim) -> None:
    """Take the claim where nothing is known yet; else keep it as a conflict if it differs."""
    held = fields.get(name)
    if held is None:
        fields[name] = Field(claim.value, "asserted", claim.source)
    elif held.value != claim.value and claim not in held.conflict:
        fields[name] = Field(held.value, held.provenance, held.source, (*held.conflict, claim))


def _claim_tag(fields: dict[str, Field], tags: dict[str, str], name: str, claim: Claim) -> None:
    _claim(fields, f"tag:{name}", claim)
    tags.setdefault(name, claim.value)


def _header_tags(header: str) -> Iterable[tuple[str, str, str]]:
    if len(header) > TAGS_HEADER_BYTES_MAX:
        raise TagMalformed(f"x-costbearer-tags is {len(header)} bytes long; at most {TAGS_HEADER_BYTES_MAX} are read")
    return [("header", *_tag(unquote(part), "x-costbearer-tags")) for part in header.split(",") if part.strip()]


def _tag(text: str, place: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not value:
        raise TagMalformed(f"{place}: {_shown(text)} is not name:value, for example feature:summarizer")
    if not _TAG_NAME.fullmatch(name):
        raise TagMalformed(
            f"{place}: in {_shown(text)} the name must be 1 to {TAG_NAME_CHARS_MAX} of A-Z a-z 0-9 _ . - / "
            "and begin with a letter, a digit or _"
        )
    if len(value) > TAG_VALUE_CHARS_MAX:
        raise TagMalformed(
            f"{place}: the value of {name} is {len(value)} characters long; at most {TAG_VALUE_CHARS_MAX}"
        )
    if not _printable(value):
        raise TagMalformed(f"{place}: the value of {name} contains control or invisible characters")
    return name, value


def _shown(text: str) -> str:
    short = text if len(text) <= 40 else text[:40] + "..."
    return ascii(short)


def _printable(value: str) -> bool:
    return (value.isascii() and value.isprintable()) or not any(unicodedata.category(char)[0] == "C" for char in value)


def _baggage(header: str, notes: list[str]) -> list[tuple[str, str, str]]:
    if len(header) > BAGGAGE_BYTES_MAX:
        notes.append("baggage_too_long")
        return []
    found: dict[str, str] = {}
    for member in header.split(","):
        pair = member.partition(";")[0]
        name, equals, raw = pair.partition("=")
        name = name.strip()
        if not equals:
            if pair.strip():
                notes.append("baggage_malformed")
            continue
        if name not in FIELD_OF_TAG:
            continue
        value = unquote(raw.strip(), errors="replace").strip()
        if not value or len(value) > TAG_VALUE_CHARS_MAX or not _printable(value):
            notes.append("baggage_malformed")
            continue
        found[name] = value
    return [("baggage", name, value) for name, value in found.items()]


def _traced(done: Attribution, header: str | None) -> Attribution:
    """The same with the trace that the caller is part of."""
    if not header:
        return done
    replace = msgspec.structs.replace
    match = _TRACEPARENT.fullmatch(header.strip())
    if match is None or not _is_trace(match):
        notes = (*done.notes, "traceparent_malformed")
        return replace(done, notes=notes, entry=replace(done.entry, notes=notes))
    trace_id, parent_id = match[2], match[3]
    entry = replace(done.entry, trace_id=trace_id, parent_id=parent_id)
    return replace(done, trace_id=trace_id, parent_id=parent_id, entry=entry)


def _is_trace(match: re.Match[str]) -> bool:
    """A version that there is, nothing behind version 00, and no id of zeros only."""
    if match[1] == "ff" or (match[1] == "00" and match[5]):
        return False
    return bool(match[2].strip("0") and match[3].strip("0"))
