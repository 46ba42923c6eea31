"""Checks of who bears a call: what is missing, lost on the way, contradicted, or said where it should not be."""

from __future__ import annotations

from typing import Any

import ibis

from costbearer.audit.evidence import Evidence
from costbearer.audit.finding import Check
from costbearer.logformats.fields import CALL

TAG_VALUES_MAX = 1000
"""More different values than that, in more than half of the records that have the tag, are ids and no dimension."""

PERSONAL: dict[str, str] = {
    "an e-mail address": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+[.][A-Za-z]{2,}",
    "a telephone number": r"^(?:[+][0-9][0-9 ().-]{8,16}[0-9]|[(]?[0-9]{3}[)]?[ .-][0-9]{3}[ .-][0-9]{4})$",
    "a social security number": r"^[0-9]{3}-[0-9]{2}-[0-9]{4}$",
    "a payment card number": r"^(?:[0-9]{4}[ -]?){3}[0-9]{3,4}$",
    "a secret key": r"^(?:sk-|pk-|AKIA|ghp_|xox[bp]-)[A-Za-z0-9_-]{12,}",
}
"""What a text that names a user, a tenant or a tag must not be. An owner may be an address: that is what it is for."""


def _missing(field: str) -> Any:
    def find(evidence: Evidence) -> Any:
        sources = [number for number, carries in evidence.carries.items() if field in carries]
        if not sources:
            return None
        calls = evidence.calls
        column = {
            "owner": calls.bearer.isnull(),
            "session_id": ~calls.has_session,
            "trace_id": ~calls.has_trace,
            "tenant": ~calls.has_tenant,
        }[field]
        missing = calls.filter(column & calls.file.isin(sources))
        return missing.select("row", subject=ibis.coalesce(missing.key, missing.hop, "(none)"), usd=missing.spend_usd)

    return find


def _lost_at_hop(evidence: Evidence) -> Any:
    """Calls without a bearer in traces in which another record has one."""
    records = evidence.records.filter(evidence.records.journey.notnull())
    known = records.filter(records.bearer.notnull()).select("journey").distinct()
    calls = evidence.calls
    lost = records.filter((records.kind == CALL) & records.bearer.isnull()).semi_join(known, "journey")
    met = calls.join(lost, calls.row == lost.row)
    return met.select(calls.row, subject=ibis.coalesce(lost.hop, calls.key, "(none)"), usd=calls.spend_usd)


def _conflict_in_trace(evidence: Evidence) -> Any:
    """Calls that another team bears than the one the trace began with."""
    records = evidence.records.filter(evidence.records.journey.notnull() & evidence.records.bearer.notnull())
    # Numbers in the place of names: there may be millions of traces, and hardly one of them is split.
    code = records.bearer.hash()
    ends = records.group_by("journey").aggregate(least=code.min(), most=code.max())
    split = ends.filter(ends.least != ends.most).select("journey")
    of_split = records.semi_join(split, "journey")
    began = of_split.group_by("journey").aggregate(
        first=of_split.bearer.argmin(ibis.coalesce(of_split.started_at, evidence.now))
    )
    met = of_split.filter(of_split.kind == CALL).join(began, "journey")
    met = met.filter(met.bearer != met["first"]).select("row", other=met["first"])
    calls = evidence.calls
    both = calls.join(met, calls.row == met.row)
    return both.select(calls.row, subject=met.other.concat(" -> ", calls.bearer), usd=calls.spend_usd)


def _conflict_with_tag(evidence: Evidence) -> Any:
    calls = evidence.calls
    differ = ibis.or_(
        *((calls[name].lower() != calls[f"asserted_{name}"].lower()).fill_null(False) for name in ("team", "owner"))
    )
    found = calls.filter(differ)
    said = ibis.coalesce(found.asserted_team, found.asserted_owner)
    return found.select(
        "row", subject=ibis.coalesce(found.team, found.owner).concat(" tagged ", said), usd=found.spend_usd
    )


def _personal(evidence: Evidence) -> Any:
    records = evidence.records.filter(evidence.records.kind == CALL)
    pattern = "|".join(f"(?:{each})" for each in PERSONAL.values())
    found = []
    for name in ("user", "tenant", "session_id", "feature", "workflow"):
        values = records.select(value=records[name]).distinct()
        personal = values.filter(values.value.re_search(pattern))
        met = records.semi_join(personal, records[name] == personal.value)
        found.append(met.select("row", subject=ibis.literal(name)))
    tags = _tags(records)
    personal = tags.filter(tags.value.re_search(pattern)).select("text", "subject").distinct()
    met = records.join(personal, records.tags == personal.text)
    found.append(met.select(records.row, subject=ibis.literal("tag ").concat(personal.subject)))
    both = ibis.union(*found, distinct=False)
    first = both.group_by("row").aggregate(subject=both.subject.min())
    calls = evidence.calls
    joined = calls.join(first, calls.row == first.row)
    return joined.select(calls.row, first.subject, usd=calls.spend_usd)


