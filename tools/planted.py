"""Do the tests bite? Plants one bug at a time in a copy of the package and runs the tests that should see it.

    python -m tools.planted              # all of them, a table at the end; exit code 1 where one was not caught
    python -m tools.planted fsync prices # those whose name holds one of the words

Each bug is one an engineer could make on an ordinary day; most of them lose or double money without any error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parent.parent
TIMEOUT_S = 120


class Bug(NamedTuple):
    """`old` stands exactly once in `file` (below src/costbearer); `tests` are the files that should see it replaced."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BUGS: tuple[Bug, ...] = (
    Bug(
        "fsync is skipped",
        "journal.py",
        "                os.fdatasync(self._segment.fd)\n",
        "                pass\n",
        ("test_journal_faults.py", "test_journal.py"),
    ),
    Bug(
        "a failed fsync is forgiven",
        "journal.py",
        '                self._fail("fdatasync failed", error)\n',
        "                pass\n",
        ("test_journal_faults.py", "test_journal.py"),
    ),
    Bug(
        "a frame is acknowledged before it is durable",
        "journal.py",
        "            if sequence <= synced and not future.done():",
        "            if not future.done():",
        ("test_journal.py",),
    ),
    Bug(
        "no space is kept back for outcomes",
        "journal.py",
        "self._recover(problem, spare=not intended)",
        "self._recover(problem, spare=False)",
        ("test_journal_faults.py",),
    ),
    Bug(
        "an outcome is written twice",
        "journal.py",
        "        elif entry.sequence not in self._open:\n",
        "        elif False:\n",
        ("test_journal.py",),
    ),
    Bug(
        "damage inside a frame is not seen",
        "frames.py",
        "zlib.crc32(view[position + 4 : position + 16])) != check:",
        "zlib.crc32(view[position + 4 : position + 16])) < 0:",
        ("test_frames.py",),
    ),
    Bug(
        "an entry that was posted is posted again",
        "stores/duckdb.py",
        '                raise StoreFailed(f"journal {journal}: an entry is to be posted twice")',
        "                pass",
        ("test_duckdb_ledger.py",),
    ),
    Bug(
        "a second outcome of a call is posted",
        "stores/projection.py",
        "        if sequence not in self.found and self._is_lost(sequence):\n            self.found.add(sequence)",
        "        if True:\n            self.found.add(sequence)",
        ("test_bookkeeper.py", "test_recovery.py"),
    ),
    Bug(
        "a sealed segment that was changed is believed",
        "stores/segments.py",
        "            if hashlib.sha256(raw).hexdigest() != seal.raw_sha256:\n                return False\n",
        "",
        ("test_segments.py", "test_doctor.py"),
    ),
    Bug(
        "the end marker leaves before the outcome is written",
        "gateway/relay.py",
        "            held += seen\n",
        "            wire.send(seen)\n",
        ("test_gateway_calls.py",),
    ),
    Bug(
        "a call is tried again although its work may be done",
        "gateway/attempts.py",
        "DOUBTFUL = frozenset({408, 502, 504})",
        "DOUBTFUL: frozenset[int] = frozenset()",
        ("test_gateway_wire.py",),
    ),
    Bug(
        "a caller who left goes on costing",
        "gateway/calls.py",
        "        if self.stream and self.call is not None:\n",
        "        if False:\n",
        ("test_gateway_calls.py",),
    ),
    Bug(
        "an unknown cost is 0",
        "gateway/settle.py",
        '    return _close(intent, ending, basis="unknown", reason_unknown=reason, notes=intent.notes + notes, **learned)',
        "    learned = {**learned, 'cost_usd': money.ZERO}\n"
        '    return _close(intent, ending, basis="unknown", reason_unknown=reason, notes=intent.notes + notes, **learned)',
        ("test_gateway_wire.py",),
    ),
    Bug(
        "cached tokens cost the full price too",
        "usage.py",
        "        plain = given - cached - written\n",
        "        plain = given - written\n",
        ("test_usage.py",),
    ),
    Bug(
        "long-context prices begin one token early",
        "rate_card.py",
        "                if input_tokens > threshold:",
        "                if input_tokens >= threshold:",
        ("test_prices.py", "test_rating.py"),
    ),
    Bug(
        "amounts are cut instead of rounded",
        "money.py",
        "_ROUNDING = Context(prec=2 * DIGITS, rounding=ROUND_HALF_EVEN",
        "_ROUNDING = Context(prec=2 * DIGITS, rounding=ROUND_FLOOR",
        ("test_money.py",),
    ),
    Bug(
        "a split loses its remainder",
        "money.py",
        "quotient + (1 if index in extra else 0)",
        "quotient",
        ("test_money.py",),
    ),
    Bug(
        "a key lives one moment longer than it may",
        "keys.py",
        "        if held.plain_until is None or now < held.plain_until:",
        "        if held.plain_until is None or now <= held.plain_until:",
        ("test_keys.py",),
    ),
    Bug(
        "a tag outranks the key's label",
        "attribution.py",
        "                values.setdefault(field, kept)",
        "                values[field] = kept",
        ("test_attribution.py",),
    ),
    Bug(
        "a correction of a closed month lands in it",
        "corrections.py",
        "    started = at if closed else old.started_at\n",
        "    started = old.started_at\n",
        ("test_corrections.py", "test_periods.py"),
    ),
    Bug(
        "a request with two lengths is read",
        "gateway/http1.py",
        "    if length is not None:\n        raise RequestMalformed(",
        "    if length is None and http_1_0:\n        raise RequestMalformed(",
        ("test_smuggling.py",),
    ),
    Bug(
        "two credentials: the first pays",
        "gateway/edge.py",
        "    if len(found) > 1:\n",
        "    if len(found) > 4:\n",
        ("test_gateway_refusals.py",),
    ),
    Bug(
        "a form of another site is obeyed",
        "console/pages/forms_of.py",
        "    return hmac.compare_digest(given.encode(",
        "    return True or hmac.compare_digest(given.encode(",
        ("test_console_pages.py",),
    ),
)

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def plant(bug: Bug, package: Path) -> None:
    """Put the bug into a copy of the package.

    Raises:
        ValueError: the text that it replaces is not there exactly once.
    """
    file = package / bug.file
    text = file.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: {bug.file} holds {text.count(bug.old)} times {bug.old!r}")
    file.write_text(text.replace(bug.old, bug.new), encoding="utf-8")


def caught_by(bug: Bug) -> str | None:
    """The first test that fails with the bug in the code; None where all of them pass."""
    with tempfile.TemporaryDirectory(prefix="costbearer-planted-") as name:
        source = Path(name) / "src"
        shutil.copytree(TOP / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        plant(bug, source / "costbearer")
        tests = [f"tests/{test}" for test in bug.tests if (TOP / "tests" / test).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", "-m", "not soak", *tests]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        try:
            done = subprocess.run(
                command, cwd=TOP, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return f"{bug.tests[-1]}, which does not end"
    if done.returncode == 0:
        return None
    failed = _FAILED.search(done.stdout)
    if done.returncode != 1 or failed is None:
        raise RuntimeError(f"{bug.name}: the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1].removeprefix("tests/")


def main(words: list[str]) -> int:
    chosen = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    missed = 0
    for bug in chosen:
        test = caught_by(bug)
        missed += test is None
        print(f"| {bug.name} | {'`' + test + '`' if test else '**not caught**'} |", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
