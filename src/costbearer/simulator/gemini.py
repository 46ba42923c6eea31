"""The simulated Gemini API and Vertex AI: content, streamed in both forms, token counts and embeddings.

Shapes follow https://ai.google.dev/api/generate-content. An address names the model, so there is one `Models` for every
request. Prompts of 1,024 tokens and more are cached without being asked; models think unless their budget is 0; an
image counts 258 tokens. `web_search` orders queries of Google Search, which the request's tools must have: what they
find is tool-use prompt, and they cost per query from Gemini 3 on and per prompt before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from costbearer.simulator.faults import without_marks
from costbearer.simulator.openai import example
from costbearer.simulator.prices import Card, PriceList, Sampling, Terms
from costbearer.simulator.reply import EVENTS, JSON, Ask, Bill, Piece, Plan, Refusal, encode, mistyped
from costbearer.simulator.text import OVERHEAD_TOKENS_MAX, Segment, count, slices, write

NAME = "google"
IMAGE_TOKENS = 258
OUTPUT_TOKENS_MIN = 8
OUTPUT_TOKENS_SPREAD = 120
CACHE_TTL_S = 600
QUERY_TOKENS = 110
DIMENSIONS = 3

OPERATIONS = {
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "countTokens": "count_tokens",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
    "predict": "embeddings",
}
TIERS = (None, "standard", "flex", "priority")

_PATH = re.compile(
    r"/v1(?:beta1?)?/(?P<vertex>(?:projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/)?models/(?P<model>[^/:]+):(?P<verb>\w+)"
)
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FIELDS = """
    cachedContent contents generationConfig labels safetySettings serviceTier store systemInstruction toolConfig tools
