"""CPU microseconds of each stage of a call, in one process, without a network, in the order of the pipeline.

The stages without tags can be added up and held against the whole call, which is measured beside them: what is left is
the glue, the event loop's turns and the callers' connection.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from bench import translation
from bench.inprocess import in_process, instructions_per_call, request_head
from bench.machines import ANSWER, REQUEST, TAGS
from costbearer.attribution import Bearer, Hashers, Said, attribute
from costbearer.contract import Prices
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.forms import draft
from costbearer.gateway import settle
from costbearer.gateway.http1 import HeadReader, reply_head
from costbearer.gateway.settle import Ending
from costbearer.journal import Intent, JournalWriter, Outcome
from costbearer.ledger import Entry
from costbearer.prices import PriceBook
from costbearer.rate_card import Card
from costbearer.rating import bound, worst_input_tokens, worst_output_tokens
from costbearer.stores import archive
from costbearer.stores.control import Actor, Control

TAGGED = frozenset({"read the request, with tags", "attribute, with tags", "take the tags off the body"})
"""Stages in place of others, which a request without tags does not go through."""
REPLY_HEADERS = [
    ("content-type", "application/json"),
    ("x-costbearer-request-id", "req_0199c2d4f3a0123456789abcdef"),
    ("x-costbearer-cost-usd", "0.000042"),
    ("date", "Fri, 27 Nov 2026 12:00:00 GMT"),
    ("content-length", "700"),
]
BEARER = Bearer(key_id="key_bench", owner="ada.byron", team="search", agent="ranker", workload="rerank")


def measure(quick: bool) -> list[tuple[str, str]]:
    loops = 1_000 if quick else 10_000
    dialect, book = OpenAIChat(), Prices(PriceBook.loads(archive.bundled()))
    plain = msgspec.json.encode(REQUEST)
    tagged = msgspec.json.encode(REQUEST | TAGS)
    answer = msgspec.json.encode(ANSWER)
    asked, said = dialect.read(plain), dialect.read(tagged)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name, in_process() as whole:
        worker = whole.worker
        (target, *_) = worker.resolver.targets("gpt-4o-mini", "openai", "chat")
        outgoing = target.operation.outgoing(asked, target.model)
        heads, head = HeadReader(), request_head(whole.key, len(plain))
        caller_headers = heads.read(head).headers
        journal = JournalWriter.open(Path(name) / "journal")
        with Control.open(Path(name) / "data" / "control.sqlite") as control:
            labels = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "rerank"}
            key = control.issue(draft(labels, now, 90), Actor("bench", "bench", "bench")).text
            ring = control.load_keyring()
        fields: dict[str, Any] = {
            "journal": journal.id,
            "sequence": 1,
            "request_id": "req_bench",
            "call_id": "req_bench.1",
            "trace_id": "0" * 32,
            "attempt": 1,
            "requests": 1,
            "started_at": now,
            "key_id": BEARER.key_id,
            "key_team": BEARER.team,
            "attribution": attribute(BEARER, Said(), Hashers(_hashed)).fields,
            "route": "auto",
            "provider": "openai",
            "request_model": "gpt-4o-mini",
            "operation": "chat",
            "bound_usd": Decimal("0.0001"),
            "reason_unknown": "in_flight",
            **attribute(BEARER, Said(), Hashers(_hashed)).values,
        }
        intent = Entry(**fields)
        ending = Ending(status="ok", ended_at=now, duration_ms=1, http_status=200)
        reading = dialect.whole(asked, answer)
        outcome = settle.read(intent, ending, reading, asked, book, price_provider="openai")

        def bounded() -> object:
            card = book.book.dearest("openai", "gpt-4o-mini", now)
            assert isinstance(card, Card)
            most = worst_input_tokens(len(asked.body), asked.open_ended, card.context_window)
            out = worst_output_tokens(asked.max_output_tokens, card.context_window)
            assert most is not None and out is not None
            return bound(card, input_tokens_max=most, output_tokens_max=out, choices=asked.choices)

        def made() -> Entry:
            return Entry(**fields)

        def write_both() -> None:
            sequence = journal.next_sequence
            journal.append(Intent(entry=msgspec.structs.replace(intent, sequence=sequence)))
            journal.append(Outcome(entry=msgspec.structs.replace(outcome, sequence=sequence)))

        steps: list[tuple[str, Callable[[], object]]] = [
            ("read the head", lambda: heads.read(head)),
            ("authenticate", lambda: ring.authenticate(key, now)),
            ("read the request", lambda: dialect.read(plain)),
            ("read the request, with tags", lambda: dialect.read(tagged)),
            ("attribute", lambda: attribute(BEARER, Said(), Hashers(_hashed))),
            ("attribute, with tags", lambda: attribute(BEARER, Said(body_tags=said.tags), Hashers(_hashed))),
            ("the body for the provider", lambda: dialect.outgoing(asked, "gpt-4o-mini")),
            ("take the tags off the body", lambda: dialect.outgoing(said, "gpt-4o-mini")),
            ("bound: card, worst tokens, amount", bounded),
            ("the intent as a value", made),
            ("the head for the provider", lambda: worker.request_head(target, outgoing, caller_headers)),
            ("read the reply", lambda: dialect.whole(asked, answer)),
            ("rate and close", lambda: settle.read(intent, ending, reading, asked, book, price_provider="openai")),
            ("journal, intent and outcome", write_both),
            ("head of the reply", lambda: reply_head(200, REPLY_HEADERS)),
        ]
        costs = [(what, cost_us(step, loops)) for what, step in steps]
        journal.close()
        call_us = min(whole.call(loops // 5) / (loops // 5) for _ in range(5)) * 1e6
    counted = instructions_per_call(loops // 5)
    together = sum(us for what, us in costs if what not in TAGGED)
    rows = [(f"CPU: {what}", f"{us:.1f} µs") for what, us in costs]
    rows.append(
        (
            "CPU: a whole call in one process, without the system; the stages without tags, together",
            f"**{call_us:.0f} µs**; {together:.0f} µs",
        )
    )
    if counted is not None:
        rows.append(("instructions of that whole call, outside the kernel", f"{counted:,.0f}"))
    return rows + [(f"CPU: {what}", f"{cost_us(step, loops):.1f} µs") for what, step in translation.steps()]


def cost_us(step: Callable[[], object], loops: int) -> float:
    """The best of five: what the step costs when nothing else disturbs it."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time_ns()
        for _ in range(loops // 5):
            step()
        best = min(best, (time.process_time_ns() - began) / (loops // 5) / 1000)
    return best


def _hashed(field: str, value: str) -> str:
    return f"{field}:{value}"
