"""The auditor against the least that reading a log can cost: DuckDB counting its lines and adding up one column.

The log is LiteLLM's, as wide as real rows are (1.3 kB), without faults: all checks run and find nothing. Each run is a
process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.usagelogs import clean, litellm

RECORDS = 1_000_000
PIECE = 50_000
ROUNDS = 3
_WIDE = (
    '"cache_hit": "False", "messages": {}, "response": {}, "requester_ip_address": "10.0.0.1", '
    '"api_base": "https://api.openai.com/v1/chat/completions", "proxy_server_request": "{}", '
    '"completionStartTime": null, "organization_id": null, "model_id": "0f2bb0e0a1b54a5d8e9e1c2d3e4f5a6b", '
    '"cache_key": "Cache OFF"'
)
_COUNT = """
import duckdb, sys, time
began = time.perf_counter()
duckdb.sql(f"SELECT count(*), sum(spend) FROM read_json_auto('{sys.argv[1]}')").fetchall()
print(time.perf_counter() - began)
"""


def write(file: Path, records: int) -> int:
    """A log of at least so many records; gives how many there are."""
    count = 0
    with file.open("w", encoding="utf-8") as handle:
        for number in range(-(-records // PIECE)):
            calls = [
                replace(
                    call,
                    number=call.number + number * 10_000_000,
                    trace=f"{number}-{call.trace}",
                    session=f"{number}-{call.session}",
                    request=f"{number}-{call.request}" if call.request else "",
                )
                for call in clean(min(records, PIECE), seed=number)
            ]
            count += len(calls)
            handle.write(litellm(calls).replace('"cache_hit": "False"', _WIDE))
    return count


def counted_s(file: Path) -> float:
    """Seconds that DuckDB takes to count and to add up, the interpreter's start left out."""
    done = subprocess.run([sys.executable, "-c", _COUNT, str(file)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def audited_s(file: Path) -> tuple[float, float]:
    """Seconds that the whole command takes, its start included, and its peak of memory in MiB."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "costbearer", "audit", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=file.parent)
    took = time.perf_counter() - began
    assert json.loads(done.stdout)["findings"] == [], "a clean log"
    return took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def measure(quick: bool) -> list[tuple[str, str]]:
    """Rows for bench/RESULTS.md."""
    records = 100_000 if quick else RECORDS
    with tempfile.TemporaryDirectory() as place:
        file, small = Path(place, "log.jsonl"), Path(place, "small.jsonl")
        count = write(file, records)
        write(small, 1_000)
        size = file.stat().st_size / 1e9
        base = [counted_s(file) for _ in range(ROUNDS)]
        audits = [audited_s(file) for _ in range(1 if quick else ROUNDS)]
        start, _ = min(audited_s(small) for _ in range(ROUNDS))
    took = statistics.median(seconds for seconds, _ in audits)
    least = statistics.median(base)
    return [
        (
            f"audit of {count:,} records ({size:.1f} GB) / DuckDB counting and adding up",
            f"{took / least:.1f} ({took:.1f} s, {least:.2f} s)",
        ),
        ("peak of memory of that audit", f"{max(peak for _, peak in audits):,.0f} MiB"),
        ("audit of 1,000 records, from the start of the interpreter", f"{start:.1f} s"),
    ]


if __name__ == "__main__":
    for what, figure in measure("--quick" in sys.argv):
        print(f"{what}: {figure}")
