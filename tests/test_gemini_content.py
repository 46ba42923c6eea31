"""`generateContent`, streamed in both ways or not, and `countTokens`: requests, what is sent on, what replies say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import errors
from costbearer.dialects.base import CallRequest, Operation, Place, Reading
from costbearer.dialects.gemini_content import COUNT, STREAM, GeminiContent
from costbearer.usage import Usage, leaves

WHOLE: Operation = GeminiContent()
STREAMED: Operation = GeminiContent(STREAM)
COUNTED: Operation = GeminiContent(COUNT)

PLACE = Place(path="/v1beta/models/gemini-3.8-flash:generateContent", params={"model": "gemini-3.8-flash"})
VERTEX = Place(
    path="/v1/projects/p/locations/us-central1/publishers/google/models/gemini-3.8-flash:generateContent",
    params={"project": "p", "location": "us-central1", "publisher": "google", "model": "gemini-3.8-flash"},
)
HELLO = [{"role": "user", "parts": [{"text": "hello"}]}]
SSE = {"content-type": "text/event-stream"}
ARRAY = {"content-type": "application/json; charset=UTF-8"}


def ask(**changes: Any) -> CallRequest:
    fields: dict[str, Any] = {"operation": "chat", "model": "asked", "stream": True, "body": b"{}", "place": PLACE}
    return CallRequest(**fields | changes)


def read(place: Place = PLACE, operation: Operation = WHOLE, **members: Any) -> CallRequest:
    return operation.read(json.dumps({"contents": HELLO, **members}).encode(), place)


def said(text: str | None = "Hi", finish: object = None, index: int | None = None, **more: Any) -> dict[str, Any]:
    """A candidate; what is None is left out."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}] if text is not None else []}}
    if finish is not None:
        candidate["finishReason"] = finish
    if index is not None:
        candidate["index"] = index
    return candidate | more


def used(prompt: int = 10, candidates: int | None = 4, thoughts: int | None = None, **more: Any) -> dict[str, Any]:
    usage = {"promptTokenCount": prompt, "candidatesTokenCount": candidates, "thoughtsTokenCount": thoughts}
    stated = {name: count for name, count in usage.items() if count is not None}
    return stated | {"totalTokenCount": sum(stated.values())} | more


def chunk(*candidates: dict[str, Any], usage: Any = None, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"modelVersion": "gemini-3.8-flash", "responseId": "resp-1", **more}
    if candidates:
        body["candidates"] = list(candidates)
    if usage is not None:
        body["usageMetadata"] = usage
    return body


def events(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\r\n\r\n" for each in chunks)


def array(*chunks: dict[str, Any]) -> bytes:
    return b"[" + b"\n,\r\n".join(json.dumps(each, indent=2).encode() for each in chunks) + b"\n]\n"


def stream(
    body: bytes, size: int | None = None, headers: dict[str, str] = SSE, **request: Any
) -> tuple[Reading, bytes, bool]:
    """(what was read, what the caller saw, did it end?) of a stream in pieces of this size."""
    reader = STREAMED.stream_reader(ask(**request), headers)
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step)) + reader.rest()
    return reader.reading(), seen, reader.ended


def whole(*candidates: dict[str, Any], headers: dict[str, str] | None = None, **members: Any) -> Reading:
    body = json.dumps(chunk(*candidates, **members)).encode()
    return WHOLE.whole(ask(stream=False), body, headers or {})


def only(reading: Reading) -> Usage:
    (work,) = reading.work
    return work.usage


# -- requests


def test_a_plain_request() -> None:
    asked = read(generationConfig={"maxOutputTokens": 100, "candidateCount": 2})
    assert (asked.operation, asked.model, asked.stream, asked.free) == ("chat", "gemini-3.8-flash", False, False)
    assert (asked.max_output_tokens, asked.choices, asked.open_ended) == (100, 2, False)
    assert (asked.tier, asked.geo, asked.has_tags) == ("standard", None, False)


def test_google_reads_both_spellings() -> None:
    asked = read(generation_config={"max_output_tokens": 9, "candidate_count": 3}, service_tier="SERVICE_TIER_FLEX")
    assert (asked.max_output_tokens, asked.choices, asked.tier) == (9, 3, "flex")


def test_the_verb_says_what_is_asked() -> None:
    assert read(operation=STREAMED).stream
    assert read(operation=STREAMED).operation == "chat"
    counted = read(operation=COUNTED)
    assert (counted.operation, counted.free, counted.stream) == ("count_tokens", True, False)


