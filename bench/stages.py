"""CPU microseconds of each stage of a call, in one process, without a network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import translation
from bench.machines import ANSWER, REQUEST, TAGS
from costbearer.attribution import Bearer, Said, attribute
from costbearer.contract import Prices
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.forms import draft
from costbearer.gateway import settle
from costbearer.gateway.settle import Ending
from costbearer.journal import Intent, JournalWriter, Outcome
from costbearer.ledger import Entry
from costbearer.prices import PriceBook
from costbearer.stores import archive
from costbearer.stores.control import Actor, Control

BEARER = Bearer(key_id="key_bench", owner="ada.byron", team="search", agent="ranker", workload="rerank")


def measure(quick: bool) -> list[tuple[str, str]]:
    loops = 1_000 if quick else 10_000
    dialect, book = OpenAIChat(), Prices(PriceBook.loads(archive.bundled()))
    plain = msgspec.json.encode(REQUEST)
    tagged = msgspec.json.encode(REQUEST | TAGS)
    answer = msgspec.json.encode(ANSWER)
    asked, said = dialect.read(plain), dialect.read(tagged)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name:
        journal = JournalWriter.open(Path(name) / "journal")
        with Control.open(Path(name) / "data" / "control.sqlite") as control:
            labels = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "rerank"}
            key = control.issue(draft(labels, now, 90), Actor("bench", "bench", "bench")).text
            ring = control.load_keyring()
        intent = Entry(
            journal=journal.id,
            sequence=1,
            request_id="req_bench",
            call_id="req_bench.1",
            started_at=now,
            provider="openai",
            request_model="gpt-4o-mini",
            attribution=attribute(BEARER, Said(), _hashed).fields,
            reason_unknown="in_flight",
            owner="ada.byron",
            team="search",
            agent="ranker",
            workload="rerank",
        )
        ending = Ending(status="ok", ended_at=now, duration_ms=1, http_status=200)
        reading = dialect.whole(asked, answer)
        outcome = settle.read(intent, ending, reading, asked, book, price_provider="openai")

        def write_both() -> None:
            sequence = journal.next_sequence
            journal.append(Intent(entry=msgspec.structs.replace(intent, sequence=sequence)))
            journal.append(Outcome(entry=msgspec.structs.replace(outcome, sequence=sequence)))

        steps: list[tuple[str, Callable[[], object]]] = [
            ("authenticate", lambda: ring.authenticate(key, now)),
            ("read the request", lambda: dialect.read(plain)),
            ("read the request, with tags", lambda: dialect.read(tagged)),
            ("attribute", lambda: attribute(BEARER, Said(), _hashed)),
            ("attribute, with tags", lambda: attribute(BEARER, Said(body_tags=said.tags), _hashed)),
            ("take the tags off the body", lambda: dialect.outgoing(said, "gpt-4o-mini")),
            ("read the reply", lambda: dialect.whole(asked, answer)),
            ("rate and close", lambda: settle.read(intent, ending, reading, asked, book, price_provider="openai")),
            ("journal, intent and outcome", write_both),
        ]
        steps += translation.steps()
        rows = [(f"CPU: {what}", f"{cost_us(step, loops):.1f} µs") for what, step in steps]
        journal.close()
    return rows


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
