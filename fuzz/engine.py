"""Fuzzing led by coverage: atheris in this process, or in a child whose figures are read."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from fuzz.mutate import SIZE_MAX, TOKENS

ABSENT = importlib.util.find_spec("atheris") is None
"""There is no wheel of atheris for this interpreter or platform."""

MEMORY_MB = 1500
HANG_S = 20
"""An input that takes longer is a finding."""


class Outcome(NamedTuple):
    """`executions` are inputs that were read; `finding` is what was raised and the input, "" where nothing was."""

    executions: int
    finding: str


def here(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz in this process, which ends with it. Inputs that go new ways are kept in `corpus`, findings beside it."""
    import atheris

    with atheris.instrument_imports(include=["costbearer"], enable_loader_override=False):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number:04d}").write_bytes(seed)
    words = corpus.parent / f"{corpus.name}.dict"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS))
    options = {
        "max_total_time": seconds,
        "max_len": min(SIZE_MAX, 16 * 1024),
        "rss_limit_mb": MEMORY_MB,
        "timeout": HANG_S,
        "dict": str(words),
        "artifact_prefix": f"{corpus.parent}/finding-{name}-",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], target.check)
    atheris.Fuzz()


def child(name: str, seconds: int) -> Outcome:
    """Fuzz in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="costbearer-fuzz-") as directory:
        command = [sys.executable, "-m", "fuzz", name, "--seconds", str(seconds), "--corpus", f"{directory}/corpus"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 120,
            check=False,
            env={**os.environ, "TMPDIR": directory},
        )
        counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        executions = int(counted[1]) if counted else 0
        if done.returncode == 0:
            return Outcome(executions, "")
        inputs = [f"{file.name}: {file.read_bytes()!r:.600}" for file in Path(directory).glob("finding-*")]
        return Outcome(executions, f"{done.stdout[-2000:]}{done.stderr[-2000:]}\n" + "\n".join(inputs))


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)