def test_vertex_says_where_and_leaves_the_tier_to_headers() -> None:
    asked = read(VERTEX)
    assert (asked.geo, asked.tier) == ("us-central1", None)


@pytest.mark.parametrize(
    "members",
    [
        {"contents": {"parts": {"text": "one"}}},
        {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
        {"contents": [{"role": "model", "parts": [{"text": "t", "thought": True, "thoughtSignature": "c2ln"}]}]},
        {"system_instruction": {"parts": [{"text": "be short"}]}},
        {"tools": [{"functionDeclarations": [{"name": "f"}]}]},
        {"tools": {"function_declarations": []}},
        {"tools": None, "cachedContent": None},
    ],
)
def test_content_whose_bytes_bound_its_tokens(members: dict[str, Any]) -> None:
    assert not read(**members).open_ended


@pytest.mark.parametrize(
    "members",
    [
        {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]}]},
        {"contents": [{"parts": [{"file_data": {"fileUri": "files/x"}}]}]},
        {"contents": {"parts": {"inline_data": {}}}},
        {"contents": [{"parts": [{"functionResponse": {"name": "f", "parts": [{"inlineData": {}}]}}]}]},
        {"systemInstruction": {"parts": [{"fileData": {}}]}},
        {"cachedContent": "cachedContents/x"},
        {"cached_content": "cachedContents/x"},
        {"tools": [{"googleSearch": {}}]},
        {"tools": [{"functionDeclarations": []}, {"urlContext": {}}]},
        {"tools": [{"codeExecution": {}}]},
        {"tools": 7},
        {"contents": 7},
        {"contents": [{"parts": [7]}]},
        {"generateContentRequest": {"model": "models/x"}},
    ],
)
def test_content_whose_bytes_do_not_bound_its_tokens(members: dict[str, Any]) -> None:
    assert read(**members).open_ended


def test_tags_are_read() -> None:
    asked = read(metadata={"tags": ["feature:search"]})
    assert asked.tags == ("feature:search",)
    assert asked.has_tags


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", "empty"),
        (b"{", "cut off"),
        (b"[]", "object"),
        (b'{"contents":[],"contents":[]}', "twice"),
        (b'{"metadata":{"tags":"feature:x"}}', "metadata.tags"),
        (b'{"generationConfig":[]}', "generationConfig"),
        (b'{"generationConfig":{"maxOutputTokens":"9"}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"candidateCount":1000}}', "candidateCount"),
        (b"\xff", "UTF-8"),
        (b'{"contents":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ],
)
def test_a_faulty_request_is_refused_with_the_fault_named(body: bytes, names: str) -> None:
    with pytest.raises(errors.BodyInvalid, match=names):
        WHOLE.read(body, PLACE)


def test_a_path_without_a_model_is_refused() -> None:
    with pytest.raises(errors.BodyInvalid, match="names no model"):
        WHOLE.read(b"{}")


# -- what is sent on


def test_nothing_to_change_sends_the_very_same_bytes() -> None:
    asked = read()
    sent = WHOLE.outgoing(asked, asked.model, {"team": "search"})
    assert sent.body is asked.body
    assert sent.path == PLACE.path


def test_the_streams_form_is_the_callers() -> None:
    place = PLACE._replace(path=PLACE.path.replace("generate", "streamGenerate"), query="alt=sse")
    sent = STREAMED.outgoing(read(place, STREAMED), "gemini-3.8-flash")
    assert sent.path == "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    ("metadata", "left"),
    [
        ({"tags": ["a:b"]}, None),
        ({"tags": ["a:b"], "mine": 1}, {"mine": 1}),
        ({"tags": ["\u00e9:b"], "x": "\n"}, {"x": "\n"}),
    ],
)
def test_tags_are_taken_off(metadata: dict[str, Any], left: dict[str, Any] | None) -> None:
    asked = read(metadata=metadata)
    sent = json.loads(WHOLE.outgoing(asked, asked.model).body)
    assert sent.get("metadata") == left
    assert sent["contents"] == HELLO


def test_a_renamed_model_is_renamed_in_the_path_and_wherever_the_body_repeats_it() -> None:
    inner = {"model": "models/gemini-3.8-flash", "contents": HELLO}
    asked = read(operation=COUNTED, generateContentRequest=inner, model="gemini-3.8-flash")
    sent = COUNTED.outgoing(asked, "gemini-2.5-pro")
    assert sent.path == "/v1beta/models/gemini-2.5-pro:countTokens"
    body = json.loads(sent.body)
    assert body["model"] == "gemini-2.5-pro"
    assert body["generateContentRequest"]["model"] == "models/gemini-2.5-pro"


