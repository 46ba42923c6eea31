"""`make bench`: ratios measured in one run, group by group, kept in bench/RESULTS.md. Compare within a group only.

`--only NAME` repeats one group and leaves what is kept of the others as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import auditing, books, chunks, peers, prices, reports, rounds, stages, streams
from bench.machines import missing

RESULTS = Path(__file__).parent / "RESULTS.md"
Rows = list[tuple[str, str]]

ON_REQUEST = frozenset({"peers", "pages"})
"""Groups that `make bench` leaves out: they install other gateways, or need Chromium."""

_HEAD = """# Benchmark results

The load generator and the upstream share the machine with what is measured. Ratios are taken within one run, in turns;
absolute figures are there to be understood, not to be compared between machines. Where a cell says of how many rounds
it is, it is their median, with the smallest and largest.

Repeat with `make bench` (needs Debian's `nginx` and `wrk`), one group with `python -m bench.run --only NAME`, the
other gateways with `make bench PEERS=1`, and have a short look with `python -m bench.run --quick`.
"""


def groups() -> dict[str, Callable[[bool], Rows]]:
    """What is measured, by name, in the order in which it is told."""
    return {
        "one-worker": rounds.one_worker,
        "two-workers": rounds.two_workers,
        "peers": peers.measure,
        "stages": stages.measure,
        "chunks": chunks.measure,
        "streams": streams.measure,
        "books": books.measure,
        "prices": prices.measure,
        "audits": auditing.measure,
        "reports": reports.measure,
        "pages": _pages,
    }


def _pages(quick: bool) -> Rows:
    from bench import pages  # needs Chromium, and what drives it

    painted = pages.painted(1 if quick else pages.ROUNDS)
    return painted if quick else painted + pages.beside_the_report(pages.ENTRIES, pages.ROUNDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; prints, keeps nothing")
    parser.add_argument("--only", action="append", choices=groups(), help="measure this group; may be repeated")
    parser.add_argument("--peers", action="store_true", help="other gateways too: installs them for the time being")
    given = parser.parse_args()
    if absent := missing():
        print(f"the benchmarks need {' and '.join(absent)} (Debian packages of that name)", file=sys.stderr)
        return 2
    wanted = given.only or [name for name in groups() if name not in ON_REQUEST or (name == "peers" and given.peers)]
    for name in wanted:
        section = _section(groups()[name](given.quick))
        print(f"## {name}\n\n{section}", flush=True)
        if not given.quick:
            # Kept at once: what a later group fails of does not take this one with it.
            kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
            RESULTS.write_text(merged(kept, name, section, list(groups())), encoding="utf-8")
    if not given.quick:
        print(f"kept in {RESULTS.parent.name}/{RESULTS.name}")
    return 0


def _section(rows: Rows) -> str:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    table = "".join(f"| {what} | {figure} |\n" for what, figure in rows)
    return f"Measured on {datetime.now(UTC):%Y-%m-%d} on {machine}.\n\n| what | figure |\n|---|---|\n{table}"


def merged(document: str, name: str, section: str, order: list[str]) -> str:
    """The document with this group's section in place of the one it had; those nobody knows any more stay, at the end."""
    parts = [part.partition("\n") for part in document.split("\n## ")[1:]]
    sections = {title.strip(): text.strip() + "\n" for title, _, text in parts}
    sections[name] = section
    names = [known for known in order if known in sections] + [old for old in sections if old not in order]
    return _HEAD + "".join(f"\n## {each}\n\n{sections[each]}" for each in names)


if __name__ == "__main__":
    sys.exit(main())