"""
_FIELDS_OF = {
    "generate_content": frozenset(_FIELDS.split()),
    "count_tokens": frozenset(["contents", "generateContentRequest", "systemInstruction", "tools"]),
    "embeddings": frozenset(
        [
            "content",
            "embedContentConfig",
            "instances",
            "model",
            "outputDimensionality",
            "parameters",
            "requests",
            "taskType",
            "title",
        ]
    ),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "contents": (list,),
    "generationConfig": (dict,),
    "labels": (dict,),
    "serviceTier": (str,),
    "systemInstruction": (dict,),
    "tools": (list,),
}
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_NUMBERS = {"TEXT": 1, "IMAGE": 2, "ON_DEMAND": 1, "STOP": 1, "MAX_TOKENS": 2}


@dataclass(frozen=True, slots=True)
class Making:
    """One answer as it will be made. The four counts of tokens are disjoint but for `cached`, which is in `prompt`."""

    card: Card
    prompt: int
    images: int
    cached: int
    tool_use: int
    thoughts: int
    candidate: int
    text: str
    calls: tuple[dict[str, Any], ...]
    queries: tuple[str, ...]
    limited: bool

    @property
    def tokens(self) -> int:
        """All tokens that are generated."""
        return self.thoughts + self.candidate

    @property
    def searches(self) -> int:
        """The searches that are billed: each query from Gemini 3 on, one for the prompt before."""
        return len(self.queries) if self.card.model.startswith("gemini-3") else min(1, len(self.queries))

    def cost(self, prices: PriceList, terms: Terms, generated: int) -> Bill:
        """The bill once so many tokens were generated, thoughts first; its counts are those of `usageMetadata`."""
        sampling = Sampling(
            self.card.model, input=self.prompt - self.cached + self.tool_use, output=generated, read=self.cached
        )
        return Bill(self.usage(generated), prices.cost((sampling,), terms, self.searches))

    def usage(self, generated: int) -> dict[str, Any]:
        """The counts so far; those that are zero are left out."""
        thoughts = min(self.thoughts, generated)
        counts = {
            "promptTokenCount": self.prompt,
            "cachedContentTokenCount": self.cached,
            "candidatesTokenCount": generated - thoughts,
            "thoughtsTokenCount": thoughts,
            "toolUsePromptTokenCount": self.tool_use,
            "totalTokenCount": self.prompt + self.tool_use + generated,
        }
        stated: dict[str, Any] = {name: tokens for name, tokens in counts.items() if tokens}
        details = {"TEXT": self.prompt - self.images, "IMAGE": self.images}
        stated["promptTokensDetails"] = [
            {"modality": name, "tokenCount": tokens} for name, tokens in details.items() if tokens
        ]
        if self.cached:
            stated["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": self.cached}]
        return stated


@dataclass(frozen=True, slots=True)
class Models:
    """One address: a verb on a model, on the Gemini API or on Vertex AI. It is what the API calls a provider."""

    model: str
    verb: str
    vertex: bool
    events: bool
    numbers: bool

    NAME = NAME

    @property
    def operation(self) -> str:
        """What the books call it."""
        return OPERATIONS[self.verb]

    def headers(self, request_id: str) -> tuple[tuple[str, str], ...]:  # noqa: ARG002 - all providers' signature
        """The headers of every reply; none names the call."""
        return (("server-timing", "gfet4t7; dur=12"),)

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:  # noqa: ARG002 - all providers' signature
        """An error in the shape of this API."""
        error = _error(refusal)
        return encode([error] if self.verb == "streamGenerateContent" and not self.events else error)

    def unauthorized(self) -> Refusal:
        """The credential is missing or wrong."""
        return refused(401, "Request had invalid authentication credentials.")

    def ordered(self, status: int) -> Refusal:
        """The error that Google gives with a status."""
        return refused(status, f"The simulator was told to answer {status}.")

    def invalid(self, message: str) -> Refusal:
        """A request that cannot be understood."""
        return refused(400, message)

    def models(self, prices: PriceList) -> bytes:
        """`GET /v1beta/models`."""
        names = [name for name, card in prices.cards.items() if card.provider == NAME]
        return encode({"models": [{"name": f"models/{name}"} for name in names]})

    def understood(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request with what its address says; `messages` are the contents, of whichever form."""
        inner = body.get("generateContentRequest")
        asked = inner if isinstance(inner, dict) else body
        requests = body.get("requests") or body.get("instances") or [body]
        contents = asked.get("contents") if self.operation != "embeddings" else _embedded(requests)
        return {
            "model": self.model,
            "stream": self.verb == "streamGenerateContent",
            "messages": contents,
            "system": asked.get("systemInstruction"),
            "metadata": body.get("metadata"),
            "body": body,
            "asked": asked,
        }

    def check(self, body: dict[str, Any], prices: PriceList) -> Refusal | None:
        """What this API refuses with 400 or 404."""
        given = body["body"]
        for name in given:
            if name not in _FIELDS_OF[self.operation]:
                return self.invalid(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        wrong = mistyped(given, _TYPES)
        if wrong is not None:
            return self.invalid(f"Invalid value at '{wrong}'")
        contents = body["messages"]
        if not isinstance(contents, list) or not contents or not all(_is_content(content) for content in contents):
            return self.invalid("* GenerateContentRequest.contents: contents is not specified")
        labels = given.get("labels") or {}
        if labels and not self.vertex:
            return self.invalid("labels are not supported by this API")
        for name, value in labels.items():
            if not _LABEL.fullmatch(name) or not isinstance(value, str) or not _LABEL.fullmatch(value):
                return self.invalid(f"Invalid label {name}")
        tier = given.get("serviceTier")
        card = prices.find(self.model, NAME)
        if card is None:
            return refused(404, f"models/{self.model} is not found for API version v1beta")
        if tier not in TIERS or (tier is not None and tier not in card.rates):
            return self.invalid("Invalid value at 'service_tier'")
        return None

    def plan(self, ask: Ask) -> Plan | Refusal:
        """The reply to a request that has passed `check`."""
        card = ask.world.prices.cards[self.model]
        if self.operation == "count_tokens":
            total, images = prompt_tokens(ask, ask.body["messages"], ask.body["system"], ask.body["asked"].get("tools"))
            details = [{"modality": "TEXT", "tokenCount": total - images}]
            return Plan(200, (Piece(encode({"totalTokens": total, "promptTokensDetails": details}), 0),))
        if self.operation == "embeddings":
            return self._embeddings(ask, card)
        if ask.orders.iterations is not None:
            return self.invalid("simulator: iterations are Anthropic's")
        asked = ask.body["body"]
        made = making_of(ask, card, asked.get("generationConfig") or {}, asked.get("tools") or [])
        if isinstance(made, str):
            return self.invalid(f"simulator: {made}")
        tier = ask.orders.tier or asked.get("serviceTier") or "standard"
        bill = partial(made.cost, ask.world.prices, Terms(tier, fixed=ask.orders.cost))
        pieces = self._stream(ask, made, tier) if ask.body["stream"] else (self._whole(ask, made, tier),)
        content_type = JSON if not ask.body["stream"] else EVENTS if self.events else f"{JSON}; charset=UTF-8"
        return Plan(
            200,
            pieces,
            card.served_as,
            content_type,
            stream=ask.body["stream"],
            total=made.tokens,
            final=bill(made.tokens),
            bill=bill,
            error_event=self._error_event(),
        )

    def _embeddings(self, ask: Ask, card: Card) -> Plan:
        counts = [prompt_tokens(ask, [content], None, None)[0] for content in ask.body["messages"]]
        total = sum(counts)
        values = [[0.5 + index / 64 for index in range(DIMENSIONS)] for _ in counts]
        usage = {"promptTokenCount": total, "promptTokenDetails": [{"modality": "TEXT", "tokenCount": total}]}
        body: dict[str, Any]
        if self.verb == "predict":
            stated = [{"truncated": False, "token_count": tokens} for tokens in counts]
            embedded = [{"values": value, "statistics": each} for value, each in zip(values, stated, strict=True)]
            body = {"predictions": [{"embeddings": each} for each in embedded]}
            if ask.orders.no_usage:
                body = {"predictions": [{"embeddings": {"values": value}} for value in values]}
        else:
            listed = [{"values": value} for value in values]
            body = {"embeddings": listed} if self.verb == "batchEmbedContents" else {"embedding": listed[0]}
            if not ask.orders.no_usage:
                body["usageMetadata"] = usage
        bill = Bill(usage, ask.world.prices.cost((Sampling(card.model, input=total, output=0),), Terms("standard")))
        return Plan(200, (Piece(encode(body), 0),), card.served_as, final=bill)

    def _whole(self, ask: Ask, made: Making, tier: str) -> Piece:
        parts = [{"text": made.text}] if made.text else []
        body = self._chunk(ask, made, [*parts, *made.calls], last=True)
        if not ask.orders.no_usage:
            body["usageMetadata"] = self._usage(ask, made, made.tokens, tier)
        return Piece(encode(self._as_asked(body)), made.tokens)

    def _stream(self, ask: Ask, made: Making, tier: str) -> tuple[Piece, ...]:
        """Thoughts first, which nobody sees, then the text, then calls; each chunk with the usage so far."""
        told: list[tuple[list[dict[str, Any]], int]] = [([], made.thoughts)] if made.thoughts else []
        shown = made.candidate - (made.candidate // 2 if made.calls else 0)
        number = ask.orders.chunks or max(1, shown // 4)
        if made.text:
            told += [([{"text": part}], tokens) for part, tokens in slices(made.text, shown, number)]
        else:
            shown = 0
        if made.calls:
            told.append((list(made.calls), made.candidate - shown))
        bodies = []
        generated = 0
        for index, (parts, tokens) in enumerate(told):
            generated += tokens
            body = self._chunk(ask, made, parts, last=index == len(told) - 1)
            if not ask.orders.no_usage:
                body["usageMetadata"] = self._usage(ask, made, generated, tier)
            bodies.append((body, tokens))
        if ask.orders.usage_twice:
            again = {name: value for name, value in bodies[-1][0].items() if name != "candidates"}
            bodies.append((again, 0))
        return tuple(self._framed([(encode(self._as_asked(body)), tokens) for body, tokens in bodies]))

    def _framed(self, chunks: list[tuple[bytes, int]]) -> list[Piece]:
        if self.events:
            return [Piece(b"data: " + data + b"\r\n\r\n", tokens) for data, tokens in chunks]
        pieces = [Piece((b",\r\n" if index else b"[") + data, tokens) for index, (data, tokens) in enumerate(chunks)]
        return [*pieces, Piece(b"\n]\n", 0)]

    def _error_event(self) -> bytes:
        error = encode(_error(refused(503, "The model is overloaded.")))
        return b"data: " + error + b"\r\n\r\n" if self.events else b",\r\n" + error + b"\n]\n"

    def _chunk(self, ask: Ask, made: Making, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if last:
            candidate["finishReason"] = "MAX_TOKENS" if made.limited else "STOP"
            if made.queries:
                # An empty query turns up now and then; it is none.
                candidate["groundingMetadata"] = {"webSearchQueries": [*made.queries, ""]}
        return {"candidates": [candidate], "modelVersion": made.card.served_as, "responseId": ask.response_id}

    def _usage(self, ask: Ask, made: Making, generated: int, tier: str) -> dict[str, Any]:
        usage = made.usage(generated)
        if self.vertex:
            usage["trafficType"] = "ON_DEMAND" if tier == "standard" else f"ON_DEMAND_{tier.upper()}"
        elif ask.orders.tier or "serviceTier" in ask.body["body"]:
            usage["serviceTier"] = tier
        return usage

    def _as_asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """With numbers in the place of the names of enums, if so asked."""
        if not self.numbers:
            return body
        usage = body.get("usageMetadata")
        if usage is not None:
            for details in ("promptTokensDetails", "cacheTokensDetails"):
                for each in usage.get(details, ()):
                    each["modality"] = _NUMBERS[each["modality"]]
            if "trafficType" in usage:
                usage["trafficType"] = _NUMBERS.get(usage["trafficType"], 9)
        for candidate in body.get("candidates", ()):
            if "finishReason" in candidate:
                candidate["finishReason"] = _NUMBERS[candidate["finishReason"]]
        return body


def find(path: str, query: str) -> Models | None:
    """What is asked at this address; None where it is none of this API's."""
    found = _PATH.fullmatch(path)
    if found is None or found["verb"] not in OPERATIONS:
        return None
    asked = parse_qs(query)
    numbers = "enum-encoding=int" in asked.get("$alt", [""])[-1]
    return Models(found["model"], found["verb"], found["vertex"] is not None, asked.get("alt") == ["sse"], numbers)


def refused(status: int, message: str) -> Refusal:
    """An error with Google's name for its class."""
    return Refusal(status, _STATUS.get(status, "UNKNOWN"), message)


def making_of(ask: Ask, card: Card, config: Mapping[str, Any], tools: list[Any]) -> Making | str:
    """Draw one answer; a text says why there cannot be one."""
    wanted, draws = ask.orders, ask.draws
    functions = _functions(tools)
    searches = any(isinstance(tool, dict) and ("googleSearch" in tool or "google_search" in tool) for tool in tools)
    if wanted.tool and not functions:
        return "tool needs a function in the request's tools"
    if wanted.web_search and not searches:
        return "web_search needs googleSearch in the request's tools"
    prompt, images = prompt_tokens(ask, ask.body["messages"], ask.body["system"], functions)
    queries = tuple(f"harbour ledger {index + 1}" for index in range(wanted.web_search or 0))
    candidate = max(OUTPUT_TOKENS_MIN + draws.length % OUTPUT_TOKENS_SPREAD, wanted.chunks or 0)
    budget = (config.get("thinkingConfig") or {}).get("thinkingBudget")
    thoughts = 64 * (1 + draws.reasoning % 4) if card.reasons and budget != 0 else 0
    if wanted.output is not None:
        thoughts = min(thoughts, wanted.output // 2)
        candidate = wanted.output - thoughts
    limit = config.get("maxOutputTokens")
    limited = isinstance(limit, int) and thoughts + candidate > limit
    if isinstance(limit, int) and limited:
        thoughts = min(thoughts, limit)
        candidate = limit - thoughts
    calls = _calls(ask, functions) if candidate else ()
    return Making(
        card=card,
        prompt=prompt,
        images=images,
        cached=_cached(ask, card, prompt),
        tool_use=QUERY_TOKENS * len(queries) + (draws.extra % 50 if queries else 0),
        thoughts=thoughts,
        candidate=candidate,
        text="" if calls else write(candidate, draws),
        calls=calls,
        queries=queries,
        limited=limited,
    )


def prompt_tokens(ask: Ask, contents: list[Any], system: object, tools: object) -> tuple[int, int]:
    """The prompt's tokens, and those of its images, which are among them."""
    seed = ask.world.seed
    texts = [data for data in (_text(part) for part in (*contents, system)) if data]
    marks = sum(count(data, seed) // 4 for data in texts if b"[[sim:" in data)
    images = IMAGE_TOKENS * sum(_images(content) for content in contents)
    overhead = min(OVERHEAD_TOKENS_MAX, 1 + len(contents))
    written = sum(count(without_marks(data), seed) for data in texts) + (count(encode(tools), seed) if tools else 0)
    # No more tokens than bytes, which a reader of the request may rely on.
    return max(1, min(ask.size, written + marks + overhead)) + images, images


def _cached(ask: Ask, card: Card, prompt: int) -> int:
    if ask.orders.cached is not None:
        return min(ask.orders.cached, prompt)
    seed = ask.world.seed
    texts = [without_marks(_text(content)) for content in ask.body["messages"]]
    found = ask.world.cache.serve(card.model, [Segment(text, count(text, seed), CACHE_TTL_S) for text in texts])
    return min(found.read, prompt)


def _parts(content: object) -> list[Any]:
    if isinstance(content, str):
        return [{"text": content}]
    parts = content.get("parts") if isinstance(content, dict) else None
    return parts if isinstance(parts, list) else []


def _text(content: object) -> bytes:
    """What of a content is text, or stands for it as JSON."""
    found = []
    for part in _parts(content):
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            found.append(text.encode("utf-8", "surrogatepass"))
        elif isinstance(part, dict) and "inlineData" not in part:
            found.append(encode(part))
    return b"\n".join(found)


def _images(content: object) -> int:
    return sum(isinstance(part, dict) and "inlineData" in part for part in _parts(content))


def _is_content(content: object) -> bool:
    return isinstance(content, str) or (isinstance(content, dict) and isinstance(content.get("parts"), list))


def _embedded(requests: list[Any]) -> list[Any]:
    return [each.get("content") if isinstance(each, dict) else None for each in requests]


def _functions(tools: list[Any]) -> list[dict[str, Any]]:
    declared = [tool.get("functionDeclarations") or [] for tool in tools if isinstance(tool, dict)]
    return [function for each in declared for function in each if isinstance(function, dict) and function.get("name")]


def _calls(ask: Ask, functions: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    last = _parts(ask.body["messages"][-1])
    answered = any(isinstance(part, dict) and "functionResponse" in part for part in last)
    if not functions or answered or not ask.orders.tool:
        return ()
    calls = []
    for index in range(ask.orders.tool):
        function = functions[index % len(functions)]
        schema = function.get("parametersJsonSchema") or function.get("parameters")
        calls.append({"functionCall": {"name": function["name"], "args": example(schema, ask.draws, index)}})
    return tuple(calls)


def _error(refusal: Refusal) -> dict[str, Any]:
    return {"error": {"code": refusal.status, "message": refusal.message, "status": refusal.kind}}