LABELS = {"owner": "Ada.Byron@example.com", "team": "search", "agent": "r" * 80, "workload": "Über/Rank"}
OURS = {
    "costbearer_owner": "ada_byron_example_com",
    "costbearer_team": "search",
    "costbearer_agent": "r" * 63,
    "costbearer_workload": "_ber_rank",
}


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ({}, OURS),
        ({"labels": None}, OURS),
        ({"labels": {}}, OURS),
        ({"labels": {"mine": "kept"}}, {**OURS, "mine": "kept"}),
        ({"labels": {"costbearer_team": "forged"}}, OURS),
        ({"labels": {"mine": "\u00fc"}}, {**OURS, "mine": "\u00fc"}),
        ({"labels": {f"l{n}": "x" for n in range(62)}}, {f"l{n}": "x" for n in range(62)}),
    ],
)
def test_vertex_gets_the_verified_labels(members: dict[str, Any], labels: dict[str, str]) -> None:
    asked = read(VERTEX, **members)
    sent = WHOLE.outgoing(asked, asked.model, LABELS)
    assert json.loads(sent.body)["labels"] == labels
    assert sent.path == VERTEX.path


def test_labels_that_are_none_are_refused_and_counting_tokens_takes_none() -> None:
    with pytest.raises(errors.BodyInvalid, match="labels"):
        WHOLE.outgoing(read(VERTEX, labels=["x"]), "m", LABELS)
    assert b"labels" not in COUNTED.outgoing(read(VERTEX, COUNTED), "m", LABELS).body
    assert b"labels" not in WHOLE.outgoing(read(), "m", LABELS).body


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("", ""),
        ("alt=sse", "?alt=sse"),
        ("%24alt=json%3Benum-encoding%3Dint", "?%24alt=json%3Benum-encoding%3Dint"),
        ("alt=json&prettyPrint=false", "?alt=json&prettyPrint=false"),
        ("key=AIzaFAKE&alt=sse", "?alt=sse"),
        ("access_token=ya29.FAKE", ""),
        ("oauth_token=ya29.FAKE&key=", ""),
    ],
)
def test_a_credential_in_the_query_stays_behind(query: str, sent: str) -> None:
    asked = read(PLACE._replace(query=query))
    assert WHOLE.outgoing(asked, asked.model).path == PLACE.path + sent


@pytest.mark.parametrize("query", ["fields=candidates", "%24fields=candidates", "alt=proto", "alt=media", "x=1"])
def test_a_query_that_could_hide_the_usage_is_refused(query: str) -> None:
    with pytest.raises(errors.BodyInvalid, match="query parameter"):
        read(PLACE._replace(query=query))


# -- replies that come whole


def test_a_whole_reply() -> None:
    reading = whole(said("Hello", "STOP"), usage=used(10, 4, 30, serviceTier="standard"))
    assert reading == Reading(
        work=reading.work,
        complete=True,
        response_model="gemini-3.8-flash",
        response_id="resp-1",
        tier="standard",
        generated_bytes=5,
    )
    assert only(reading) == Usage(input_tokens=10, output_tokens=34, reasoning_output_tokens=30)
    assert reading.work[0].largest_input_tokens == 10
    assert reading.work[0].model == "gemini-3.8-flash"


def test_what_tools_bring_does_not_make_the_prompt_longer() -> None:
    reading = whole(said("x", "STOP"), usage=used(150_000, 5, toolUsePromptTokenCount=90_000, totalTokenCount=240_005))
    assert reading.work[0].largest_input_tokens == 150_000
    assert only(reading).input_tokens == 240_000


@pytest.mark.parametrize("feedback", [{"blockReason": "SAFETY"}, {"blockReason": 1}])
def test_a_blocked_prompt_is_billed_and_complete(feedback: dict[str, Any]) -> None:
    reading = whole(usage=used(12, None), promptFeedback=feedback)
    assert reading.complete
    assert only(reading) == Usage(input_tokens=12, output_tokens=0)


def test_a_candidate_that_was_stopped_for_safety_is_complete() -> None:
    reading = whole(said(None, "SAFETY"), usage=used(12, None))
    assert reading.complete
    assert only(reading).output_tokens == 0


