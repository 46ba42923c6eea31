"""Attribution: precedence, conflicts, limits, baggage and trace context, by table and by property."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.attribution import (
    ATTRIBUTIONS_KNOWN_MAX,
    BAGGAGE_BYTES_MAX,
    FIELD_OF_TAG,
    TAG_NAME_CHARS_MAX,
    TAG_VALUE_CHARS_MAX,
    TAGS_HEADER_BYTES_MAX,
    TAGS_MAX,
    Attributor,
    Bearer,
    Hashers,
    Said,
    attribute,
)
from costbearer.errors import LabelMissing, TagMalformed
from costbearer.ledger import DESCRIPTIONS, LABELS, Claim

BEARER = Bearer(key_id="key_A", owner="ada", team="search", agent="ranker", workload="rerank", env="prod")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def hashed(field: str, value: str) -> str:
    return f"hashed({field}:{value})"


hasher = Hashers(hashed)


def test_the_keys_labels_are_verified() -> None:
    done = attribute(BEARER, Said(), hasher)
    assert done.values == {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank", "env": "prod"}
    assert {field.provenance for field in done.fields.values()} == {"verified"}
    assert done.tags == {}
    assert done.notes == ()


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("where", ["header", "body", "baggage"])
def test_a_label_asserted_against_the_key_is_evidence_and_changes_nothing(label: str, where: str) -> None:
    said = {
        "header": Said(tags_header=f"{label}:mallory"),
        "body": Said(body_tags=(f"{label}:mallory",)),
        "baggage": Said(baggage=f"{label}=mallory"),
    }[where]
    done = attribute(BEARER, said, hasher)
    assert done.values[label] == getattr(BEARER, label)
    assert done.fields[label].provenance == "verified"
    assert done.fields[label].conflict == (Claim("mallory", where),)


def test_an_asserted_label_that_agrees_is_no_conflict() -> None:
    done = attribute(BEARER, Said(body_tags=("team:search",), baggage="owner_team=search"), hasher)
    assert done.fields["team"].conflict == ()


def test_header_before_body_before_baggage_and_the_others_are_kept() -> None:
    done = attribute(
        BEARER,
        Said(tags_header="feature:one", body_tags=("feature:two",), baggage="feature=three"),
        hasher,
    )
    field = done.fields["feature"]
    assert (field.value, field.provenance, field.source) == ("one", "asserted", "header")
    assert field.conflict == (Claim("two", "body"), Claim("three", "baggage"))


def test_people_and_tenants_are_kept_as_hashes_only() -> None:
    done = attribute(BEARER, Said(body_tags=("user:jane@example.com", "tenant:acme"), baggage="user_id=bob"), hasher)
    assert done.values["user"] == "hashed(user:jane@example.com)"
    assert done.values["tenant"] == "hashed(tenant:acme)"
    assert "jane@example.com" not in repr(done.fields).replace("hashed(user:jane@example.com)", "")
    assert done.fields["user"].conflict == (Claim("hashed(user:bob)", "baggage"),)


def test_other_tags_go_into_the_map_with_their_conflicts() -> None:
    done = attribute(BEARER, Said(tags_header="release:7", body_tags=("release:8", "color:blue")), hasher)
    assert done.tags == {"release": "7", "color": "blue"}
    assert done.fields["tag:release"].conflict == (Claim("8", "body"),)
    assert "release" not in done.values


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "plain",
        ":x",
        "name:",
        "a b:c",
        "ü:x",
        "-a:b",
        "x" * (TAG_NAME_CHARS_MAX + 1) + ":v",
        "n:" + "v" * (TAG_VALUE_CHARS_MAX + 1),
        "n:a\x00b",
        "n:a\u202eb",
        "n:\u200b",
    ],
)
def test_malformed_tags_are_refused(tag: str) -> None:
    with pytest.raises(TagMalformed) as caught:
        attribute(BEARER, Said(body_tags=(tag,)), hasher)
    assert caught.value.code == "tag_malformed"
    assert "metadata.tags" in caught.value.message


def test_a_value_may_hold_colons_and_any_script() -> None:
    done = attribute(BEARER, Said(body_tags=("link:http://x/y", "city:Zürich")), hasher)
    assert done.tags == {"link": "http://x/y", "city": "Zürich"}


def test_header_values_are_percent_decoded() -> None:
    done = attribute(BEARER, Said(tags_header="city:Z%C3%BCrich, note:a%2Cb"), hasher)
    assert done.tags == {"city": "Zürich", "note": "a,b"}


def test_limits_are_held() -> None:
    attribute(BEARER, Said(body_tags=tuple(f"t{n}:v" for n in range(TAGS_MAX))), hasher)
    with pytest.raises(TagMalformed, match=str(TAGS_MAX)):
        attribute(BEARER, Said(body_tags=tuple(f"t{n}:v" for n in range(TAGS_MAX + 1))), hasher)
    with pytest.raises(TagMalformed, match="bytes long"):
        attribute(BEARER, Said(tags_header="a:" + "b" * TAGS_HEADER_BYTES_MAX), hasher)


def test_baggage_takes_known_members_only_and_properties_off() -> None:
    done = attribute(
        BEARER, Said(baggage="workflow_id=nightly;ttl=3, secret=1,customer_id=acme%20inc , env=dev"), hasher
    )
    assert done.values["workflow"] == "nightly"
    assert done.values["customer"] == "acme inc"
    assert done.values["env"] == "prod"
    assert done.fields["env"].conflict == (Claim("dev", "baggage"),)
    assert done.tags == {}


def test_a_plus_in_baggage_stays_a_plus() -> None:
    assert attribute(BEARER, Said(baggage="feature=a+b"), hasher).values["feature"] == "a+b"


@pytest.mark.parametrize("baggage", ["feature", "feature=", "feature=%00", "feature=" + "x" * 300])
def test_malformed_baggage_is_noted_never_refused(baggage: str) -> None:
    done = attribute(BEARER, Said(baggage=baggage), hasher)
    assert "feature" not in done.values
    assert done.notes == ("baggage_malformed",)


def test_baggage_too_long_is_ignored_as_a_whole() -> None:
    done = attribute(BEARER, Said(baggage="feature=x," + "y" * BAGGAGE_BYTES_MAX), hasher)
    assert "feature" not in done.values
    assert done.notes == ("baggage_too_long",)


def test_trace_context() -> None:
    done = attribute(BEARER, Said(traceparent=TRACE), hasher)
    assert (done.trace_id, done.parent_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


@pytest.mark.parametrize(
    "header",
    [
        "x",
        TRACE.upper(),
        "ff" + TRACE[2:],
        TRACE + "-more",
        "00-" + "0" * 32 + TRACE[35:],
        TRACE[:36] + "0" * 16 + "-01",
    ],
)
def test_a_malformed_traceparent_is_noted(header: str) -> None:
    done = attribute(BEARER, Said(traceparent=header), hasher)
    assert (done.trace_id, done.parent_id) == (None, None)
    assert done.notes == ("traceparent_malformed",)


def test_a_later_version_of_traceparent_may_carry_more() -> None:
    assert attribute(BEARER, Said(traceparent="01" + TRACE[2:] + "-more"), hasher).trace_id is not None


def test_required_fields_are_required_by_name() -> None:
    bearer = Bearer(key_id="k", owner="a", team="b", agent="c", workload="d", require=("feature", "customer"))
    with pytest.raises(LabelMissing, match="feature, customer") as caught:
        attribute(bearer, Said(), hasher)
    assert caught.value.code == "field_missing"
    with pytest.raises(LabelMissing, match="customer") as caught:
        attribute(bearer, Said(body_tags=("feature:x",)), hasher)
    assert "feature," not in caught.value.message
    attribute(bearer, Said(body_tags=("feature:x",), baggage="customer_id=y"), hasher)


texts = st.text(max_size=40)


@given(
    st.lists(texts, max_size=6), st.one_of(st.none(), texts), st.one_of(st.none(), texts), st.one_of(st.none(), texts)
)
def test_whatever_is_said_the_labels_stand(
    body: list[str], header: str | None, baggage: str | None, trace: str | None
) -> None:
    try:
        done = attribute(
            BEARER, Said(body_tags=tuple(body), tags_header=header, baggage=baggage, traceparent=trace), hasher
        )
    except TagMalformed:
        return
    for label in LABELS:
        assert done.values[label] == getattr(BEARER, label)
        assert done.fields[label].provenance == "verified"
    assert set(done.values) <= {*LABELS, *FIELD_OF_TAG.values()}


# -- what is remembered

SAID: tuple[Said, ...] = (
    Said(),
    Said(traceparent=TRACE),
    Said(traceparent="x"),
    Said(body_tags=("feature:one", "release:7")),
    Said(body_tags=("feature:one", "release:7"), traceparent=TRACE),
    Said(tags_header="feature:two", body_tags=("feature:one",)),
    Said(tags_header="owner:mallory"),
    Said(body_tags=("user:jane@example.com", "feature:one")),
    Said(body_tags=("feature:one",), baggage="customer_id=acme,user_id=bob,other=private"),
    Said(baggage="feature", traceparent="x"),
)


@given(st.lists(st.tuples(st.sampled_from(["key_A", "key_B"]), st.sampled_from(SAID)), max_size=30))
def test_what_is_remembered_is_what_would_be_found_again(calls: list[tuple[str, Said]]) -> None:
    attributor = Attributor(hasher)
    for key_id, said in calls:
        bearer = Bearer(key_id=key_id, owner=key_id.lower(), team="search", agent="ranker", workload="rerank")
        assert attributor.attribute(bearer, said) == attribute(bearer, said, hasher)


@given(st.sampled_from(SAID))
def test_the_entry_says_the_same_as_the_attribution(said: Said) -> None:
    done = attribute(BEARER, said, hasher)
    stated = msgspec.structs.asdict(done.entry)
    assert {name: stated[name] for name in (*LABELS, *DESCRIPTIONS) if stated[name] is not None} == done.values
    assert (stated["attribution"], stated["tags"], stated["notes"]) == (done.fields, done.tags, done.notes)
    assert (stated["trace_id"], stated["parent_id"]) == (done.trace_id, done.parent_id)
    assert (stated["key_id"], stated["key_team"]) == ("key_A", "search")


def test_the_same_words_of_the_same_bearer_are_looked_at_once() -> None:
    attributor = Attributor(hasher)
    said = Said(body_tags=("feature:one",))
    done = attributor.attribute(BEARER, said)
    assert attributor.attribute(BEARER, Said(body_tags=("feature:one",))) is done
    moved = Bearer(key_id="key_A", owner="ada", team="ads", agent="ranker", workload="rerank", env="prod")
    assert attributor.attribute(moved, said).values["team"] == "ads"


def test_nothing_that_names_a_person_stays_in_memory() -> None:
    attributor = Attributor(hasher)
    for said in SAID:
        attributor.attribute(BEARER, said)
    assert attributor._known
    remembered = repr(attributor._known)
    for private in ("jane", "bob", "private"):
        assert private not in remembered


def test_refusals_are_not_remembered_and_memory_is_bounded() -> None:
    attributor = Attributor(hasher)
    for _ in range(2):
        with pytest.raises(TagMalformed):
            attributor.attribute(BEARER, Said(body_tags=("plain",)))
    for number in range(2 * ATTRIBUTIONS_KNOWN_MAX + 1):
        attributor.attribute(BEARER, Said(body_tags=(f"feature:{number}",)))
        assert len(attributor._known) <= ATTRIBUTIONS_KNOWN_MAX
    assert attributor.attribute(BEARER, Said(body_tags=("feature:0",))).values["feature"] == "0"
