"""The gateway against nginx as a plain proxy of the same answer: throughput, p99 and memory, with its console beside it."""

from __future__ import annotations

import statistics
import sys
from typing import NamedTuple

from bench.machines import Bench, Lag, Measured, bench, missing

ROUNDS = 5
SECONDS = 4
CONNECTIONS = 32
FEW = 16
"""Connections for what a proxy adds to p99: few enough that the queue before it is not all there is to see."""
PAUSE_MS = 16
"""What callers wait between calls where everybody is asked equally often; `FEW` of them make some 1,000 calls a second."""
MEMORY_CALLS = 200_000
RESOLUTION_MS = 0.01
"""Less than this is no difference, and nothing is divided by it: the machine was not quiet enough."""

Rows = list[tuple[str, str]]


class Load(NamedTuple):
    """Callers at once, and what each waits before it asks again, in ms."""

    connections: int
    pause_ms: int = 0


ALONE = Load(1)
"""Who waits for nobody else: what a call takes longer is the gateway's own."""
PACED = Load(FEW, PAUSE_MS)
BUSY = Load(FEW)
FULL = Load(CONNECTIONS)


def one_worker(quick: bool) -> Rows:
    return _against_nginx(1, quick) + _memory(quick)


def two_workers(quick: bool) -> Rows:
    return _against_nginx(2, quick)


class _Rounds:
    """What was measured, round by round, by (who, load)."""

    def __init__(self, running: Bench, seconds: int) -> None:
        self.running = running
        self.seconds = seconds
        self.found: dict[tuple[str, Load], list[Measured]] = {}
        self.lags: list[Lag] = []
        self.cpu_us: list[float] = []

    def take(self) -> None:
        """One round: everybody once under each load. What the gateway wrote is posted before anybody else
        is measured, so that no one else pays for it."""
        running, gateway = self.running, self.running.gateway
        for load in (ALONE, PACED, BUSY, FULL):
            for who, port in (
                ("direct", running.upstream),
                ("nginx", running.proxy),
                ("default", running.default),
                ("bare", running.bare),
            ):
                self._keep(who, load, running.wrk(port, self.seconds, **load._asdict()))
            for who in ("plain", "tagged") if load == FULL else ("plain",):
                before = gateway.cpu_s()
                ours = running.wrk(gateway.port, self.seconds, tags=who == "tagged", **load._asdict())
                cpu_s = gateway.cpu_s() - before
                self._keep(who, load, ours)
                self.lags.append(gateway.posted())
                if (who, load) == ("plain", FULL):
                    self.cpu_us.append(cpu_s / ours.requests * 1e6)

    def _keep(self, who: str, load: Load, measured: Measured) -> None:
        assert not measured.errors, f"{who}: every request must be answered with 200"
        self.found.setdefault((who, load), []).append(measured)

    def rate(self, who: str, load: Load = FULL) -> float:
        return statistics.median(each.requests_per_s for each in self.found[who, load])

    def ratio(self, who: str, to: str) -> list[float]:
        ours, theirs = self.found[who, FULL], self.found[to, FULL]
        return [a.requests_per_s / b.requests_per_s for a, b in zip(ours, theirs, strict=True)]

    def longer_ms(self, who: str) -> float:
        """What a call takes longer than a direct one when there is a single caller: p50, in ms."""
        through, direct = (statistics.median(each.p50_ms for each in self.found[of, ALONE]) for of in (who, "direct"))
        return through - direct

    def added(self, load: Load) -> str:
        """p99 beyond that of the same calls made directly: of ours over nginx's two, and the three of them in ms."""
        ours, kept, default = (self._added_ms(who, load) for who in ("plain", "nginx", "default"))
        over = [f"{ours / theirs:.1f}" if theirs >= RESOLUTION_MS else "cannot be told" for theirs in (kept, default)]
        return f"**{over[0]}**, {over[1]} ({ours:.2f} ms, {kept:.2f} ms, {default:.2f} ms)"

    def _added_ms(self, who: str, load: Load) -> float:
        pairs = zip(self.found[who, load], self.found["direct", load], strict=True)
        return statistics.median(through.p99_ms - direct.p99_ms for through, direct in pairs)