def test_numbers_for_enums() -> None:
    usage = used(74, 16, 200, trafficType=1, promptTokensDetails=[{"modality": 1, "tokenCount": 74}])
    reading = whole(said("x", 1), usage=usage)
    assert reading.complete
    assert reading.tier == "ON_DEMAND"
    assert only(reading).input_tokens == 74


@pytest.mark.parametrize("finish", [None, 0, "FINISH_REASON_UNSPECIFIED"])
def test_an_unfinished_reply_is_not_complete(finish: object) -> None:
    reading = whole(said("x", finish), usage=used())
    assert not reading.complete
    assert "final_usage_absent" in reading.notes
    assert only(reading).output_tokens == 4


def test_searches_maps_and_images_of_a_grounded_reply() -> None:
    grounding = {"webSearchQueries": ["a", "b", ""], "imageSearchQueries": ["c"], "groundingChunks": [{"web": {}}]}
    reading = whole(said("x", "STOP", groundingMetadata=grounding), usage=used())
    assert only(reading).web_search_requests == 3
    assert reading.complete
    maps = {"groundingChunks": [{"maps": {"uri": "https://maps.example"}}]}
    reading = whole(said("x", "STOP", groundingMetadata=maps), usage=used())
    assert not reading.complete
    assert reading.notes == ("maps_grounding_unpriced",)


def test_url_context_alone_is_no_search() -> None:
    reading = whole(said("x", "STOP", groundingMetadata={"groundingChunks": [{"web": {}}]}), usage=used())
    assert only(reading).web_search_requests is None


def test_a_special_tier_that_was_asked_for_is_assumed_where_none_is_stated() -> None:
    body = json.dumps(chunk(said("x", "STOP"), usage=used())).encode()
    for asked, tier in (("flex", "flex"), ("standard", None), (None, None)):
        reading = WHOLE.whole(ask(stream=False, tier=asked), body)
        assert reading.tier == tier
        assert ("tier_assumed" in reading.notes) is (tier is not None)
    reading = WHOLE.whole(ask(stream=False, tier="priority"), body, {"x-gemini-service-tier": "standard"})
    assert (reading.tier, reading.notes) == ("standard", ())


def test_what_was_generated_is_measured() -> None:
    parts = [
        {"text": "ab", "thought": True},
        {"text": "\u00fc"},
        {"functionCall": {"name": "fn", "args": {"a": 1.5}}},
        {"executableCode": {"code": "print()", "language": "PYTHON"}},
        {"codeExecutionResult": {"output": "not generated"}},
        {"inlineData": {"data": "aGVsbG8="}},
        7,
    ]
    reading = whole({"content": {"parts": parts}, "finishReason": "STOP"}, usage=used())
    assert reading.generated_bytes == 2 + 2 + len("fn") + len('{"a":"1.5"}') + len("print()")


def test_an_array_of_chunks_that_came_whole() -> None:
    body = array(chunk(said("a"), usage=used(10, 1)), chunk(said("b", "STOP"), usage=used(10, 2)))
    reading = STREAMED.whole(ask(), body)
    assert reading.complete
    assert only(reading).output_tokens == 2


@pytest.mark.parametrize(
    ("body", "notes"),
    [
        (b"", ("body_not_json",)),
        (b"<html>", ("body_not_json",)),
        (b'{"usageMetadata":{"promptTokenCount":1', ("body_not_json",)),
        (b"[1]", ("body_unexpected", "usage_absent")),
        (b"7", ("body_unexpected", "usage_absent")),
        (b"{}", ("usage_absent",)),
        (b'{"usageMetadata":[]}', ("usage_malformed", "usage_absent")),
        (b'{"candidates":{"x":1},"usageMetadata":null,"promptFeedback":3}', ("usage_absent",)),
        (b'{"a":' + b"[" * 100_000, ("body_not_json",)),
        (b"\xff\xfe", ("body_not_json",)),
    ],
)
def test_odd_bodies_are_incomplete_readings(body: bytes, notes: tuple[str, ...]) -> None:
    reading = WHOLE.whole(ask(stream=False), body)
    assert not reading.complete
    assert reading.notes == notes
    assert reading.work == ()


def test_counting_tokens_is_free() -> None:
    request = read(operation=COUNTED)
    reading = COUNTED.whole(request, b'{"totalTokens":31,"promptTokensDetails":[{"modality":"TEXT","tokenCount":31}]}')
    assert reading == Reading(complete=True)


