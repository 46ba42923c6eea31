"""One reply of every API as it states its usage, and what is to be read and charged of it.

The counts are made up, the shapes are the providers'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from costbearer.dialects import eventstream
from costbearer.usage import Usage
from tests.test_bedrock_invoke import chunk


class Row(NamedTuple):
    """A reply of one operation. `used` is by model what must be read, `None` standing for the one that was asked.

    `cost` is what the uses cost at `seller` in US dollars per million of everything, worked out by hand.
    """

    name: str
    operation: str
    reply: bytes
    used: Mapping[str | None, Usage]
    seller: str = ""
    cost: str | None = None
    model: str = "asked"
    stream: bool = False
    stated_cost: str | None = None


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


def sse(*events: Any, names: bool = False, done: bool = False) -> bytes:
    lines = []
    for event in events:
        head = f"event: {event['type']}\n" if names else ""
        lines.append(f"{head}data: {json.dumps(event)}\n\n")
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def chat(model: str = "served", **usage: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    return body(id="c1", model=model, choices=[choice], usage=usage)


def chat_stream(usage: dict[str, Any], last: dict[str, Any] | None = None, *more: dict[str, Any]) -> bytes:
    said = {"id": "c1", "model": "served", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
    end = {
        "id": "c1",
        "model": "served",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        **(last or {}),
    }
    final = [{"id": "c1", "model": "served", "choices": [], "usage": usage}] if usage else []
    return sse(said, end, *final, *more, done=True)


def response(model: str = "served", **usage: Any) -> dict[str, Any]:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    return {"id": "r1", "object": "response", "status": "completed", "model": model, "output": [said], "usage": usage}


def message(model: str = "served", **usage: Any) -> bytes:
    said = [{"type": "text", "text": "Hi"}]
    return body(
        id="m1", type="message", role="assistant", model=model, content=said, stop_reason="end_turn", usage=usage
    )


def message_stream(model: str, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    begun = {"id": "m1", "type": "message", "role": "assistant", "model": model, "content": [], "usage": start}
    return sse(
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        *({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage} for usage in deltas),
        {"type": "message_stop"},
        names=True,
    )


def candidates(finish: str | None = "STOP", text: str = "Hi") -> list[dict[str, Any]]:
    said = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
    return [said | ({"finishReason": finish} if finish else {})]


def content(**usage: Any) -> bytes:
    return body(candidates=candidates(), usageMetadata=usage, modelVersion="served", responseId="g1")


def converse(**usage: Any) -> bytes:
    said = {"message": {"role": "assistant", "content": [{"text": "Hi"}]}}
    return body(output=said, stopReason="end_turn", usage=usage, metrics={"latencyMs": 1})


def converse_stream(usage: dict[str, Any]) -> bytes:
    events: list[tuple[str, dict[str, Any]]] = [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hi"}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]
    head = {":content-type": "application/json", ":message-type": "event"}
    return b"".join(eventstream.encode({":event-type": kind, **head}, body(**told)) for kind, told in events)


CHAT, RESPONSES, MESSAGES = "openai/chat", "openai/responses", "anthropic/chat"
CACHE = {"cache_read_input_tokens": 50, "cache_creation_input_tokens": 30}
FIRST = {"input_tokens": 20, "output_tokens": 1, **CACHE, "service_tier": "standard"}
STEP = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}

ROWS: tuple[Row, ...] = (
    # -- OpenAI: everything is inside
    Row(
        "chat: cached and written prompt, reasoning inside",
        CHAT,
        chat(
            "gpt-5.6-sol",
            prompt_tokens=1000,
            completion_tokens=200,
            total_tokens=1200,
            prompt_tokens_details={"cached_tokens": 300, "cache_write_tokens": 400, "audio_tokens": 0},
            completion_tokens_details={"reasoning_tokens": 150, "rejected_prediction_tokens": 20},
        ),
        {
            "gpt-5.6-sol": Usage(
                input_tokens=1000,
                output_tokens=200,
                cache_read_input_tokens=300,
                cache_creation_input_tokens=400,
                reasoning_output_tokens=150,
                audio_input_tokens=0,
            )
        },
        "openai",
        # 300 plain at 4, 300 cached at 0.40, 400 written at 5, 200 out at 20
        str(300 * 4 + Decimal("0.40") * 300 + 400 * 5 + 200 * 20),
    ),
    Row(
        "chat: a write is input where the model has no fee for it",
        CHAT,
        chat(
            "gpt-4o-mini",
            prompt_tokens=100,
            completion_tokens=0,
            total_tokens=100,
            prompt_tokens_details={"cache_write_tokens": 40},
        ),
        {"gpt-4o-mini": Usage(input_tokens=100, output_tokens=0, cache_creation_input_tokens=40)},
        "openai",
        "15.00",
    ),
    Row(
        "chat streamed: the usage in a chunk without choices",
        CHAT,
        chat_stream({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}),
        {"served": Usage(input_tokens=10, output_tokens=4)},
        stream=True,
    ),
    Row(
        "responses: the same under other names",
        RESPONSES,
        body(
            **response(
                "gpt-5",
                input_tokens=1000,
                input_tokens_details={"cached_tokens": 600, "cache_write_tokens": 0},
                output_tokens=100,
                output_tokens_details={"reasoning_tokens": 64},
                total_tokens=1100,
            )
        ),
        {
            "gpt-5": Usage(
                input_tokens=1000,
                output_tokens=100,
                cache_read_input_tokens=600,
                cache_creation_input_tokens=0,
                reasoning_output_tokens=64,
            )
        },
        "openai",
        str(400 * Decimal("1.25") + 600 * Decimal("0.125") + 100 * 10),
    ),
    Row(
        "responses streamed: usage with the last event, whatever it is",
        RESPONSES,
        sse(
            {"type": "response.created", "response": {"id": "r1", "model": "served", "usage": None}},
            {"type": "response.output_text.delta", "delta": "Hi"},
            {
                "type": "response.incomplete",
                "response": {
                    **response(input_tokens=10, output_tokens=4, total_tokens=14),
                    "status": "incomplete",
                },
            },
            names=True,
        ),
        {"served": Usage(input_tokens=10, output_tokens=4)},
        stream=True,
    ),
    # -- Anthropic: three disjoint counts of input
    Row(
        "messages: input is the sum of three, thinking inside the output",
        MESSAGES,
        message(
            "claude-sonnet-4-6",
            input_tokens=3,
            cache_creation_input_tokens=418,
            cache_read_input_tokens=1111,
            cache_creation={"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 18},
            output_tokens=33,
            output_tokens_details={"thinking_tokens": 20},
            server_tool_use={"web_search_requests": 2, "web_fetch_requests": 5},
        ),
        {
            "claude-sonnet-4-6": Usage(
                input_tokens=1532,
                output_tokens=33,
                cache_read_input_tokens=1111,
                cache_creation_input_tokens=418,
                cache_creation_1h_input_tokens=18,
                reasoning_output_tokens=20,
                web_search_requests=2,
            )
        },
        "anthropic",
        # plain 3, five minutes 3.75, an hour 6, read 0.30, out 15; a search is 10 per 1,000; a fetch is free
        str(3 * 3 + 400 * Decimal("3.75") + 18 * 6 + 1111 * Decimal("0.30") + 33 * 15 + 2 * 10_000),
    ),
    Row(
        "messages streamed: the last delta overwrites field by field, what it lacks stays",
        MESSAGES,
        message_stream("served", FIRST, {"output_tokens": 9}, {"input_tokens": 70, "output_tokens": 40}),
        {
            "served": Usage(
                input_tokens=150, output_tokens=40, cache_read_input_tokens=50, cache_creation_input_tokens=30
            )
        },
        stream=True,
    ),
    Row(
        "messages streamed: a count that falls is what it fell to",
        MESSAGES,
        message_stream("served", FIRST, {**STEP, "input_tokens": 20, "output_tokens": 40}),
        {"served": Usage(input_tokens=20, output_tokens=40, cache_read_input_tokens=0, cache_creation_input_tokens=0)},
        stream=True,
    ),
    Row(
        "messages: a loop of server tools is a sum, and no long context",
        MESSAGES,
        message(
            "claude-sonnet-4-5",
            input_tokens=404_500,
            output_tokens=943,
            server_tool_use={"web_search_requests": 10},
        ),
        {"claude-sonnet-4-5": Usage(input_tokens=404_500, output_tokens=943, web_search_requests=10)},
        "anthropic",
        # 1.327645 USD: 3 and 15 per million, not 6 and 22.50
        str(404_500 * 3 + 943 * 15 + 10 * 10_000),
    ),
    Row(
        "messages: compaction is outside the totals",
        MESSAGES,
        message(
            "claude-sonnet-4-6",
            input_tokens=229,
            output_tokens=5,
            iterations=[
                {"type": "compaction", "input_tokens": 100, "output_tokens": 131, **STEP}
                | {"cache_creation_input_tokens": 55_096},
                {"type": "message", "input_tokens": 229, "output_tokens": 5, **STEP},
            ],
        ),
        {
            None: Usage(
                input_tokens=55_425,
                output_tokens=136,
                cache_read_input_tokens=0,
                cache_creation_input_tokens=55_096,
            )
        },
        "anthropic",
        # 0.209637 USD, 275 times what the totals alone would say
        str((100 + 229) * 3 + 55_096 * Decimal("3.75") + 136 * 15),
        model="claude-sonnet-4-6",
    ),
    Row(
        "messages: an advisor is another model, outside the totals",
        MESSAGES,
        message(
            "claude-sonnet-4-6",
            input_tokens=2411,
            output_tokens=145,
            iterations=[
                {"type": "message", "input_tokens": 1128, "output_tokens": 135},
                {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2543, "output_tokens": 18},
                {"type": "message", "input_tokens": 1283, "output_tokens": 10},
            ],
        ),
        {
            "claude-sonnet-4-6": Usage(input_tokens=2411, output_tokens=145),
            "claude-opus-4-8": Usage(input_tokens=2543, output_tokens=18),
        },
        "anthropic",
        str(2411 * 3 + 145 * 15 + 2543 * 5 + 18 * 25),
    ),
    Row(
        "messages: a fallback served; the hop that declined is a line of its own",
        MESSAGES,
        message(
            "claude-opus-4-8",
            input_tokens=412,
            output_tokens=264,
            iterations=[
                {"type": "message", "model": "claude-sonnet-4-6", "input_tokens": 408, "output_tokens": 0},
                {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 412, "output_tokens": 264},
            ],
        ),
        {
            "claude-sonnet-4-6": Usage(input_tokens=408, output_tokens=0),
            "claude-opus-4-8": Usage(input_tokens=412, output_tokens=264),
        },
        "anthropic",
        str(408 * 3 + 412 * 5 + 264 * 25),
    ),
    # -- Gemini: thoughts and the tools' prompt outside
    Row(
        "generateContent: output is candidates and thoughts, input prompt and the tools' prompt",
        "gemini/chat",
        content(
            promptTokenCount=257,
            cachedContentTokenCount=57,
            candidatesTokenCount=40,
            thoughtsTokenCount=60,
            toolUsePromptTokenCount=43,
            totalTokenCount=400,
            # Details need not add up; and enums may be numbers.
            promptTokensDetails=[{"modality": 1, "tokenCount": 196}],
            trafficType=1,
        ),
        {"served": Usage(input_tokens=300, output_tokens=100, cache_read_input_tokens=57, reasoning_output_tokens=60)},
    ),
    Row(
        "generateContent streamed: the last that states a count holds",
        "gemini/chat.stream",
        sse(
            {
                "candidates": candidates(None),
                "usageMetadata": {"promptTokenCount": 10, "thoughtsTokenCount": 5, "totalTokenCount": 15},
                "modelVersion": "served",
            },
            {
                "candidates": candidates(),
                "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 7, "totalTokenCount": 22},
            },
        ),
        {"served": Usage(input_tokens=10, output_tokens=12, reasoning_output_tokens=5)},
        stream=True,
    ),
    Row(
        "interactions: the same under other names",
        "gemini/interactions",
        body(
            id="i1",
            model="served",
            status="completed",
            outputs=[{"type": "text", "text": "Hi"}],
            usage={
                "total_input_tokens": 100,
                "total_cached_tokens": 30,
                "total_output_tokens": 40,
                "total_thought_tokens": 60,
                "total_tool_use_tokens": 5,
                "total_tokens": 205,
            },
        ),
        {"served": Usage(input_tokens=105, output_tokens=100, cache_read_input_tokens=30, reasoning_output_tokens=60)},
    ),
    Row(
        "Gemini's OpenAI endpoint: thoughts hide in the total",
        CHAT,
        chat(prompt_tokens=10, completion_tokens=4, total_tokens=64),
        {"served": Usage(input_tokens=10, output_tokens=54)},
    ),
    # -- Bedrock: three disjoint counts, aliases that must not be added
    Row(
        "Converse: input is the sum of three, each under two names",
        "bedrock/converse",
        converse(
            inputTokens=3,
            outputTokens=9,
            totalTokens=1450,
            cacheReadInputTokens=1322,
            cacheReadInputTokenCount=1322,
            cacheWriteInputTokens=116,
            cacheWriteInputTokenCount=116,
            cacheDetails=[{"ttl": "1h", "inputTokens": 100}, {"ttl": "5m", "inputTokens": 16}],
        ),
        {
            None: Usage(
                input_tokens=1441,
                output_tokens=9,
                cache_read_input_tokens=1322,
                cache_creation_input_tokens=116,
                cache_creation_1h_input_tokens=100,
            )
        },
    ),
    Row(
        "ConverseStream: the usage is the last event",
        "bedrock/converse_stream",
        converse_stream({"inputTokens": 10, "outputTokens": 4, "totalTokens": 14}),
        {None: Usage(input_tokens=10, output_tokens=4)},
        stream=True,
    ),
    Row(
        "InvokeModel at Anthropic: as Anthropic",
        "bedrock/invoke",
        message(input_tokens=3, cache_creation_input_tokens=7, cache_read_input_tokens=90, output_tokens=5),
        {None: Usage(input_tokens=100, output_tokens=5, cache_read_input_tokens=90, cache_creation_input_tokens=7)},
        model="us.anthropic.claude-sonnet-4-6",
    ),
    Row(
        "InvokeModel streamed: base64 in frames, and what the meter of the platform says",
        "bedrock/invoke_stream",
        b"".join(
            chunk(inner)
            for inner in [
                {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {"input_tokens": 10}}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
                {
                    "type": "message_stop",
                    "amazon-bedrock-invocationMetrics": {"inputTokenCount": 10, "outputTokenCount": 4},
                },
            ]
        ),
        {None: Usage(input_tokens=10, output_tokens=4)},
        model="us.anthropic.claude-sonnet-4-6",
        stream=True,
    ),
    # -- compatible providers, each by what it does differently
    Row(
        "xAI's chat: reasoning outside the output; the cost in ticks",
        CHAT,
        chat(
            prompt_tokens=10,
            completion_tokens=4,
            total_tokens=64,
            completion_tokens_details={"reasoning_tokens": 50},
            cost_in_usd_ticks=1_641_500,
        ),
        {"served": Usage(input_tokens=10, output_tokens=54, reasoning_output_tokens=50)},
        stated_cost="0.000164150000",
    ),
    Row(
        "xAI's responses: reasoning inside",
        RESPONSES,
        body(
            **response(
                input_tokens=10,
                output_tokens=54,
                total_tokens=64,
                output_tokens_details={"reasoning_tokens": 50},
            )
        ),
        {"served": Usage(input_tokens=10, output_tokens=54, reasoning_output_tokens=50)},
    ),
    Row(
        "DeepSeek: hits are inside the prompt",
        CHAT,
        chat(
            prompt_tokens=100,
            completion_tokens=4,
            total_tokens=104,
            prompt_cache_hit_tokens=64,
            prompt_cache_miss_tokens=36,
        ),
        {"served": Usage(input_tokens=100, output_tokens=4, cache_read_input_tokens=64)},
    ),
    Row(
        "Groq streamed: the usage twice is once",
        CHAT,
        chat_stream(
            {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
            {"x_groq": {"id": "q", "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}}},
        ),
        {"served": Usage(input_tokens=10, output_tokens=4)},
        stream=True,
    ),
    Row(
        "Moonshot streamed: the usage inside the choice",
        CHAT,
        sse(
            {
                "id": "c1",
                "model": "served",
                "choices": [
                    {
                        "index": 0,
                        "delta": {"content": "Hi"},
                        "finish_reason": "stop",
                        "usage": {
                            "prompt_tokens": 10,
                            "completion_tokens": 4,
                            "total_tokens": 14,
                            "cached_tokens": 8,
                        },
                    }
                ],
            },
            done=True,
        ),
        {"served": Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=8)},
        stream=True,
    ),
    Row(
        "Cohere: billed units, not tokens",
        "cohere/chat",
        body(
            id="c1",
            finish_reason="COMPLETE",
            message={"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
            usage={
                "billed_units": {"input_tokens": 5, "output_tokens": 2},
                "tokens": {"input_tokens": 71, "output_tokens": 9},
            },
        ),
        {None: Usage(input_tokens=5, output_tokens=2)},
    ),
    Row(
        "OpenRouter: its cost wins; what the upstream billed is inside it",
        CHAT,
        chat(
            prompt_tokens=10,
            completion_tokens=4,
            total_tokens=14,
            cost=0.0125,
            is_byok=False,
            cost_details={"upstream_inference_cost": 0.0125},
            server_tool_use_details={"web_search_requests": 1},
        ),
        {"served": Usage(input_tokens=10, output_tokens=4, web_search_requests=1)},
        stated_cost="0.012500000000",
    ),
    Row(
        "OpenRouter with one's own key: its fee, and the upstream's bill on top",
        CHAT,
        chat(
            prompt_tokens=10,
            completion_tokens=4,
            total_tokens=14,
            cost=0.001,
            is_byok=True,
            cost_details={"upstream_inference_cost": 0.02},
        ),
        {"served": Usage(input_tokens=10, output_tokens=4)},
        stated_cost="0.021000000000",
    ),
    Row(
        "Azure streamed: the first chunk has no choices and is not the usage",
        "azure/chat",
        sse({"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "model": "", "id": ""})
        + chat_stream({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}),
        {"served": Usage(input_tokens=10, output_tokens=4)},
        stream=True,
    ),
    Row(
        "embeddings: no output",
        "openai/embeddings",
        body(object="list", data=[{"embedding": [0.5]}], model="served", usage={"prompt_tokens": 8, "total_tokens": 8}),
        {"served": Usage(input_tokens=8)},
    ),
)