def _against_nginx(workers: int, quick: bool) -> Rows:
    rounds, seconds = (1, 2) if quick else (ROUNDS, SECONDS)
    with bench(workers=workers, console=True) as running:
        for port in (running.proxy, running.default, running.bare, running.gateway.port):
            running.wrk(port, 1 if quick else 2)
        running.gateway.posted()
        taken = _Rounds(running, seconds)
        for _ in range(rounds):
            taken.take()
    with_ = "one worker, console beside it" if workers == 1 else f"{workers} workers, console beside them"
    p99 = [a.p99_ms / b.p99_ms for a, b in zip(taken.found["plain", FULL], taken.found["nginx", FULL], strict=True)]
    rows = [
        (f"throughput / nginx proxy, plain request ({with_})", f"**{_middle(taken.ratio('plain', 'nginx'), 3)}**"),
        ("throughput / nginx proxy, request with two body tags", _middle(taken.ratio("tagged", "nginx"), 3)),
        (
            "throughput / nginx with a connection for each request, its default, plain request",
            f"**{_middle(taken.ratio('plain', 'default'), 3)}**",
        ),
        (
            f"p99 added at {FEW} connections / nginx's, / that of nginx by default (ours, theirs)",
            taken.added(BUSY),
        ),
        (
            f"the same where each of them pauses for {PAUSE_MS} ms between calls, in the middle",
            f"{taken.added(PACED)}; {taken.rate('plain', PACED):,.0f} calls a second of ours",
        ),
        (
            "p50 added to a call of a single caller: ours, nginx's, that of nginx by default",
            ", ".join(f"{taken.longer_ms(who):.2f} ms" for who in ("plain", "nginx", "default")),
        ),
        (f"p99 latency / nginx proxy, {CONNECTIONS} connections", _middle(p99, 1)),
        (
            "requests/s: direct, nginx, nginx by default, bare proxy in Python, plain, with tags",
            ", ".join(f"{taken.rate(who):,.0f}" for who in ("direct", "nginx", "default", "bare", "plain", "tagged")),
        ),
    ]
    if workers == 1:
        rows.append(
            ("throughput / bare proxy in Python (httptools on uvloop)", _middle(taken.ratio("plain", "bare"), 3))
        )
    late = max(taken.lags, key=lambda lag: lag.seconds)
    return [
        *rows,
        ("CPU of the workers per call, all of it", f"{statistics.median(taken.cpu_us):.0f} µs"),
        (
            f"bookkeeper when the load ends, the worst of {len(taken.lags)}: entries not yet posted, seconds until all are",
            f"{max(lag.entries for lag in taken.lags):,}, {late.seconds:.1f} s",
        ),
    ]


def _memory(quick: bool) -> Rows:
    """Resident memory of a worker over many calls."""
    calls = 10_000 if quick else MEMORY_CALLS
    readings: list[tuple[int, float]] = []
    made = 0
    with bench() as running:
        while made < calls:
            made += running.wrk(running.gateway.port, SECONDS).requests
            readings.append((made, running.gateway.rss_mib()))
    half = [rss for count, rss in readings if count >= made / 2]
    return [
        (
            f"memory of a worker over {made:,} calls",
            f"{readings[0][1]:.0f} MiB after {readings[0][0]:,}, {readings[-1][1]:.0f} MiB at the end; "
            f"{half[-1] - half[0]:+.1f} MiB over the second half",
        )
    ]


def _middle(values: list[float], digits: int) -> str:
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} (of {len(values)}: {least} to {most})"


if __name__ == "__main__":
    assert not missing(), f"missing: {missing()}"
    for what, figure in (two_workers if "2" in sys.argv else one_worker)("--quick" in sys.argv):
        print(f"{what}: {figure}")
