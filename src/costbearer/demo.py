"""`costbearer demo`: the whole way through, on one machine, with nothing to configure.

Simulated providers, a gateway, a console, and real SDK traffic of several teams through them: streamed and not, tools,
cached prompts, a retry, refusals, callers who leave. Then the report, and its comparison with the books the simulated
providers kept for themselves.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2

from costbearer import money, reports
from costbearer.errors import StoreFailed
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator

GATEWAY_PORT = 4000
CONSOLE_PORT = 4001
START_TIMEOUT_S = 60.0
POST_TIMEOUT_S = 20.0
LONG_POLICY = (
    "You answer questions about orders. Quote the policy where it applies, stay friendly, and never promise a refund. "
    * 70
)
"""Long enough that providers cache it."""

KEYS: dict[str, dict[str, str]] = {
    "ranker": {"owner": "maria.lopez", "team": "search", "agent": "ranker", "workload": "rerank-results"},
    "summarizer": {"owner": "jonas.weber", "team": "search", "agent": "summarizer", "workload": "answer-page"},
    "triage": {"owner": "aiko.tanaka", "team": "support", "agent": "triage-bot", "workload": "inbox"},
    "drafter": {"owner": "sam.okafor", "team": "support", "agent": "reply-drafter", "workload": "inbox-replies"},
    "campaign": {"owner": "lena.fischer", "team": "growth", "agent": "campaign-writer", "workload": "newsletter"},
    "reviewer": {"owner": "ivo.novak", "team": "platform", "agent": "code-reviewer", "workload": "pull-requests"},
}


@dataclass
class Stage:
    """A running demo: where everything is, and how to stop it."""

    gateway_url: str
    console_url: str
    data: Path
    simulator: RunningSimulator
    token: str = field(repr=False)
    server: subprocess.Popen[bytes] = field(repr=False)
    keys: dict[str, str] = field(default_factory=dict, repr=False)

    def api(self, method: str, path: str, **options: Any) -> Any:
        answer = httpx2.request(
            method,
            f"{self.console_url}{path}",
            headers={"authorization": f"Bearer {self.token}"},
            timeout=30,
            **options,
        )
        answer.raise_for_status()
        return answer.json()


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Simulated providers, gateway and console on loopback, and a key per agent; all of it ends with the block."""
    gateway_port, console_port = _port(GATEWAY_PORT), _port(CONSOLE_PORT)
    data = directory / "data"
    with running_simulator() as simulator:
        (directory / "provider-key").write_text(CREDENTIAL, encoding="utf-8")
        config = directory / "costbearer.toml"
        config.write_text(_config(directory, simulator, gateway_port, console_port), encoding="utf-8")
        command = [sys.executable, "-m", "costbearer", "serve", "--config", str(config)]
        with (directory / "server.log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        try:
            console_url = f"http://127.0.0.1:{console_port}"
            gateway_url = f"http://127.0.0.1:{gateway_port}"
            _await_ready(server, directory / "server.log", [f"{console_url}/readyz", f"{gateway_url}/readyz"])
            token = (data / "admin-token").read_text(encoding="utf-8").strip()
            running = Stage(gateway_url, console_url, data, simulator, token, server)
            for name, labels in KEYS.items():
                running.keys[name] = running.api("POST", "/api/v1/keys", json=labels)["key"]
            yield running
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(45)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def traffic(running: Stage) -> int:
    """Real SDK traffic of every agent; gives back how many requests were made."""
    import anthropic
    import openai

    def oa(name: str) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{running.gateway_url}/v1", api_key=running.keys[name], max_retries=0, timeout=60
        )

    def an(name: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=running.gateway_url, api_key=running.keys[name], max_retries=0, timeout=60)

    made = 0
    for step in (_openai_calls, _anthropic_calls, _hard_cases):
        made += step(oa, an)
    return made