def test_an_error_body() -> None:
    body = b'{"error":{"code":429,"message":"slow down","status":"RESOURCE_EXHAUSTED"}}'
    assert WHOLE.whole(ask(stream=False), body).error_code == "RESOURCE_EXHAUSTED"
    assert WHOLE.whole(ask(stream=False), b'{"error":"no"}').error_code == "provider_error"


# -- streams

USUAL = (
    chunk(said("Hel"), usage=used(10, 1)),
    chunk(said("l\u00f6"), usage=used(10, 3, 20)),
    chunk(said("", "STOP"), usage=used(10, 4, 20, serviceTier="standard")),
)


@pytest.mark.parametrize(("body", "headers"), [(events(*USUAL), SSE), (array(*USUAL), ARRAY)], ids=["sse", "array"])
def test_a_stream_split_anywhere_reads_the_same_and_passes_unchanged(body: bytes, headers: dict[str, str]) -> None:
    reading, seen, ended = stream(body, headers=headers)
    assert seen == body
    assert ended
    assert reading.complete
    assert only(reading) == Usage(input_tokens=10, output_tokens=24, reasoning_output_tokens=20)
    assert (reading.tier, reading.response_id, reading.generated_bytes) == ("standard", "resp-1", 6)
    for size in range(1, len(body)):
        assert stream(body, size, headers) == (reading, seen, ended)


def test_of_each_field_the_last_chunk_that_has_it_holds() -> None:
    body = events(
        chunk(said("a"), usage=used(10, 5, 20, cachedContentTokenCount=8)),
        chunk(said("b", "STOP"), usage={"candidatesTokenCount": 3, "promptTokenCount": None, "totalTokenCount": 33}),
    )
    reading, _, _ = stream(body)
    assert reading.complete
    assert only(reading) == Usage(
        input_tokens=10, output_tokens=23, reasoning_output_tokens=20, cache_read_input_tokens=8
    )


@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        (USUAL[:2], "final_usage_absent"),
        ((USUAL[0], chunk(said("x", "STOP"))), "final_usage_absent"),
        ((chunk(said("x", "STOP")),), "usage_absent"),
    ],
)
@pytest.mark.parametrize(("form", "headers"), [(events, SSE), (array, ARRAY)], ids=["sse", "array"])
def test_a_stream_without_its_final_usage_is_not_complete(
    chunks: Any, note: str, form: Any, headers: dict[str, str]
) -> None:
    reading, _, _ = stream(form(*chunks), headers=headers)
    assert not reading.complete
    assert note in reading.notes


def test_usage_after_the_last_candidate_is_final() -> None:
    reading, _, ended = stream(events(USUAL[0], chunk(said("x", "STOP")), chunk(usage=used(10, 9))))
    assert ended
    assert reading.complete
    assert only(reading).output_tokens == 9


def test_every_candidate_has_to_finish() -> None:
    first = events(chunk(said("a", None, 0), said("b", None, 1), usage=used(10, 2)))
    one = events(chunk(said("a", "STOP", 0), usage=used(10, 3)))
    two = events(chunk(said("b", "MAX_TOKENS", 1), usage=used(10, 4)))
    reading, _, ended = stream(first + one, choices=2)
    assert (reading.complete, ended) == (False, False)
    reading, _, ended = stream(first + one + two, choices=2)
    assert (reading.complete, ended) == (True, True)
    reading, _, ended = stream(one, choices=2)
    assert (reading.complete, ended) == (True, False), "fewer candidates than asked for may be all there are"


def test_a_blocked_prompt_ends_the_stream() -> None:
    reading, _, ended = stream(events(chunk(usage=used(12, None), promptFeedback={"blockReason": "SAFETY"})))
    assert ended
    assert reading.complete
    assert only(reading) == Usage(input_tokens=12, output_tokens=0)


def test_searches_repeated_in_later_chunks_count_once() -> None:
    grounding: dict[str, Any] = {"groundingMetadata": {"webSearchQueries": ["tides", "dues"]}}
    body = events(
        chunk(said("a", **grounding), usage=used(10, 1)), chunk(said("b", "STOP", **grounding), usage=used(10, 2))
    )
    assert only(stream(body)[0]).web_search_requests == 2


def test_an_error_in_a_stream_is_named() -> None:
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    for body, headers in ((events(USUAL[0], error), SSE), (array(USUAL[0], error), ARRAY)):
        reading, seen, ended = stream(body, headers=headers)
        assert seen == body
        assert reading.error_code == "UNAVAILABLE"
        assert "error_in_stream" in reading.notes
        assert not reading.complete
        assert ended is (headers is ARRAY)


