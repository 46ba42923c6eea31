"""OpenAI's chat completions at providers of other dialects: the operation, the gateway around it, and the real SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from costbearer import money
from costbearer.config import Config, load
from costbearer.dialects.base import CallRequest, Operation
from costbearer.dialects.registry import Exchange, all_dialects
from costbearer.errors import BodyInvalid
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from tests import test_translate_anthropic as of_anthropic
from tests import test_translate_bedrock as of_bedrock
from tests import test_translate_gemini as of_gemini
from tests.chats import PIXEL, SCHEMA
from tests.harness import FakeWire, gateway, run
from tests.system import Server, running_server

DIALECTS = all_dialects()
EXCHANGE = Exchange(DIALECTS, clock=lambda: 1_800_000_000.9)
PROVIDERS = ["anthropic", "bedrock", "gemini"]
NATIVE = {"anthropic": "chat", "bedrock": "converse", "gemini": "chat"}
HEADERS = {"bedrock": {"x-amzn-requestid": "5c1f-abc"}}


def translated(provider: str) -> Operation:
    operation = EXCHANGE.operation("openai", "chat", provider)
    assert operation is not None
    return operation


def asked(**members: Any) -> CallRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **members}
    return translated("anthropic").read(json.dumps(body).encode())


STREAMING = asked(stream=True)
WITH_USAGE = asked(stream=True, stream_options={"include_usage": True})


def gemini_stream(*, after: bool = False) -> bytes:
    """A stream whose usage comes with the last chunk, or `after` it."""
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 4, "totalTokenCount": 18}
    last = {**of_gemini.reply([{"text": "Ahoy"}]), "usageMetadata": {} if after else usage}
    events = of_gemini.STREAM.replace(b'"finishReason": "STOP"', b'"index": 0') + of_gemini.data(last)
    return events + of_gemini.data({"usageMetadata": usage}) if after else events


STREAMS = {
    "anthropic": of_anthropic.STREAM,
    "bedrock": of_bedrock.STREAM,
    "gemini": gemini_stream(),
    "gemini, usage after its end": gemini_stream(after=True),
}
TOKENS = {"anthropic": (5, 7), "bedrock": (5, 7), "gemini": (9, 9)}
"""What these streams state, in OpenAI's terms: input and output, reasoning among it."""


def relayed(name: str, request: CallRequest, pieces: list[bytes]) -> tuple[bytes, bytes, Any]:
    """(what the caller gets as it comes, what comes at the end, the reading), asked for in the gateway's order."""
    provider = name.partition(",")[0]
    reader = translated(provider).stream_reader(request, HEADERS.get(provider, {}))
    told = b"".join([reader.feed(piece) for piece in pieces])
    reading = reader.reading()
    return told, reader.rest(), reading


def chunks_of(text: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in text.split(b"\n\n") if line]
    found = [json.loads(line) for line in lines if line != b"[DONE]"]
    for chunk in found:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
    return found