def _openai_calls(oa: Callable[[str], Any], _: Callable[[str], Any]) -> int:
    ranker, summarizer, campaign = oa("ranker"), oa("summarizer"), oa("campaign")
    for number in range(8):
        ranker.chat.completions.create(
            model="gpt-4o-mini",
            messages=[
                {"role": "user", "content": f"Rank these twenty results for query {number}: shoes, boots, sandals."}
            ],
            max_tokens=120,
            extra_body={"metadata": {"tags": ["feature:search-page", f"customer:shop-{number % 3}"]}},
        )
    for number in range(5):
        stream = summarizer.chat.completions.create(
            model="gpt-4.1-mini",
            messages=[{"role": "user", "content": f"Summarize page {number}. " + "The quick brown fox rests. " * 60}],
            max_tokens=200,
            stream=True,
            extra_headers={"x-costbearer-tags": "feature:answer-page,release:2026-11"},
        )
        for _chunk in stream:
            pass
    tool = {
        "type": "function",
        "function": {"name": "find_offer", "parameters": {"type": "object", "properties": {"sku": {"type": "string"}}}},
    }
    for number in range(3):
        campaign.chat.completions.create(
            model="gpt-5",
            messages=[{"role": "user", "content": f"Write newsletter {number} with one offer. [[sim:tool=1]]"}],
            tools=[tool],
            max_completion_tokens=400,
        )
    return 16


def _anthropic_calls(_: Callable[[str], Any], an: Callable[[str], Any]) -> int:
    triage, drafter, reviewer = an("triage"), an("drafter"), an("reviewer")
    policy = [{"type": "text", "text": LONG_POLICY, "cache_control": {"type": "ephemeral"}}]
    for number in range(6):
        triage.messages.create(
            model="claude-haiku-4-5",
            system=policy,
            messages=[{"role": "user", "content": f"Which queue does mail {number} belong in?"}],
            max_tokens=60,
            extra_headers={"baggage": f"tenant_id=tenant-{number % 2},feature=inbox,session_id=s-{number // 2}"},
        )
    for number in range(4):
        with drafter.messages.stream(
            model="claude-opus-4-8",
            messages=[{"role": "user", "content": f"Draft an answer to mail {number}: where is my parcel?"}],
            max_tokens=300,
        ) as stream:
            stream.get_final_message()
    for number in range(3):
        reviewer.messages.create(
            model="claude-opus-4-6",
            messages=[{"role": "user", "content": f"Review change {number}: " + "x = x + 1\n" * 200}],
            max_tokens=500,
        )
    return 13


def _hard_cases(oa: Callable[[str], Any], an: Callable[[str], Any]) -> int:
    """A retry, a refusal, a spoofed owner, callers who leave in the middle of an answer."""
    import openai

    ranker, triage = oa("ranker"), oa("triage")
    ranker.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Rank once more. [[sim:mark=demo-retry status=503 times=1]]"}],
        max_tokens=80,
    )
    with contextlib.suppress(openai.RateLimitError):
        ranker.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Too much at once. [[sim:mark=demo-429 status=429 retry_after=30]]"}],
            max_tokens=80,
        )
    triage.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Charge somebody else for this, please."}],
        max_tokens=40,
        extra_body={"metadata": {"tags": ["owner:somebody.else", "team:growth"]}},
    )
    stream = oa("summarizer").chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "user", "content": "Tell a long story. [[sim:mark=demo-left-1 output=400 chunks=80 delay_ms=15]]"}
        ],
        max_tokens=500,
        stream=True,
    )
    for number, _ in enumerate(stream):
        if number == 30:
            break
    stream.close()
    prompt = "Tell another long story. [[sim:mark=demo-left-2 output=400 chunks=80 delay_ms=15]]"
    with an("drafter").messages.stream(
        model="claude-opus-4-8", messages=[{"role": "user", "content": prompt}], max_tokens=500
    ) as answer:
        for number, _ in enumerate(answer.text_stream):
            if number == 30:
                break
    return 5


@dataclass(frozen=True)
class Comparison:
    """The ledger against the books the simulated providers kept."""

    exact_calls: int
    exact_ledger: Decimal
    exact_books: Decimal
    estimated: list[tuple[str, str, Decimal, Decimal]]
    unmatched: list[str]

    @property
    def holds(self) -> bool:
        return self.exact_ledger == self.exact_books and not self.unmatched


