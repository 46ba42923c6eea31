"""The simulated providers as one HTTP API, without sockets: a request in, a call to deliver out, a line in the books.

Paths of both dialects live side by side. `/v1/models` answers in Anthropic's shape where the request has its headers.
Besides them: `GET /sim/books` (`?mark=ID`; `?lines=0` for the totals alone), `POST /sim/faults` with an object of
orders that hold for every request from then on, `POST /sim/reset`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from costbearer.simulator import (
    anthropic,
    anthropic_batches,
    azure,
    bedrock,
    gemini,
    gemini_interactions,
    openai,
    openai_batches,
    openai_media,
    openai_responses,
    sigv4,
)
from costbearer.simulator.books import Books, Line, Outcome
from costbearer.simulator.faults import PLAIN, Failures, Orders, orders
from costbearer.simulator.reply import Ask, Piece, Plan, Provider, Refusal, World, encode, renamed, spoil
from costbearer.simulator.text import draw

ANSWERED_MAX = 256
"""Answers kept to be given again within the second to the same request: a benchmark's upstream must be quick."""
ANSWERED_BYTES_MAX = 16 * 1024

_COUNT_TOKENS = "/v1/messages/count_tokens"
_OPERATIONS: dict[str, tuple[Provider, str]] = {
    "/v1/chat/completions": (openai, "chat.completions"),
    "/v1/messages": (anthropic, "messages"),
    _COUNT_TOKENS: (anthropic, "count_tokens"),
    **{path: (openai_responses, operation) for path, operation in openai_responses.OPERATIONS.items()},
}
_ADDRESSED = (azure.Deployment, bedrock.Runtime, gemini.Models, gemini_interactions.Interactions)
"""Providers whose paths name the model, so that there is one of them for every request."""
_REASONS = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found", 405: b"Method Not Allowed"}


class Request(msgspec.Struct, frozen=True):
    """One HTTP request; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Call(msgspec.Struct):
    """A reply under way. `generated` and `bytes_sent` are kept by whoever delivers it; `close` is called once or more.

    `record` writes the line in the books; the first ending is the one that counts.
    """

    plan: Plan
    orders: Orders
    headers: tuple[tuple[str, str], ...]
    record: Callable[[Call, Outcome], None] | None = None
    generated: int = 0
    bytes_sent: int = 0
    closed: bool = False

    def close(self, outcome: Outcome) -> None:
        """The call is over for the provider: it is in the books when this returns.

        A reply that is not a stream is generated to its end whether or not anybody waits for it.
        """
        if self.closed:
            return
        self.closed = True
        if not self.plan.stream:
            self.generated = self.plan.tokens
        if self.record is not None:
            self.record(self, outcome)

    @property
    def ending(self) -> Outcome:
        """How it ends when all of it is delivered."""
        if self.plan.status >= 400:
            return "error"
        spoiled = self.orders.damage is not None or (self.orders.error_event is not None and self.plan.stream)
        return "cut_by_fault" if spoiled else "complete"

    def head(self, *, chunked: bool, close: bool) -> bytes:
        """The HTTP head."""
        plan = self.plan
        lines = [b"HTTP/1.1 %d %b" % (plan.status, _REASONS.get(plan.status, b"Status"))]
        lines.append(b"content-type: " + plan.content_type.encode())
        lines += [f"{name}: {value}".encode() for name, value in self.headers]
        if not plan.stream:
            lines.append(b"content-length: %d" % sum(len(piece.data) for piece in plan.pieces))
        elif chunked:
            lines.append(b"transfer-encoding: chunked")
        if close:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"


class _Arrival(msgspec.Struct, frozen=True):
    """What is known of a provider's call before its body is understood."""

    dialect: Provider
    operation: str
    request: Request
    seq: int
    request_id: str
    response_id: str
    created: int


