"""Reports about tenants and users whose hash key was rotated, beside the same reports where it never was.

Two ledgers hold the same calls. In the one every call has the same key's hashes; in the other the first third has the
old key's, the middle third both, and the last third the new key's. Each report is timed as a whole and asked of both in
turns. `python -m bench.links` runs it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench.reports import ALL, LABELS, NOW, Rows, pieces
from costbearer import config as settings
from costbearer import reports
from costbearer.app import load_prices, prepare
from costbearer.demo import history
from costbearer.reports.beside import Beside
from costbearer.stores.duckdb import Ledger, Position, Reader

ENTRIES = 3_000_000
ROUNDS = 5
VALUES = {"tenant": 2_000, "user": 50_000}
QUESTIONS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "the four labels": ("spend", [("by", LABELS), *ALL]),
    "tenants": ("spend", [("by", "tenant"), *ALL]),
    "users": ("spend", [("by", "user"), *ALL]),
    "tenants and users": ("spend", [("by", "tenant,user"), ("where", "team=support"), *ALL]),
    "one tenant": ("spend", [("by", "team"), ("where", "tenant={tenant}"), *ALL]),
    "one tenant's users": ("spend", [("by", "user"), ("where", "tenant={tenant}"), *ALL]),
    "one tenant's entries": ("entries", [("where", "tenant={tenant}"), ("limit", "100"), *ALL]),
    "explain by tenant": ("explain", [("by", "tenant"), ("where", "team=support"), *ALL]),
    "cost to serve, by tenant": ("unit-cost", [("by", "tenant"), ("per", "request,user"), *ALL]),
}

_MORE: dict[str, Callable[[Reader], object]] = {
    "links compared with the entries": lambda reader: reader.links_difference(),
    "who waits for the old key": lambda reader: (reader.unlinked("tenant", 1), reader.unlinked("user", 1)),
}


def build(directory: Path, entries: int) -> tuple[Ledger, Ledger, Path]:
    """A ledger with that many calls, the same calls with a rotation in their midst, and the prices of both."""
    config = settings.load(None, environ={}, overrides={"data": str(directory)})
    prepare(config)
    history.agree_prices(config.prices_dir)
    plain, rotated = (Ledger.open(directory / f"{name}.duckdb", readers=1) for name in ("plain", "rotated"))
    made, done = 0, dict[str, int]()
    for table in pieces(config.prices_dir, entries):
        journal, last = table["journal"][0].as_py(), table["closed_sequence"][-1].as_py()
        done[journal] = done.get(journal, 0) + len(table)
        position = Position(journal, 1, made + len(table), last, done[journal], Decimal(0))
        plain.post_table(_hashed(table, made, 2), [position])
        rotated.post_table(_hashed(table, made, made * 3 // entries), [position])
        made += len(table)
    return plain, rotated, config.prices_dir


def _hashed(table: pa.Table, begin: int, third: int) -> pa.Table:
    """The table with tenants and users: hashes of the first key, of both, or of the second one."""
    numbers = pa.array(range(begin, begin + len(table)), pa.int64())
    for place, (field, count) in enumerate(VALUES.items()):
        # Neighbours differ, and who is a tenant's user follows from neither number.
        which = pc.bit_wise_and(pc.shift_right(pc.multiply(numbers, 7_919 + place * 104_729), 3), 0xFFFFFF)
        which = pc.subtract(which, pc.multiply(pc.divide(which, count), count))
        old, new = (pa.array([_hash(field, version, value) for value in range(count)]) for version in (1, 2))
        table = _set(table, field, (old if third == 0 else new).take(which))
        if third == 1:
            table = _set(table, f"{field}_before", old.take(which))
    return table


def _hash(field: str, version: int, value: int) -> str:
    return f"h{version}_{hash((field, version, value)) & (1 << 64) - 1:032x}"


def _set(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), column)


def measure(entries: int, rounds: int) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        began = time.perf_counter()
        plain, rotated, prices_dir = build(Path(name), entries)
        beside = Beside(prices=lambda: load_prices(prices_dir))
        print(f"two ledgers in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        with closing(plain), closing(rotated):
            for title, (report, pairs) in QUESTIONS.items():
                times: tuple[list[float], list[float]] = [], []
                totals = set()
                for _ in range(rounds):
                    for kept, ledger in zip(times, (plain, rotated), strict=True):
                        took, table = _asked(ledger, report, pairs, beside)
                        kept.append(took)
                        totals.add((len(table.rows), table.totals["total_usd"]))
                assert len(totals) == 1, f"{title}: {totals}"
                before, after = (statistics.median(kept) for kept in times)
                yield f"{title}: s, never rotated / rotated", f"{before:.3f} / {after:.3f}"
            for what, asked in _MORE.items():
                took_s = []
                for _ in range(rounds):
                    began = time.perf_counter()
                    with rotated.reader() as reader:
                        asked(reader)
                    took_s.append(time.perf_counter() - began)
                yield f"{what}: s", f"{statistics.median(took_s):.3f}"


def _asked(ledger: Ledger, report: str, pairs: Rows, beside: Beside) -> tuple[float, Any]:
    """Both ledgers know the tenant by its newest hash."""
    tenant = _hash("tenant", 2, 7)
    named = [(name, text.format(tenant=tenant)) for name, text in pairs]
    began = time.perf_counter()
    with ledger.reader() as reader:
        table = reports.answer(reports.question(report, named, now=NOW), reader, beside)
    return time.perf_counter() - began, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    print(f"over {given.entries:,} entries, medians of {given.rounds}")
    for name, value in measure(given.entries, given.rounds):
        print(f"{name}: {value}", flush=True)


if __name__ == "__main__":
    main()
