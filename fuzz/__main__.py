"""`python -m fuzz TARGET --seconds N`; without a target, what there is."""

from __future__ import annotations

import argparse
from pathlib import Path

from fuzz import engine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", help="a target by its name")
    parser.add_argument("--seconds", type=int, default=60, help="how long; 60 unless given")
    parser.add_argument(
        "--corpus", type=Path, help="fuzz in this very process and keep what goes new ways in this directory"
    )
    parser.add_argument("--replay", type=Path, help="read this one input and nothing else")
    given = parser.parse_args()
    if given.target is None or given.replay is not None:
        from fuzz.targets import TARGETS

        if given.target is None:
            for target in TARGETS.values():
                print(f"{target.name:20} {target.tells}")
            return
        TARGETS[given.target].check(given.replay.read_bytes())
        return
    if engine.ABSENT:
        raise SystemExit(
            "there is no atheris for this interpreter and platform; `make test` replays mutations without it"
        )
    if given.corpus is not None:
        engine.here(given.target, given.seconds, given.corpus)
    outcome = engine.child(given.target, given.seconds)
    print(f"{given.target}: {outcome.executions:,} executions in {given.seconds} s, {outcome.finding or 'no finding'}")
    raise SystemExit(bool(outcome.finding))


if __name__ == "__main__":
    main()