@pytest.mark.parametrize("name", STREAMS)
def test_usage_is_what_the_native_reader_reads(name: str) -> None:
    provider = name.partition(",")[0]
    native = DIALECTS[provider].operations[NATIVE[provider]].stream_reader(STREAMING, HEADERS.get(provider, {}))
    native.feed(STREAMS[name])
    expected = native.reading()
    told, rest, reading = relayed(name, WITH_USAGE, [STREAMS[name]])
    assert reading == expected
    assert reading.complete
    usage = chunks_of(told + rest)[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == TOKENS[provider]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_in_openais_order(name: str) -> None:
    told, rest, _ = relayed(name, STREAMING, [STREAMS[name]])
    first, *middle, last = chunks_of(told + rest)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["created"] == 1_800_000_000
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert rest.endswith(b"data: [DONE]\n\n")
    assert all("usage" not in chunk for chunk in [first, *middle, last]), "nobody asked for it"
    assert len({chunk["id"] for chunk in [first, *middle, last]}) == 1


@pytest.mark.parametrize("name", STREAMS)
def test_one_byte_at_a_time_is_the_same(name: str) -> None:
    stream = STREAMS[name]
    whole = relayed(name, WITH_USAGE, [stream])
    bytewise = relayed(name, WITH_USAGE, [stream[at : at + 1] for at in range(len(stream))])
    assert bytewise[0] + bytewise[1] == whole[0] + whole[1]
    assert bytewise[2] == whole[2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_split_anywhere_is_the_same(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(STREAMS)))
    stream = STREAMS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = relayed(name, WITH_USAGE, [stream])
    split = relayed(name, WITH_USAGE, pieces)
    assert split[0] + split[1] == whole[0] + whole[1]
    assert split[2] == whole[2]


@pytest.mark.parametrize("name", STREAMS)
def test_it_ends_where_the_provider_ends(name: str) -> None:
    provider = name.partition(",")[0]
    reader = translated(provider).stream_reader(STREAMING, {})
    stream = STREAMS[name]
    reader.feed(stream[: len(stream) // 2])
    assert not reader.ended
    reader.feed(stream[len(stream) // 2 :])
    assert reader.ended


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_was_cut_has_no_end(name: str) -> None:
    told, rest, reading = relayed(name, WITH_USAGE, [STREAMS[name][: len(STREAMS[name]) // 3]])
    assert b"[DONE]" not in told + rest
    assert b'"finish_reason":"' not in told + rest
    assert not reading.complete


@pytest.mark.parametrize("name", STREAMS)
def test_rest_may_be_asked_for_first(name: str) -> None:
    """And what was given once is not given again."""
    reader = translated(name.partition(",")[0]).stream_reader(WITH_USAGE, {})
    reader.feed(STREAMS[name])
    assert reader.rest().endswith(b"[DONE]\n\n")
    assert reader.rest() == b""
    assert reader.reading().complete


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PROVIDERS), st.lists(st.binary(max_size=80), max_size=4))
def test_no_bytes_raise(provider: str, pieces: list[bytes]) -> None:
    operation = translated(provider)
    relayed(provider, WITH_USAGE, [b"data: ", *pieces])
    for status in (200, 400, 503):
        body = b"".join(pieces)
        assert b"error" in operation.shown(STREAMING, status, body) or body.strip().startswith(b"{")
        operation.whole(STREAMING, body)


WHOLE = {
    "anthropic": of_anthropic.message(of_anthropic.CONTENT, "tool_use"),
    "bedrock": json.dumps(
        {
            **json.loads(of_bedrock.reply(of_bedrock.CONTENT, "tool_use")),
            "usage": {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12},
        }
    ).encode(),
    "gemini": json.dumps(
        {
            **of_gemini.reply([of_gemini.THINKS, of_gemini.SAYS, of_gemini.USES, of_gemini.USES_TOO]),
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 4},
        }
    ).encode(),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_whole_answer(provider: str) -> None:
    operation, request = translated(provider), asked()
    native = DIALECTS[provider].operations[NATIVE[provider]]
    assert operation.whole(request, WHOLE[provider]) == native.whole(request, WHOLE[provider])
    shown = ChatCompletion.model_validate_json(operation.shown(request, 200, WHOLE[provider]), strict=True)
    assert shown.created == 1_800_000_000
    assert shown.id
    assert shown.choices[0].finish_reason == "tool_calls"
    assert shown.usage is not None
    assert (shown.usage.prompt_tokens, shown.usage.completion_tokens) == TOKENS[provider]
    calls = shown.choices[0].message.tool_calls
    assert calls is not None
    assert len(calls) == 2
    assert [json.loads(call.function.arguments) for call in calls if call.type == "function"][1] == {}


def test_usage_keeps_cache_and_reasoning() -> None:
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 40,
        "cache_read_input_tokens": 500,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 6},
    }
    body = of_anthropic.message([of_anthropic.SAYS], usage=usage)
    assert json.loads(translated("anthropic").shown(asked(), 200, body))["usage"] == {
        "prompt_tokens": 543,
        "completion_tokens": 9,
        "total_tokens": 552,
        "prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 6},
    }


def test_cache_writes_live_as_long_as_the_caller_asked() -> None:
    """Where the provider states no split, the native reader needs the lifetime that the request asked for."""
    mark = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 40, "output_tokens": 9}
    body = of_anthropic.message([of_anthropic.SAYS], usage=usage)
    reading = translated("anthropic").whole(asked(messages=[{"role": "user", "content": [mark]}]), body)
    assert reading.work[0].usage.cache_creation_1h_input_tokens == 40
    assert translated("anthropic").whole(asked(), body).work[0].usage.cache_creation_1h_input_tokens != 40


ERRORS = [
    ("anthropic", 429, of_anthropic.ERROR, "rate_limit_error", "rate_limit_error", "Slow down"),
    ("bedrock", 429, {"message": "Slow down"}, "ThrottlingException", "ThrottlingException", "Slow down"),
    ("gemini", 400, of_gemini.ERROR, "INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid."),
]


@pytest.mark.parametrize(("provider", "status", "body", "kind", "code", "message"), ERRORS)
def test_errors_in_openais_shape(provider: str, status: int, body: Any, kind: str, code: str, message: str) -> None:
    shown = json.loads(translated(provider).shown(asked(), status, json.dumps(body).encode()))
    assert shown == {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        ({"x-amzn-errortype": "ServiceQuotaExceededException"}, {}, "ServiceQuotaExceededException"),
        ({"x-amzn-errortype": "ModelTimeoutException:http://internal.amazon.com/x/"}, {}, "ModelTimeoutException"),
        ({"x-amzn-errortype": "a#ModelErrorException:http://x"}, {}, "ModelErrorException"),
        ({"x-amzn-errortype": "<script>"}, {}, "ThrottlingException"),
        ({}, {"__type": "com.amazon#ModelNotReadyException"}, "ModelNotReadyException"),
        ({}, {}, "ThrottlingException"),
    ],
)
def test_bedrock_names_its_error_in_a_header(headers: dict[str, str], body: dict[str, str], kind: str) -> None:
    told = json.dumps({"message": "no", **body}).encode()
    shown = json.loads(translated("bedrock").shown(asked(), 429, told, headers))
    assert (shown["error"]["type"], shown["error"]["code"]) == (kind, kind)


def test_what_the_native_operation_hides_stays_hidden() -> None:
    secret = {"message": "User: arn:aws:iam::123456789012:user/gateway is not authorized"}
    assert b"arn:" not in translated("bedrock").shown(asked(), 403, json.dumps(secret).encode())


def test_nothing_else_is_translated() -> None:
    for caller, operation, provider in (("anthropic", "chat", "openai"), ("openai", "embeddings", "anthropic")):
        assert EXCHANGE.operation(caller, operation, provider) is None
    assert Exchange({"openai": DIALECTS["openai"]}).operation("openai", "chat", "anthropic") is None


# -- the gateway

MODELS = {
    "anthropic": "claude-sonnet-4-6",
    "google": "gemini-3.1-flash-lite",
    "bedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}
OTHERS = """
[providers.google]
dialect = "gemini"
base_url = "{origin}"
api_key_file = "{key}"
[providers.bedrock]
dialect = "bedrock"
price_provider = "aws"
base_url = "{origin}"
api_key_file = "{key}"
"""
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": "Finds it.", "parameters": SCHEMA}}
    for name in ("find_ship", "find_berth")
]
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    simulator.reset()
    key = tmp_path / "provider-key"
    key.write_text(CREDENTIAL)
    file = tmp_path / "costbearer.toml"
    first = f'[providers.anthropic]\ndialect = "anthropic"\nbase_url = "{simulator.anthropic_base_url}"'
    file.write_text(f'{first}\napi_key_file = "{key}"\n{OTHERS.format(origin=simulator.origin, key=key)}')
    return load(file, overrides={"data": str(tmp_path / "data")}, environ={})


def question(model: str, directive: str = "", **members: Any) -> dict[str, Any]:
    content = "Tell me about the sea." + (f" [[sim:{directive}]]" if directive else "")
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 200, **members}


def total(simulator: RunningSimulator) -> Decimal:
    return money.total(money.usd(line.cost) for line in simulator.books() if line.billed)


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("plain", "", {}),
    ("tools", "tool=2", {"tools": TOOLS}),
    ("an effort", "", {"reasoning_effort": "low", "max_tokens": 3000}),
    ("a schema", "", {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}),
    ("tags", "", {"metadata": {"tags": ["feature:search"]}}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize(("directive", "members"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_a_call_costs_what_the_provider_billed(
    provider: str, stream: bool, directive: str, members: dict[str, Any], config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(question(MODELS[provider], directive, stream=stream, **members))
            assert wire.status == 200, wire.body
            (entry,) = running.entries()
            assert (entry.basis, entry.status, entry.provider) == ("metered", "ok", provider)
            assert entry.cost_usd == total(simulator)
            assert entry.bound_usd is not None
            assert entry.bound_usd >= entry.cost_usd
            if stream:
                assert wire.headers["content-type"] == "text/event-stream"
                assert wire.body.endswith(b"data: [DONE]\n\n")
                assert not any("usage" in chunk for chunk in chunks_of(wire.body))
            else:
                usage = wire.json["usage"]
                assert usage["prompt_tokens"] == entry.usage.input_tokens
                assert usage["completion_tokens"] == entry.usage.output_tokens

    run(body)


@pytest.mark.parametrize("provider", MODELS)
def test_the_outcome_is_written_before_the_last_byte_leaves(provider: str, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            data = json.dumps(question(MODELS[provider], stream=True)).encode()
            wire = FakeWire(data)
            seen: list[int] = []
            wire.on_send = lambda piece: seen.append(len(running.frames())) if b"[DONE]" in piece else None
            await running.ask(data, wire=wire)
            assert seen == [2], "intent and outcome stand when the end marker leaves"

    run(body)


@pytest.mark.parametrize("provider", MODELS)
def test_a_stream_that_breaks_ends_with_an_error(provider: str, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(question(MODELS[provider], "output=60 close_after=700", stream=True))
            assert wire.status == 200
            last = chunks_of(wire.body.rpartition(b"data: ")[0])[-1]
            assert last["choices"][0]["finish_reason"] is None
            assert b'"code":"upstream_failed"' in wire.body
            (entry,) = running.entries()
            assert entry.basis == "estimated"

    run(body)


@pytest.mark.parametrize("provider", MODELS)
def test_an_error_of_the_provider(provider: str, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(question(MODELS[provider], "status=400"))
            assert wire.status == 400
            assert set(wire.json["error"]) == {"message", "type", "param", "code"}
            assert running.total() == 0

    run(body)


@pytest.mark.parametrize("provider", MODELS)
def test_what_cannot_be_translated_is_refused_before_anything_is_sent(provider: str, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(question(MODELS[provider], logprobs=True))
            assert (wire.status, wire.error_code) == (400, "body_invalid")
            assert '"logprobs"' in wire.json["error"]["message"]
            assert running.entries() == []

    run(body)


def test_the_refusal_is_the_callers_error() -> None:
    with pytest.raises(BodyInvalid, match="logprobs"):
        translated("gemini").outgoing(asked(logprobs=True), "gemini-2.5-pro")


# -- the official SDK


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    extra = OTHERS.format(origin=simulator.origin, key=directory / "provider-key")
    with running_server(directory, simulator, extra=extra) as running:
        yield running


class Sdk:
    """The `openai` package, and the cost of everything that was asked under one mark."""

    def __init__(self, server: Server, simulator: RunningSimulator, mark: str) -> None:
        self._server, self._simulator, self.mark = server, simulator, mark
        self.client = openai.OpenAI(base_url=f"{server.gateway_url}/v1", api_key=server.issue(), max_retries=0)
        self.create: Any = self.client.chat.completions.create

    def says(self, *orders: str) -> str:
        return f"Say something. [[sim:mark={self.mark} {' '.join(orders)}]]"

    def assert_the_books_agree(self, count: int) -> None:
        end = time.monotonic() + 15
        entries: list[dict[str, Any]] = []
        while len(entries) < count and time.monotonic() < end:
            entries = self._server.api("GET", "/api/v1/entries", params={"tag:mark": self.mark})["entries"]
            time.sleep(0.05)
        assert len(entries) == count
        billed = sum((line.cost for line in self._simulator.books() if line.mark == self.mark), Decimal(0))
        assert sum(Decimal(entry["cost_usd"]) for entry in entries) == billed > 0
        assert {entry["basis"] for entry in entries} == {"metered"}


@pytest.fixture(params=MODELS)
def sdk(request: pytest.FixtureRequest, server: Server, simulator: RunningSimulator) -> Iterator[tuple[Sdk, str]]:
    mark = f"{request.param}-{request.node.originalname}"[:60]
    asking = Sdk(server, simulator, mark)
    with asking.client:
        yield asking, MODELS[request.param]


def tags(mark: str) -> dict[str, Any]:
    return {"tags": [f"mark:{mark}"]}


@pytest.mark.slow
def test_the_sdk_asks_and_is_answered(sdk: tuple[Sdk, str]) -> None:
    client, model = sdk
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": client.says()}]
    answer = client.create(model=model, messages=messages, metadata=tags(client.mark))
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    short = client.create(model=model, messages=messages, max_tokens=4, metadata=tags(client.mark))
    assert short.choices[0].finish_reason == "length"
    client.assert_the_books_agree(2)


@pytest.mark.slow
def test_the_sdk_streams(sdk: tuple[Sdk, str]) -> None:
    client, model = sdk
    messages = [{"role": "user", "content": [{"type": "text", "text": client.says("output=40")}, IMAGE]}]
    options = {"stream": True, "stream_options": {"include_usage": True}, "metadata": tags(client.mark)}
    *chunks, last = list(client.create(model=model, messages=messages, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage.completion_tokens >= 40
    client.assert_the_books_agree(1)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_the_sdk_calls_tools_in_parallel(sdk: tuple[Sdk, str], stream: bool) -> None:
    client, model = sdk
    client.mark += f"-{stream}"
    messages: list[Any] = [{"role": "user", "content": client.says("tool=2")}]
    asking = {"model": model, "tools": TOOLS, "metadata": tags(client.mark)}
    if stream:
        calls: dict[int, dict[str, Any]] = {}
        for chunk in client.create(messages=messages, stream=True, **asking):
            for call in chunk.choices[0].delta.tool_calls or []:
                known = calls.setdefault(
                    call.index,
                    {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": ""}},
                )
                known["function"]["arguments"] += call.function.arguments
        assert sorted(calls) == [0, 1]
        messages.append({"role": "assistant", "tool_calls": list(calls.values())})
    else:
        answer = client.create(messages=messages, **asking)
        assert answer.choices[0].finish_reason == "tool_calls"
        messages.append(answer.choices[0].message)
    made = messages[1]["tool_calls"] if stream else [call.model_dump() for call in messages[1].tool_calls]
    assert len({call["id"] for call in made}) == 2
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in made)
    messages += [{"role": "tool", "tool_call_id": call["id"], "content": '{"depth_m": 4.5}'} for call in made]
    final = client.create(messages=messages, **asking)
    assert final.choices[0].message.content
    client.assert_the_books_agree(2)


@pytest.mark.slow
def test_the_sdk_asks_for_a_form(sdk: tuple[Sdk, str]) -> None:
    client, model = sdk
    form = {"type": "json_schema", "json_schema": {"name": "found", "strict": True, "schema": SCHEMA}}
    messages = [{"role": "user", "content": client.says()}]
    answer = client.create(model=model, messages=messages, response_format=form, metadata=tags(client.mark))
    assert answer.choices[0].message.content
    client.assert_the_books_agree(1)


@pytest.mark.slow
def test_the_sdk_meets_errors_as_its_own(sdk: tuple[Sdk, str]) -> None:
    client, model = sdk
    with pytest.raises(openai.BadRequestError) as refused:
        client.create(model=model, messages=[{"role": "user", "content": client.says()}], logprobs=True)
    assert refused.value.code == "body_invalid"
    with pytest.raises(openai.RateLimitError) as limited:
        client.create(model=model, messages=[{"role": "user", "content": client.says("status=429")}])
    assert limited.value.code in {"rate_limit_error", "ThrottlingException", "RESOURCE_EXHAUSTED"}
    with pytest.raises(openai.APIError):
        list(
            client.create(
                model=model, messages=[{"role": "user", "content": client.says("output=40 error_event=3")}], stream=True
            )
        )