class _Answered(msgspec.Struct, frozen=True):
    """An answer with what it was made from; of one that is kept to be given again, also under which id and when."""

    answer: Plan | Refusal
    body: dict[str, Any] = {}
    orders: Orders = PLAIN
    response_id: str = ""
    created: int = 0
    defaults: Mapping[str, Any] | None = None


class Api:
    """Both providers, their shared world and their books."""

    def __init__(self, world: World, books: Books, credential: str, *, keep_bodies: bool = False) -> None:
        self.world = world
        self.books = books
        self.defaults: dict[str, Any] = {}
        self.open: set[int] = set()
        """Numbers of the calls that are not yet in the books."""
        self._credential = credential
        self._keep_bodies = keep_bodies
        self._failures = Failures()
        self._answered: dict[tuple[str, bytes], _Answered] = {}

    def begin(self, request: Request) -> Call:
        """Answer one request. From here on a call of a provider is owed for and will be in the books."""
        url = urlsplit(request.target)
        known = _OPERATIONS.get(url.path)
        if known is not None:
            return self._provider_call(known[0], known[1], request)
        addressed = bedrock.find(url.path) or azure.find(url.path, url.query) or gemini.find(url.path, url.query)
        if addressed is not None:
            return self._provider_call(addressed, addressed.operation, request)
        interactions = gemini_interactions.find(request.method, url.path)
        if interactions is not None and interactions.id is not None:
            return self._interaction_call(request, interactions, parse_qs(url.query))
        if interactions is not None:
            return self._provider_call(interactions, interactions.operation, request)
        about = openai_responses.stored_operation(request.method, url.path)
        if about is not None:
            return self._stored_call(request, about, parse_qs(url.query))
        media = openai_media.find(request.method, url.path)
        kept = ("", "") if media is not None else openai_batches.find(request.method, url.path)
        if media is not None or kept is not None:
            return self._media_call(request, media, kept or ("", ""))
        batches = anthropic_batches.find(request.method, url.path)
        if batches is not None:
            return self._batches_call(request, *batches)
        if url.path.startswith("/sim/"):
            return self._own(request, url.path, parse_qs(url.query))
        dialect = _dialect_of(request)
        if url.path == "/v1/models" and request.method == "GET":
            if not self._authentic(dialect, request):
                return self._provider_call(dialect, "models", request)
            return Call(Plan(200, (Piece(dialect.models(self.world.prices), 0),)), PLAIN, ())
        return self._provider_call(dialect, url.path[:200], request)

    def reset(self) -> None:
        """As new: no lines, no remembered prompts, no standing faults."""
        self.books.reset()
        self.world.cache.forget()
        self.world.stored.clear()
        self._answered.clear()
        self.defaults = {}
        self._failures.forget()

    # -- a provider's call ---------------------------------------------------------------------------------------

    def _arrival(self, dialect: Provider, operation: str, request: Request) -> _Arrival:
        seq = self.books.next_seq()
        identity = blake2b(struct.pack("<Qq", seq, self.world.seed) + request.body[:4096], digest_size=12).hexdigest()
        prefix = "msg_" if dialect is anthropic else "resp_" if dialect is openai_responses else "chatcmpl-"
        return _Arrival(dialect, operation, request, seq, "req_" + identity[::-1], prefix + identity, int(time.time()))

    def _stored_call(self, request: Request, about: tuple[str, str], query: dict[str, list[str]]) -> Call:
        operation, response_id = about
        arrival = self._arrival(openai_responses, operation, request)
        if not self._authentic(openai_responses, request):
            return self._call(arrival, _Answered(openai_responses.unauthorized()))
        answer = openai_responses.stored(self.world, operation, response_id, query)
        return self._call(arrival, _Answered(answer, {}, orders(b"", self.defaults)))

    def _interaction_call(
        self, request: Request, asked: gemini_interactions.Interactions, query: dict[str, list[str]]
    ) -> Call:
        arrival = self._arrival(asked, asked.operation, request)
        if not self._authentic(asked, request):
            return self._call(arrival, _Answered(asked.unauthorized()))
        return self._call(arrival, _Answered(asked.stored(self.world, query), {}, orders(b"", self.defaults)))

    def _media_call(self, request: Request, media: str | None, kept: tuple[str, str]) -> Call:
        """A call beside chat (`media`), or one about a file or a batch: (operation, its id)."""
        arrival = self._arrival(openai, media or kept[0], request)
        if not self._authentic(openai, request):
            return self._call(arrival, _Answered(openai.unauthorized()))
        body = openai_media.understood(request.headers.get("content-type", ""), request.body)
        if body is None:
            return self._call(arrival, _Answered(openai.invalid("We could not parse the body of your request.")))
        # What a file says is for the batch that it is the input of.
        ordering = b"" if media is None and kept[0] == "files.create" else request.body
        try:
            wanted = orders(ordering, self.defaults)
        except msgspec.ValidationError as error:
            refusal = openai.invalid(f"simulator: the orders cannot be read: {error}")
            return self._call(arrival, _Answered(refusal, body))
        answer: Plan | Refusal
        if wanted.status is not None and self._failures.refuses(wanted):
            answer = openai.ordered(wanted.status)
        else:
            draws = draw(self.world.seed, request.body)
            size = len(request.body)
            ask = Ask(self.world, body, size, wanted, draws, arrival.response_id, arrival.created)
            answer = openai_media.answer(media, ask) if media else openai_batches.answer(*kept, ask)
        return self._call(arrival, _Answered(answer, body, wanted))

    def _batches_call(self, request: Request, operation: str, batch_id: str) -> Call:
        """A call about one of Anthropic's batches."""
        arrival = self._arrival(anthropic, operation, request)
        if not self._authentic(anthropic, request):
            return self._call(arrival, _Answered(anthropic.unauthorized()))
        body = _decode(request.body) if request.body else {}
        if not isinstance(body, dict):
            return self._call(arrival, _Answered(anthropic.invalid("The body is not JSON.")))
        try:
            wanted = orders(request.body, self.defaults)
        except msgspec.ValidationError as error:
            refusal = anthropic.invalid(f"simulator: the orders cannot be read: {error}")
            return self._call(arrival, _Answered(refusal, body))
        if wanted.status is not None and self._failures.refuses(wanted):
            return self._call(arrival, _Answered(anthropic.ordered(wanted.status), body, wanted))
        draws = draw(self.world.seed, request.body)
        ask = Ask(self.world, body, len(request.body), wanted, draws, arrival.response_id, arrival.created)
        return self._call(arrival, _Answered(anthropic_batches.answer(operation, batch_id, ask), body, wanted))

    def _provider_call(self, dialect: Provider, operation: str, request: Request) -> Call:
        arrival = self._arrival(dialect, operation, request)
        response_id = arrival.response_id
        refusal = self._refuse_unread(arrival)
        if refusal is not None:
            return self._call(arrival, _Answered(refusal))
        seen = self._answered.get((operation, request.body))
        if seen is not None and seen.created == arrival.created and seen.defaults is self.defaults:
            assert isinstance(seen.answer, Plan)
            again = renamed(seen.answer, seen.response_id, response_id)
            return self._call(arrival, _Answered(again, seen.body, seen.orders))
        return self._call(arrival, self._understand(arrival))

    def _understand(self, arrival: _Arrival) -> _Answered:
        dialect, body = arrival.dialect, _decode(arrival.request.body)
        if not isinstance(body, dict):
            return _Answered(dialect.invalid("We could not parse the JSON body of your request."))
        if isinstance(dialect, _ADDRESSED):
            body = dialect.understood(body)
        try:
            wanted = orders(arrival.request.body, self.defaults)
        except msgspec.ValidationError as error:
            return _Answered(dialect.invalid(f"simulator: the orders cannot be read: {error}"), body)
        answer = self._answer(arrival, body, wanted)
        answered = _Answered(answer, body, wanted, arrival.response_id, arrival.created, self.defaults)
        if isinstance(answer, Plan) and answer.repeatable and wanted.times is None:
            if len(self._answered) >= ANSWERED_MAX:
                self._answered.clear()
            if len(arrival.request.body) <= ANSWERED_BYTES_MAX:
                self._answered[arrival.operation, arrival.request.body] = answered
        return answered

    def _refuse_unread(self, arrival: _Arrival) -> Refusal | None:
        dialect, request = arrival.dialect, arrival.request
        if not self._authentic(dialect, request):
            return dialect.unauthorized()
        if arrival.operation.startswith("/"):
            return Refusal(404, "invalid_request_error", f"Unknown request URL: {request.method} {arrival.operation}.")
        if request.method != "POST":
            return Refusal(405, "invalid_request_error", f"Not allowed to {request.method}.", "method_not_supported")
        if dialect is anthropic and "anthropic-version" not in request.headers:
            return anthropic.invalid("anthropic-version: header is required")
        return None

    def _answer(self, arrival: _Arrival, body: dict[str, Any], wanted: Orders) -> Plan | Refusal:
        free = arrival.operation == "count_tokens" and arrival.dialect is anthropic
        check = anthropic.check_prompt if free else arrival.dialect.check
        refusal = check(body, self.world.prices)
        if refusal is not None:
            return refusal
        if wanted.status is not None and not free and self._failures.refuses(wanted):
            return arrival.dialect.ordered(wanted.status)
        # Drawn from the prompt alone: streamed or whole, directly or through a gateway, it has the same answer.
        responses = arrival.dialect is openai_responses
        subject = openai_responses.subject(body) if responses else _subject(body)
        draws = draw(self.world.seed, encode(subject))
        size = len(arrival.request.body)
        ask = Ask(self.world, body, size, wanted, draws, arrival.response_id, arrival.created)
        if responses:
            return openai_responses.answer(arrival.operation, ask)
        return anthropic.counted(ask) if free else arrival.dialect.plan(ask)

    def _call(self, arrival: _Arrival, answered: _Answered) -> Call:
        dialect, answer, wanted = arrival.dialect, answered.answer, answered.orders
        headers = dialect.headers(arrival.request_id)
        # A refusal is not spoiled further: its orders have been carried out.
        carried = wanted
        if isinstance(answer, Refusal):
            plan = Plan(answer.status, (Piece(dialect.error_body(answer, arrival.request_id), 0),))
            headers = (*headers, *answer.headers)
            if wanted.retry_after is not None and answer.status == wanted.status:
                headers = (*headers, ("retry-after", wanted.retry_after))
            carried = PLAIN
        else:
            headers = (*headers, *answer.headers)
            if wanted.cost_header and answer.final is not None and not answer.stream:
                headers = (*headers, ("x-sim-cost-usd", format(answer.final.cost, "f")))
            plan = spoil(answer, wanted)
        self.open.add(arrival.seq)

        def record(call: Call, outcome: Outcome) -> None:
            self.books.add(self._line(arrival, answered.body, wanted, call, outcome))
            self.open.discard(arrival.seq)

        return Call(plan, carried, headers, record)

    def _line(self, arrival: _Arrival, body: dict[str, Any], wanted: Orders, call: Call, outcome: Outcome) -> Line:
        plan, request = call.plan, arrival.request
        bill = plan.final
        if bill is not None and plan.bill is not None and call.generated != plan.total:
            bill = plan.bill(call.generated)
        model = body.get("model")
        return Line(
            seq=arrival.seq,
            at=datetime.now(UTC),
            provider=arrival.dialect.NAME,
            operation=arrival.operation,
            request_id=arrival.request_id,
            response_id=None if bill is None else arrival.response_id,
            request_model=model if isinstance(model, str) else None,
            model=plan.model,
            mark=wanted.mark,
            stream=body.get("stream") is True,
            status=plan.status,
            usage=None if bill is None else bill.usage,
            cost_usd="0" if bill is None else format(bill.cost, "f"),
            billed=bill is not None,
            outcome=outcome,
            generated_tokens=call.generated,
            bytes_sent=call.bytes_sent,
            fault=wanted.faults,
            saw=_saw(request, body),
            body_sha256=sha256(request.body).hexdigest(),
            body=request.body.decode("utf-8", "replace") if self._keep_bodies else None,
        )

    def _authentic(self, dialect: Provider, request: Request) -> bool:
        bearer = request.headers.get("authorization") == f"Bearer {self._credential}"
        if dialect is anthropic:
            return bearer or request.headers.get("x-api-key") == self._credential
        if isinstance(dialect, azure.Deployment):
            return bearer or request.headers.get("api-key") == self._credential
        if isinstance(dialect, gemini.Models | gemini_interactions.Interactions):
            return bearer or request.headers.get("x-goog-api-key") == self._credential
        if isinstance(dialect, bedrock.Runtime):
            signed = (request.method, request.target, request.headers, request.body, self._credential)
            return bearer or sigv4.is_signed(*signed)
        return bearer

    # -- the simulator's own paths -------------------------------------------------------------------------------

    def _own(self, request: Request, path: str, query: dict[str, list[str]]) -> Call:
        if (request.method, path) == ("GET", "/sim/books"):
            return _own_reply(200, self._books(query))
        if (request.method, path) == ("POST", "/sim/reset"):
            self.reset()
            return _own_reply(200, {})
        if (request.method, path) == ("POST", "/sim/faults"):
            wanted = _decode(request.body)
            try:
                msgspec.convert(wanted, Orders, strict=False)
            except msgspec.ValidationError as error:
                return _own_reply(400, {"error": str(error)})
            self.defaults = dict(wanted)
            return _own_reply(200, {"faults": self.defaults})
        return _own_reply(
            404, {"error": f"no {request.method} {path}; see GET /sim/books, POST /sim/faults, /sim/reset"}
        )

    def _books(self, query: dict[str, list[str]]) -> dict[str, Any]:
        statement = self.books.statement()
        if "mark" in query:
            statement = statement.where(mark=query["mark"][-1])
        document: dict[str, Any] = {
            "total_usd": format(statement.total(), "f"),
            "totals": statement.totals(),
            "in_flight": len(self.open),
        }
        if query.get("lines") != ["0"]:
            document["lines"] = statement.lines
        return document


def _own_reply(status: int, document: dict[str, Any]) -> Call:
    return Call(Plan(status, (Piece(encode(document), 0),)), PLAIN, ())


def _decode(body: bytes) -> Any:
    """The JSON value, None where there is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _dialect_of(request: Request) -> Provider:
    headers = request.headers
    return anthropic if "x-api-key" in headers or "anthropic-version" in headers else openai


def _subject(body: dict[str, Any]) -> list[Any]:
    """What a chat's answer depends on."""
    return [body["model"], body["messages"], body.get("system")]


def _saw(request: Request, body: dict[str, Any]) -> tuple[str, ...]:
    """What a gateway should have taken off."""
    saw = []
    metadata = body.get("metadata")
    if (
        (isinstance(metadata, dict) and "tags" in metadata)
        or "tags" in body
        or (not body and b'"tags"' in request.body)
    ):
        saw.append("tags")
    if "baggage" in request.headers:
        saw.append("baggage")
    if "x-costbearer" in "\n".join(request.headers):
        saw.append("x-costbearer")
    values = "\n".join((request.target, *request.headers.values()))
    if b"cbk_" in request.body or "cbk_" in values:
        saw.append("virtual_key")
    return tuple(saw)
