"""Prices: an archive loaded into a worker, a call rated, and a million calls of the ledger rated again.

The calls are made up and varied: models of several makers, tiers, places and speeds, caches, reasoning, calls of two
models. One in a hundred was charged at a price that holds no more and one in two hundred had none, so it is known
beforehand what a restatement must find.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.contract import Contract, Prices
from costbearer.ledger import Entry
from costbearer.prices import Context, PriceBook
from costbearer.rating import rate
from costbearer.restate import Period, restate
from costbearer.stores import archive
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted, table_of
from costbearer.usage import Usage, Work
from tests.factories import make_entry, make_unknown

CALLS = 1_000_000
DISTINCT = 5_000
"""Calls that are made one by one; the others are the same calls minutes later."""
SEGMENT = 25 * DISTINCT
BEGIN = datetime(2026, 10, 1, 1, tzinfo=UTC)
LATER = timedelta(minutes=4)
"""All of a day's calls begin between one and 15 o'clock: no daily window of a price begins or ends there."""
EVER = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
MODELS: tuple[tuple[str, str, tuple[Context, ...]], ...] = (
    ("openai", "gpt-4o-mini", (Context(), Context(tier="default"), Context(tier="batch"))),
    ("openai", "gpt-5.6-sol", (Context(), Context(tier="flex"), Context(tier="batch"))),
    ("openai", "gpt-4.1", (Context(tier="default"),)),
    ("anthropic", "claude-opus-4-8", (Context(), Context(tier="batch"), Context(geo="us"), Context(speed="fast"))),
    ("anthropic", "claude-sonnet-4-5", (Context(tier="standard"),)),
    ("google", "gemini-2.5-pro", (Context(), Context(tier="batch"))),
    ("google", "gemini-2.5-flash", (Context(),)),
    ("x-ai", "grok-4", (Context(),)),
    ("mistral", "mistral-large-latest", (Context(),)),
    ("groq", "llama-3.3-70b-versatile", (Context(),)),
    ("deepseek", "deepseek-chat", (Context(),)),
)
OF_OLD = b"""
[[terms]]
provider = "openai"
model = "*"
discount = "10"