def _many_values(evidence: Evidence) -> Any:
    records = evidence.records.filter(evidence.records.kind == CALL)
    tags = _tags(records)
    sums = tags.group_by("subject").aggregate(values=tags.value.nunique(), records=tags.records.sum())
    many = sums.filter((sums["values"] > TAG_VALUES_MAX) & (sums["values"] * 2 > sums.records))
    texts = tags.semi_join(many, "subject").select("text", "subject").distinct()
    met = records.join(texts, records.tags == texts.text).select(records.row, texts.subject)
    calls = evidence.calls
    both = calls.join(met, calls.row == met.row)
    return both.select(calls.row, met.subject, usd=calls.spend_usd)


def _tags(records: Any) -> Any:
    """Every tag of every text of tags that occurs: `text`, `subject` (its name), `value`, and how many records have it.

    Logs repeat few texts many times, so each is taken apart once.
    """
    stated = records.filter(records.tags.notnull())
    texts = stated.group_by(text=stated.tags).aggregate(records=stated.count())
    apart = texts.mutate(made=tags_of(texts.text))
    return apart.select("text", "records", subject=apart.made.keys().unnest(), value=apart.made.values().unnest())


@ibis.udf.scalar.builtin(name="tags_of", signature=(("string",), "map<string, string>"))
def tags_of(text): ...  # type: ignore[no-untyped-def]


CHECKS: tuple[Check, ...] = (
    Check(
        "missing_owner",
        "high",
        "certain",
        "spend",
        "Nobody bears these calls",
        "Neither the key, the log nor a tag says which team or owner caused them, so they cannot be charged to anyone.",
        "Give each of these keys its own owner and team, or name them in an ownership map (--ownership).",
        _missing("owner"),
    ),
    Check(
        "owner_lost_at_hop",
        "high",
        "certain",
        "spend",
        "The owner is known in the trace and lost on the way",
        "Another record of the same trace says whose it is; this hop did not pass it on.",
        "Make the hop named here carry the baggage on (owner_team, workflow_id, feature) to what it calls.",
        _lost_at_hop,
    ),
    Check(
        "owner_conflict",
        "medium",
        "likely",
        "spend",
        "One trace, two bearers",
        "Calls of one trace are borne by different teams: a shared key on the way took the place of the one "
        "who caused it.",
        "Let the shared service act for the team that called it, or agree that its part is its own.",
        _conflict_in_trace,
    ),
    Check(
        "tag_owner_conflict",
        "medium",
        "certain",
        "spend",
        "A tag names another team than the key",
        "What the caller says contradicts what the key proves. Reports that believe tags charge the wrong team.",
        "Report by the key's team; correct the tag where it is copied from somewhere else.",
        _conflict_with_tag,
    ),
    Check(
        "missing_session",
        "low",
        "certain",
        "spend",
        "No session",
        "Without it the cost of a conversation or an agent's run cannot be added up.",
        "Send a session id with every call of one run.",
        _missing("session_id"),
    ),
    Check(
        "missing_trace",
        "low",
        "certain",
        "spend",
        "No trace",
        "Without it retries, fallbacks and sub-agents of one request cannot be told from requests of their own.",
        "Pass traceparent on at every hop.",
        _missing("trace_id"),
    ),
    Check(
        "missing_tenant",
        "low",
        "certain",
        "spend",
        "No tenant",
        "Without it the cost per customer is not known.",
        "Send a tenant id, hashed, with every call that is made for a customer.",
        _missing("tenant"),
    ),
    Check(
        "pii_in_metadata",
        "medium",
        "likely",
        "spend",
        "Personal data or secrets where an id belongs",
        "Logs of usage are kept long and read by many; the values named here look like a person's address or a key.",
        "Send a keyed hash in its place.",
        _personal,
    ),
    Check(
        "tag_high_cardinality",
        "low",
        "certain",
        "spend",
        "A tag with nearly as many values as records",
        "It cannot group anything, and metrics by it grow without end.",
        "Put ids into the trace or the session, and keep tags for names.",
        _many_values,
    ),
)
