"""Many streams at once through one worker: how evenly their chunks arrive, and what a stream that waits takes.

Sender and receiver are processes of their own. Each chunk says when it was sent, so the gaps between chunks as sent and
as received are of the same chunks; the same streams without the gateway stand beside them in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.machines import Gateway, cpu_s, rss_mib, running_gateway, started
from bench.stream_receiver import OPENED_PER_S, SETTLE_S
from bench.stream_sender import CHUNKS_PER_S
from tests.system import free_port

STREAMS = (1_000, 500, 250)
"""How many are tried, until so many fit into the machine: the sender then keeps its own time."""
KEPT_TIME = 0.98
"""A sender that sends this share of what it should keeps its time."""
SECONDS = 8
SPARE_S = 6
"""What opening may take beyond its own time before the first streams end."""
IDLE = 5_000
IDLE_SECONDS = 4
IDLE_HOLD_S = 120
SOURCES = 25
"""Addresses the idle streams come from: one address has too few ports to spare."""
SETTINGS = "[upstream]\nconnections_max = 6000\n"

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Watched:
    """What the receiver said of one run, and the CPU each process took meanwhile, in cores."""

    said: dict[str, float]
    cores: dict[str, float]
    rss_mib: float

    @property
    def chunks_per_s(self) -> float:
        return self.said["chunks"] / self.said["seconds"]

    @property
    def worker_us(self) -> float:
        """CPU of the worker per chunk."""
        return self.cores["worker"] / self.chunks_per_s * 1e6


def measure(quick: bool) -> Rows:
    """Even streams, then idle ones."""
    return even(STREAMS[-1:] if quick else STREAMS, 3 if quick else SECONDS) + idle(500 if quick else IDLE)


def even(counts: tuple[int, ...], seconds: int) -> Rows:
    """Streams that all send, so many at once as fit: direct, then through the gateway."""
    rows: Rows = []
    for count in counts:
        with machines(chunks_of(count, seconds), 0.0) as (sender, port, gateway):
            direct = watched(port, "direct", count, seconds, {"sender": sender})
            pids = {"sender": sender, "worker": gateway.worker_pid}
            relayed = watched(gateway.port, gateway.key, count, seconds, pids)
        fits = relayed.chunks_per_s >= KEPT_TIME * count * CHUNKS_PER_S
        rows += _told(count, direct, relayed, fits)
        if fits:
            break
    return rows


def chunks_of(count: int, seconds: float) -> int:
    """Chunks of one stream that lasts until so many are open and were measured for so long."""
    return round(CHUNKS_PER_S * (count / OPENED_PER_S + SETTLE_S + seconds + SPARE_S))


def _told(count: int, direct: Watched, relayed: Watched, fits: bool) -> Rows:
    what = f"{count:,} streams of {CHUNKS_PER_S} chunks/s through one worker"
    gap = relayed.said["gaps_received_p99_ms"] / relayed.said["gaps_sent_p99_ms"]
    used = ", ".join(f"{name} {cores:.0%}" for name, cores in relayed.cores.items())
    wanted = count * CHUNKS_PER_S
    return [
        (
            f"{what}: p99 gap received / p99 gap sent",
            f"**{gap:.2f}** ({_gaps(relayed)}); direct {_gaps(direct)}",
        ),
        (
            f"{what}: chunks/s of the {wanted:,} wanted; direct",
            f"{relayed.chunks_per_s:,.0f}{'' if fits else ' (does not fit into this machine)'}; "
            f"{direct.chunks_per_s:,.0f}",
        ),
        (
            f"{what}: from sent to received, p50 and p99; direct",
            f"{relayed.said['delays_p50_ms']:.2f} ms, {relayed.said['delays_p99_ms']:.1f} ms; "
            f"{direct.said['delays_p50_ms']:.2f} ms, {direct.said['delays_p99_ms']:.1f} ms",
        ),
        (f"{what}: CPU of the worker per chunk; of a core", f"{relayed.worker_us:.1f} µs; {used}"),
    ]


def _gaps(watched: Watched) -> str:
    said = watched.said
    return (
        f"p50 {said['gaps_received_p50_ms']:.1f} ms of {said['gaps_sent_p50_ms']:.1f}, "
        f"p99 {said['gaps_received_p99_ms']:.1f} of {said['gaps_sent_p99_ms']:.1f}"
    )


def idle(count: int) -> Rows:
    """Streams that have begun and say nothing: what each takes of the worker's memory, and of its time."""
    with machines(1, IDLE_HOLD_S) as (sender, _, gateway):
        pids = {"sender": sender, "worker": gateway.worker_pid}
        # The first few make what every later one finds made.
        before = watched(gateway.port, gateway.key, 20, 0.5, pids).rss_mib
        held = watched(gateway.port, gateway.key, count, IDLE_SECONDS, pids, sources=SOURCES)
    each = (held.rss_mib - before) * 1024 / count
    return [
        (
            f"memory of one worker with {count:,} open streams that say nothing; without",
            f"**{held.rss_mib:.0f} MiB**; {before:.0f} MiB ({each:.1f} KiB each)",
        ),
        (f"CPU of that worker meanwhile, {count:,} open streams", f"{held.cores['worker']:.1%} of a core"),
    ]


@contextlib.contextmanager
def machines(chunks: int, hold_s: float) -> Iterator[tuple[int, int, Gateway]]:
    """A sender and a gateway before it: the sender's process id and port, and the gateway."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="costbearer-bench-")))
        command = [sys.executable, "-m", "bench.stream_sender", "--port", str(port), "--chunks", str(chunks)]
        command += ["--hold", str(hold_s), "--life", "300"]
        sender = stack.enter_context(started(command, directory / "sender.log", stdout=subprocess.PIPE))
        assert sender.stdout is not None and sender.stdout.readline() == b"ready\n"
        stack.callback(sender.stdout.close)
        gateway = stack.enter_context(running_gateway(directory, port, settings=SETTINGS))
        yield sender.pid, port, gateway


def watched(port: int, key: str, count: int, seconds: float, pids: dict[str, int], *, sources: int = 1) -> Watched:
    """One run of the receiver, the processes watched while it measures."""
    command = [sys.executable, "-m", "bench.stream_receiver", "--port", str(port), "--key", key]
    command += ["--streams", str(count), "--seconds", str(seconds), "--sources", str(sources)]
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name:
        log = Path(name) / "receiver.log"
        with started(command, log, stdout=subprocess.PIPE) as receiver:
            assert receiver.stdout is not None
            with receiver.stdout as said:
                watched = {**pids, "receiver": receiver.pid}
                if b"begin" not in said.readline():
                    raise RuntimeError(log.read_text()[-2000:])
                before, began = {name: cpu_s(pid) for name, pid in watched.items()}, time.monotonic()
                said.readline()
                took = time.monotonic() - began
                cores = {name: (cpu_s(pid) - before[name]) / took for name, pid in watched.items()}
                memory = rss_mib(pids["worker"]) if "worker" in pids else 0.0
                told: dict[str, float] = json.loads(said.readline())
    assert not told["ended"], f"{told['ended']:.0f} of {count} streams ended before they should"
    return Watched(told, cores, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--streams", type=int, help="measure so many even streams alone")
    parser.add_argument("--idle", type=int, help="measure so many idle streams alone")
    given = parser.parse_args()
    if given.streams or given.idle:
        rows = even((given.streams,), SECONDS) if given.streams else []
        rows += idle(given.idle) if given.idle else []
    else:
        rows = measure(given.quick)
    for what, figure in rows:
        print(f"{what}: {figure}")


if __name__ == "__main__":
    main()
