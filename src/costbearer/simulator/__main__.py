"""`python -m costbearer.simulator --port 4010 --books FILE`: the simulated providers as a process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from costbearer.simulator.server import Simulator, run


def main() -> None:
    """Parse the arguments and serve; one line on stdout says where, once it listens."""
    parser = argparse.ArgumentParser(prog="python -m costbearer.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--books", type=Path, help="file to append the books to; without it they are kept in memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-bodies", action="store_true", help="write the requests' bodies into the books")
    given = parser.parse_args()
    run(given.host, given.port, given.books, seed=given.seed, keep_bodies=given.keep_bodies, ready=_announce)


def _announce(simulator: Simulator) -> None:
    sys.stdout.write(f"simulator listening on {simulator.origin}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