[[terms]]
provider = "anthropic"
model = "*"
discount = "10"
"""
_LOADING = """
import re, time
from pathlib import Path
from costbearer.prices import PriceBook
from costbearer.stores import archive
def kib(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before, began = kib("VmRSS"), time.perf_counter()
book = PriceBook.loads(archive.bundled())
elapsed_s = time.perf_counter() - began
print(elapsed_s, (kib("VmHWM") - before) / 1024)
"""


def measure(quick: bool) -> list[tuple[str, str]]:
    book = PriceBook.loads(archive.bundled())
    return [_loading(3 if quick else 10), _rating(book, 2_000 if quick else 20_000), *_restating(book, quick)]


def _loading(rounds: int) -> tuple[str, str]:
    """Time and the most memory it takes while it is read, in a process of its own like a worker's."""
    best_s, most_mib = float("inf"), 0.0
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", _LOADING], capture_output=True, text=True, check=True)
        elapsed_s, mib = map(float, done.stdout.split())
        best_s, most_mib = min(best_s, elapsed_s), max(most_mib, mib)
    return "price archive loaded: time; memory at its peak", f"{best_s * 1000:.0f} ms; {most_mib:.1f} MiB"


def _rating(book: PriceBook, loops: int) -> tuple[str, str]:
    """CPU of rating a call with a cache read and reasoning, on a card that was asked for before."""
    usage = Usage(input_tokens=3000, output_tokens=400, cache_read_input_tokens=1000, reasoning_output_tokens=100)
    work = (Work(model="gpt-5.6-sol", usage=usage, largest_input_tokens=3000),)
    context, best = Context(tier="default"), float("inf")
    for _ in range(5):
        began = time.process_time_ns()
        for _ in range(loops):
            rate("openai", work, context, BEGIN, book)
        best = min(best, (time.process_time_ns() - began) / loops / 1000)
    return "CPU: rate a call of four meters", f"{best:.1f} µs"


def _restating(book: PriceBook, quick: bool) -> list[tuple[str, str]]:
    count = 2 * DISTINCT if quick else CALLS
    calls, changing = _calls(book)
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name:
        root = Path(name)
        with closing(Ledger.open(root / "ledger.duckdb")) as ledger:
            bookkeeper = Bookkeeper(root / "journal", ledger)
            for begin in range(0, count // DISTINCT, SEGMENT // DISTINCT):
                last = min(begin + SEGMENT // DISTINCT, count // DISTINCT)
                bookkeeper.record(pa.concat_tables([_later(calls, number) for number in range(begin, last)]))
            expected = changing * count // DISTINCT
            best_s = float("inf")
            for _ in range(1 if quick else 3):
                began = time.perf_counter()
                found = restate(ledger, bookkeeper, Prices(book), EVER, apply=False)
                best_s = min(best_s, time.perf_counter() - began)
                assert (found["calls"], found["changes"], found["still_unknown"]) == (count, expected, 0)
            began = time.perf_counter()
            found = restate(ledger, bookkeeper, Prices(book), EVER, apply=True)
            applied_s = time.perf_counter() - began
            assert restate(ledger, bookkeeper, Prices(book), EVER, apply=False)["changes"] == 0
    return [
        (f"restate: {count:,} calls rated again and compared, {expected:,} change", f"{best_s:.1f} s"),
        (f"restate --apply: the same, and {found['applied']:,} corrections posted", f"{applied_s:.1f} s"),
    ]


def _later(calls: pa.Table, number: int) -> pa.Table:
    """The same calls, each some minutes later on its day."""
    shift = pa.scalar(LATER * number, pa.duration("us"))
    for name in ("started_at", "ended_at"):
        at = calls.schema.get_field_index(name)
        calls = calls.set_column(at, calls.field(at), pc.add(calls.column(at), shift))
    return calls


def _calls(book: PriceBook) -> tuple[pa.Table, int]:
    """`DISTINCT` calls as they were charged, and of how many the price has changed since."""
    chance, old = random.Random(1), Contract.loads(OF_OLD)
    made = [_call(chance, sequence, book, old) for sequence in range(1, DISTINCT + 1)]
    changing = sum(changes for _, changes in made)
    assert 0 < changing < DISTINCT / 20
    return table_of(Posted(entry.sequence, entry) for entry, _ in made), changing


def _call(chance: random.Random, sequence: int, book: PriceBook, old: Contract) -> tuple[Entry, bool]:
    provider, model, contexts = chance.choice(MODELS)
    context = chance.choice(contexts)
    day = chance.randrange(30)
    started = BEGIN + timedelta(days=day, milliseconds=sequence)
    work: tuple[Work, ...] = (_work(chance, model),)
    if model == "claude-sonnet-4-5" and chance.random() < 0.2:
        work = (*work, _work(chance, "claude-haiku-4-5"))
    usage = work[0].usage if len(work) == 1 else _sum(work)
    said: dict[str, Any] = {
        "provider": provider,
        "request_model": model,
        "response_model": model,
        "tier": context.tier,
        "speed": context.speed,
        "region": context.geo,
        "started_at": started,
        "usage": usage,
        "work": work if len(work) > 1 else (),
    }
    if sequence % 200 == 0:
        return make_unknown("x", sequence, **said, status="ok", reason_unknown="model_unpriced"), True
    rating = rate(provider, work, context, started, book)
    changed = sequence % 100 == 1 and provider in ("openai", "anthropic")
    if changed:
        rating = rate(provider, work, context, started, book, old)
    assert rating.cost_usd is not None, (provider, model, context, rating.reason)
    listed = money.total(charge.list_cost_usd for charge in rating.charges)
    costs = dict.fromkeys(("cost_usd", "effective_cost_usd", "computed_cost_usd"), rating.cost_usd)
    ended = {"started_at": started, "ended_at": started + timedelta(milliseconds=250)}
    made = msgspec.structs.replace(
        make_entry("x", sequence, **ended), **said, charges=rating.charges, list_cost_usd=listed, **costs
    )
    return made, changed


def _work(chance: random.Random, model: str) -> Work:
    given = chance.choice((chance.randrange(50, 4000), chance.randrange(4000, 60_000), 250_000))
    counts = {"input_tokens": given, "output_tokens": chance.randrange(1, 3000)}
    if chance.random() < 0.5:
        counts["cache_read_input_tokens"] = given // chance.randrange(2, 9)
    if model.startswith("claude") and chance.random() < 0.3:
        counts["cache_creation_input_tokens"] = given // 3
        counts["cache_creation_1h_input_tokens"] = given // 9
    if chance.random() < 0.3:
        counts["reasoning_output_tokens"] = counts["output_tokens"] // 2
    return Work(model=model, usage=Usage(**counts), largest_input_tokens=given)


def _sum(work: tuple[Work, ...]) -> Usage:
    parts = [msgspec.structs.asdict(part.usage) for part in work]
    sums = {name: [part[name] for part in parts if part[name] is not None] for name in parts[0]}
    return Usage(**{name: sum(counts) for name, counts in sums.items() if counts})
