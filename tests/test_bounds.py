"""What is looked into is counted first, and a body of nothing but small values holds nobody up."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.dialects import bounds, gemini_request, jsonedit, translate_openai
from costbearer.dialects.base import Place
from costbearer.dialects.bounds import BATCH_VALUES_MAX, MEMBERS_MAX, TAGS_BYTES_MAX, VALUES_MAX, few
from costbearer.dialects.openai_completions import PROMPTS_MAX
from costbearer.dialects.registry import all_dialects
from costbearer.errors import BodyInvalid

OPERATIONS = {(name, each): made for name, one in all_dialects().items() for each, made in one.operations.items()}
MARKS = ',{[]}:"\\' * 20_000
"""More marks in one text than there may be values."""


def many(item: str, count: int = VALUES_MAX) -> bytes:
    return b"[" + b",".join([item.encode()] * count) + b"]"


texts = st.text(st.sampled_from('a"\\,[{:}] é'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, inner))


@given(values, st.integers(1, 30), st.sampled_from([None, 2]))
def test_the_count_of_values(value: Any, values_max: int, indent: int | None) -> None:
    document = json.dumps(value, indent=indent).encode()
    assert count(value) <= values_max if few(document, values_max) else 2 * count(value) > values_max


def test_an_object_of_very_many_members_is_given_up_early() -> None:
    document = b"{" + b",".join(b'"%x":0' % number for number in range(300_000)) + b"}"
    begun = time.process_time()
    with pytest.raises(BodyInvalid, match="more than 4096 members"):
        jsonedit.members(document)
    assert time.process_time() - begun < 0.1
    inside = b'{"a":%b}' % document
    assert list(jsonedit.members(inside)) == ["a"]


def test_as_many_members_as_are_read() -> None:
    listed = [b'"%x":0' % number for number in range(MEMBERS_MAX)]
    assert len(jsonedit.members(b"{" + b",".join(listed) + b"}")) == MEMBERS_MAX
    with pytest.raises(BodyInvalid, match="more than 4096 members"):
        jsonedit.members(b"{" + b",".join([*listed, b'"z":0']) + b"}")


def test_the_member_that_comes_twice_is_found_in_one_pass() -> None:
    listed = [b'"%x":0' % number for number in range(MEMBERS_MAX - 2)]
    begun = time.process_time()
    with pytest.raises(BodyInvalid, match="the member 'z' twice"):
        jsonedit.members(b"{" + b",".join([*listed, b'"z":1', b'"z":2']) + b"}")
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize("holder", ["", "metadata", "stream_options"])
def test_a_short_body_has_no_more_members_than_a_long_one(holder: str) -> None:
    members = b",".join(b'"%x":0' % number for number in range(MEMBERS_MAX + 1))
    inner = b'"%b":{%b}' % (holder.encode(), members) if holder else members
    body = b'{"model":"m","messages":[],%b}' % inner
    assert len(body) < 128 * 1024
    for dialect in ("openai", "anthropic")[: 1 if holder == "stream_options" else 2]:
        with pytest.raises(BodyInvalid, match="more than 4096 members"):
            OPERATIONS[dialect, "chat"].read(body)


CONTENT = '{"role":"user","content":"a"}'
BLOCKS = '{"role":"user","content":[{"type":"text","text":"a"}]}'
LISTS = [
    ("openai", "chat", "messages", CONTENT),
    ("openai", "chat", "messages", BLOCKS),
    ("openai", "chat", "tools", '{"type":"function"}'),
    ("anthropic", "chat", "messages", CONTENT),
    ("anthropic", "chat", "messages", BLOCKS),
    ("anthropic", "chat", "system", '{"type":"text"}'),
    ("openai", "responses", "input", '{"type":"message","content":"a"}'),
    ("openai", "embeddings", "input", '"{"'),
    ("gemini", "chat", "contents", '{"parts":[{"text":"a"}]}'),
    ("gemini", "interactions", "input", '"a"'),
    ("bedrock", "converse", "messages", '{"content":[{"text":"a"}]}'),
]


@pytest.mark.parametrize("dialect, operation, name, item", LISTS)
def test_more_values_than_are_looked_into_leave_the_input_open(
    dialect: str, operation: str, name: str, item: str
) -> None:
    """They are not refused, and one item is read as ever; so is a text with as many marks in it."""
    asked = OPERATIONS[dialect, operation]
    place = Place(params={"model": "m"})

    def read(listed: bytes) -> bool:
        return asked.read(b'{"model":"m","%b":%b}' % (name.encode(), listed), place).open_ended

    assert not read(many(item, 1))
    assert read(many(item))
    if '"a"' in item:
        text = item.replace('"a"', json.dumps(MARKS))
        assert not read(many(text, 1))


def test_tokens_and_texts_to_be_embedded_are_not_looked_into() -> None:
    asked = OPERATIONS["openai", "embeddings"]
    for item in ('"a"', "[1,2,3]", "7"):
        assert not asked.read(b'{"model":"m","input":%b}' % many(item)).open_ended
    assert asked.read(b'{"model":"m","input":[{"image":"x"}]}').open_ended


@pytest.mark.parametrize(
    "prompt, prompts",
    [(many("7"), 1), (b"[%b,%b]" % (many("7"), many("8")), 2), (many('"a"'), PROMPTS_MAX), (many('"a"', 3), 3)],
)
def test_prompts_are_counted_however_many_there_are(prompt: bytes, prompts: int) -> None:
    asked = OPERATIONS["openai", "completions"]
    assert asked.read(b'{"model":"m","prompt":%b}' % prompt).choices == prompts


def test_too_many_values_are_not_translated() -> None:
    body = b'{"model":"m","messages":%b}'
    with pytest.raises(BodyInvalid, match="more than 100000 values"):
        translate_openai.ask(body % many(CONTENT), "anthropic")
    text = json.dumps({"role": "user", "content": MARKS})
    assert len(translate_openai.ask(body % many(text, 1), "anthropic").turns) == 1


def test_a_batch_to_be_renamed_or_looked_through_has_a_limit() -> None:
    with pytest.raises(BodyInvalid, match="more than 100000 values"):
        gemini_request.renamed(b'{"requests":%b}' % many("{}"), "other")
    create = OPERATIONS["anthropic", "messages.batches.create"]
    large = many("{}", BATCH_VALUES_MAX)
    create.read(b'{"requests":%b}' % large)
    with pytest.raises(BodyInvalid, match="send smaller batches"):
        create.read(b'{"requests":%b,"tags":[]}' % large)


def test_a_list_of_tags_has_a_limit() -> None:
    body = b'{"model":"m","metadata":{"tags":%b}}'
    most = ["t" * 60 + str(number) + ":" + "\U0001f6a2" * 256 for number in range(32)]
    assert len(json.dumps(most)) < TAGS_BYTES_MAX
    read = OPERATIONS["openai", "responses"].read
    assert read(body % json.dumps(most).encode()).tags == tuple(most)
    with pytest.raises(BodyInvalid, match="longer than 131072 bytes"):
        read(body % many('""', TAGS_BYTES_MAX))


def test_a_decoder_says_what_it_does_not_look_at() -> None:
    decode = bounds.bounded(msgspec.json.Decoder(list[int]).decode)
    assert decode(many("7", 3)) == [7, 7, 7]
    with pytest.raises(bounds.TooMuch):
        decode(many("7", VALUES_MAX + 1))