@pytest.mark.parametrize("headers", [SSE, ARRAY], ids=["sse", "array"])
def test_a_stream_that_was_cut_reads_what_came(headers: dict[str, str]) -> None:
    body = events(*USUAL) if headers is SSE else array(*USUAL)
    for end in range(len(body)):
        reader = STREAMED.stream_reader(ask(), headers)
        seen = reader.feed(body[:end])
        reading = reader.reading()
        assert seen + reader.rest() == body[:end]
        assert not reading.complete or b'"STOP"' in body[:end]
        for work in reading.work:
            leaves(work.usage)


def test_chunks_that_are_no_json_are_noted_and_passed() -> None:
    body = b"data: {nonsense}\n\n" + events(*USUAL)
    reading, seen, _ = stream(body)
    assert seen == body
    assert reading.complete
    assert reading.notes == ("event_malformed",)
    body = b"[{nonsense}," + array(*USUAL)[1:]
    reading, seen, _ = stream(body, headers=ARRAY)
    assert seen == body
    assert reading.complete
    assert reading.notes == ("event_malformed",)


@given(st.binary(max_size=200), st.sampled_from([SSE, ARRAY]), st.integers(1, 50))
def test_no_bytes_raise_and_all_are_passed_on(noise: bytes, headers: dict[str, str], size: int) -> None:
    for body in (noise, b"data: " + noise + b"\n\n", b"[" + noise + b"]"):
        reading, seen, _ = stream(body, size, headers)
        assert seen == body
        assert not reading.complete
        assert not WHOLE.whole(ask(stream=False), body).complete


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["content", "parts", "text", "index", "finishReason", "groundingMetadata", "webSearchQueries", "args"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["candidates", "usageMetadata", "promptFeedback", "modelVersion", "responseId", "error", "functionCall"]
        ),
        anything | st.lists(anything, max_size=2),
    )
)
def test_members_of_any_type_never_raise(body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    reading = WHOLE.whole(ask(stream=False), data)
    assert stream(b"data: " + data + b"\n\n")[0].work == reading.work


# -- chunks that hold nothing but text are read by a shorter way

PARTS = st.lists(
    st.fixed_dictionaries({"text": st.text(max_size=5)}, optional={"thought": st.booleans()}), min_size=1, max_size=3
)
CANDIDATES: st.SearchStrategy[list[Any]] = st.lists(
    st.fixed_dictionaries(
        {"content": st.fixed_dictionaries({"role": st.just("model"), "parts": PARTS})},
        optional={
            "index": st.integers(0, 2),
            "finishReason": st.sampled_from(["STOP", None]),
            "safetyRatings": st.just([]),
        },
    ),
    max_size=2,
)
USAGES = (
    st.none() | st.sampled_from([3, "x", [], {}]) | st.builds(used, st.integers(1, 9), st.none() | st.integers(0, 9))
)
STATED = st.lists(st.tuples(CANDIDATES, USAGES, st.none() | st.sampled_from(["a", "b"])), min_size=1, max_size=6)


@given(STATED, st.sampled_from([1, 2]))
def test_the_short_way_reads_what_the_long_one_does(
    stated: list[tuple[list[Any], Any, str | None]], choices: int
) -> None:
    def reading(*, plain: bool) -> Reading:
        reader = STREAMED.stream_reader(ask(choices=choices), SSE)
        for candidates, usage, name in stated:
            reader._plain = plain  # type: ignore[attr-defined]
            body = chunk(*candidates, usage=usage, responseId=name)
            reader.feed(b"data: " + json.dumps(body).encode() + b"\r\n\r\n")
        return reader.reading()

    assert reading(plain=True) == reading(plain=False)


def test_of_many_statements_of_usage_the_last_of_each_count_holds() -> None:
    reader = STREAMED.stream_reader(ask(), SSE)
    for number in range(200):
        usage = used(10, number) if number != 150 else used(10, number, 7)
        reader.feed(b"data: " + json.dumps(chunk(said("x"), usage=usage)).encode() + b"\r\n\r\n")
    reader.feed(
        b"data: " + json.dumps(chunk(said("x", "STOP"), usage={"candidatesTokenCount": 900})).encode() + b"\n\n"
    )
    (work,) = reader.reading().work
    assert work.usage == Usage(input_tokens=10, output_tokens=907, reasoning_output_tokens=7)