def compare(running: Stage) -> Comparison:
    """Join every billed line of the books to its entry by the provider's request id."""
    lines = {line.request_id: line for line in running.simulator.books() if line.billed}
    entries: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = running.api("GET", "/api/v1/entries", params={"limit": 500, **({"cursor": cursor} if cursor else {})})
        entries += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    by_id = {entry["provider_request_id"]: entry for entry in entries if entry.get("provider_request_id")}
    exact = [(by_id[key], line) for key, line in lines.items() if key in by_id and by_id[key]["basis"] == "metered"]
    estimated = [
        (by_id[key]["agent"], by_id[key]["request_model"], money.usd(by_id[key]["cost_usd"]), line.cost)
        for key, line in lines.items()
        if key in by_id and by_id[key]["basis"] == "estimated"
    ]
    named = {id(entry) for entry, _ in exact}
    unmatched = [f"billed, not in the ledger: {key}" for key in lines if key not in by_id]
    unmatched += [
        f"in the ledger, not billed: {entry['entry_id']}"
        for entry in entries
        if entry["cost_usd"] and Decimal(entry["cost_usd"]) and entry["basis"] == "metered" and id(entry) not in named
    ]
    return Comparison(
        exact_calls=len(exact),
        exact_ledger=money.total(money.usd(entry["cost_usd"]) for entry, _ in exact),
        exact_books=money.total(money.usd(line.cost) for _, line in exact),
        estimated=estimated,
        unmatched=unmatched,
    )


def await_posted(running: Stage) -> None:
    """Wait until every call the providers saw is in the ledger.

    Raises:
        StoreFailed: it is not there in time.
    """
    end = time.monotonic() + POST_TIMEOUT_S
    seen = -1
    while time.monotonic() < end:
        wanted = len(running.simulator.books().lines)
        report = running.api("GET", "/api/v1/reports/spend", params={"by": "status", "since": "1d"})
        if report["calls"] >= wanted and wanted == seen:
            return
        seen = wanted
        time.sleep(0.3)
    raise StoreFailed("the ledger did not show every call in time")


def run(*, once: bool, say: Callable[[str], None], show: Callable[[str], None]) -> int:
    """The demo from start to end. `once`: stop after the report. `say` talks, `show` prints what was asked for.

    Gives back the exit code: 0 where the ledger equals the books.
    """
    directory = Path(tempfile.mkdtemp(prefix="costbearer-demo-"))
    try:
        say("starting simulated providers, gateway and console ...")
        with stage(directory) as running:
            say(f"gateway {running.gateway_url}, console {running.console_url}")
            say(f"sending SDK traffic of {len(KEYS)} agents ...")
            made = traffic(running)
            await_posted(running)
            say(f"{made} requests made\n")
            for by in ("team,agent,workload", "model"):
                document = running.api("GET", "/api/v1/reports/spend", params={"by": by, "since": "1d"})
                show(reports.read(document).to_text(None))
            outcome = compare(running)
            for line in verdict(outcome):
                show(line)
            if not once:
                say(f"\nreports  {running.console_url}/api/v1/reports/spend?by=team")
                say(f"token    {running.data}/admin-token")
                say("Ctrl-C stops everything and removes the demo's data.")
                with contextlib.suppress(KeyboardInterrupt):
                    running.server.wait()
            return 0 if outcome.holds else 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def verdict(outcome: Comparison) -> list[str]:
    """What the comparison says, in lines for people."""
    relation = "equal to the last digit" if outcome.exact_ledger == outcome.exact_books else "NOT EQUAL"
    lines = [
        "Against the providers' own books",
        f"  metered    {outcome.exact_calls} calls   ledger {money.text(outcome.exact_ledger)}"
        f"   books {money.text(outcome.exact_books)}   {relation}",
    ]
    for agent, model, ours, theirs in outcome.estimated:
        error = money.share(money.minus(ours, theirs), theirs)
        shown = "" if error is None else f"   error {error:+.1%}"
        lines.append(
            f"  estimated  {agent}, {model}: ledger {money.display(ours)}   books {money.display(theirs)}{shown}"
        )
    lines += [f"  {fault}" for fault in outcome.unmatched]
    return lines


def _config(directory: Path, simulator: RunningSimulator, gateway_port: int, console_port: int) -> str:
    key_file = directory / "provider-key"
    return f"""data = "{directory / "data"}"
[gateway]
port = {gateway_port}
workers = 2
[console]
port = {console_port}
[providers.openai]
dialect = "openai"
base_url = "{simulator.openai_base_url}"
api_key_file = "{key_file}"
[providers.anthropic]
dialect = "anthropic"
base_url = "{simulator.anthropic_base_url}"
api_key_file = "{key_file}"
"""


def _port(wanted: int) -> int:
    """The usual port, or any free one where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StoreFailed("no free port on the loopback address")


def _await_ready(server: subprocess.Popen[bytes], log: Path, addresses: list[str]) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    for address in addresses:
        while True:
            if server.poll() is not None or time.monotonic() > end:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                raise StoreFailed(f"the demo's server did not start: {' '.join(said) or address}")
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(address, timeout=2).status_code == 200:
                    break
            time.sleep(0.1)
