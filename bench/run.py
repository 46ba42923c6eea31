"""`make bench`: ratios measured in one run, written to bench/RESULTS.md. Compare within a run only."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import auditing, books, chunks, prices, reports, stages
from bench.machines import Bench, bench, missing

RESULTS = Path(__file__).parent / "RESULTS.md"
ROUNDS = 5
SECONDS = 4
MEMORY_CALLS = 200_000

Rows = list[tuple[str, str]]


def against_nginx(running: Bench, rounds: int, seconds: int) -> Rows:
    """Throughput and p99 against nginx as a plain proxy of the same answer, in turns, one worker each."""
    ratios: dict[str, list[float]] = {"plain": [], "tagged": []}
    p99: list[float] = []
    rates: dict[str, list[float]] = {"nginx": [], "plain": [], "tagged": []}
    for port in (running.proxy, running.gateway):
        running.wrk(port, 2)
    for _ in range(rounds):
        yardstick = running.wrk(running.proxy, seconds)
        rates["nginx"].append(yardstick.requests_per_s)
        for name, tags in (("plain", False), ("tagged", True)):
            ours = running.wrk(running.gateway, seconds, tags=tags)
            assert not ours.errors and not yardstick.errors, "every request must be answered with 200"
            rates[name].append(ours.requests_per_s)
            ratios[name].append(ours.requests_per_s / yardstick.requests_per_s)
            if name == "plain":
                p99.append(ours.p99_ms / yardstick.p99_ms)
    before, began = running.cpu_s(), running.wrk(running.gateway, seconds)
    cpu_us = (running.cpu_s() - before) / (began.requests_per_s * seconds) * 1e6
    return [
        ("throughput / nginx proxy, plain request", f"**{_middle(ratios['plain'], 3)}**"),
        ("throughput / nginx proxy, request with two body tags", _middle(ratios["tagged"], 3)),
        ("p99 latency / nginx proxy, 32 connections", _middle(p99, 1)),
        (
            "requests/s: nginx, plain, with tags",
            ", ".join(f"{statistics.median(rates[name]):,.0f}" for name in ("nginx", "plain", "tagged")),
        ),
        ("CPU of the worker per call, all of it", f"{cpu_us:.0f} µs"),
    ]


def memory(running: Bench, calls: int) -> Rows:
    """Resident memory of a worker over many calls."""
    readings: list[tuple[int, float]] = []
    made = 0.0
    while made < calls:
        made += running.wrk(running.gateway, SECONDS).requests_per_s * SECONDS
        readings.append((round(made), running.rss_mib()))
    half = [rss for count, rss in readings if count >= made / 2]
    growth = half[-1] - half[0]
    return [
        (
            f"memory of a worker over {made:,.0f} calls",
            f"{readings[0][1]:.0f} MiB after {readings[0][0]:,}, {readings[-1][1]:.0f} MiB at the end; "
            f"{growth:+.1f} MiB over the second half",
        )
    ]


def _middle(values: list[float], digits: int) -> str:
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} (of {len(values)}: {least} to {most})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; prints, keeps nothing")
    quick = parser.parse_args().quick
    absent = missing()
    if absent:
        print(f"the benchmarks need {' and '.join(absent)} (Debian packages of that name)", file=sys.stderr)
        return 2
    rounds, seconds = (2, 2) if quick else (ROUNDS, SECONDS)
    rows: Rows = []
    with bench() as running:
        rows += against_nginx(running, rounds, seconds)
        rows += memory(running, 10_000 if quick else MEMORY_CALLS)
    steps: list[Callable[[bool], Rows]] = [
        stages.measure,
        chunks.measure,
        books.measure,
        prices.measure,
        auditing.measure,
        reports.measure,
    ]
    for step in steps:
        rows += step(quick)
    table = "".join(f"| {what} | {figure} |\n" for what, figure in rows)
    print(table)
    if not quick:
        RESULTS.write_text(_document(table), encoding="utf-8")
        print(f"kept in {RESULTS.parent.name}/{RESULTS.name}")
    return 0


def _document(table: str) -> str:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"""# Benchmark results

Measured on {datetime.now(UTC):%Y-%m-%d} on {machine}; the load generator and the upstream share the machine with
what is measured. Ratios are taken within one run, in turns; absolute figures are there to be understood, not to be
compared between machines. Each cell is the median, with the smallest and largest of its rounds.

Repeat with `make bench` (needs Debian's `nginx` and `wrk`); `python -m bench.run --quick` for a short look.

| what | figure |
|---|---|
{table}
"""


if __name__ == "__main__":
    sys.exit(main())
