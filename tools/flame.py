"""`make flame`: where a worker's time goes under load, as a flame graph.

It runs the load of the benchmarks and py-spy, which is installed for the time being into an environment of its own. To
see whole stacks it stops the process for a moment each time, so the figures of such a run are good for nothing. A path that ends in .svg gets a picture, any other
the folded stacks (`frame;frame;frame count`), which other programs read and `grep` and `sort` too.

    python -m tools.flame flame.svg --seconds 10 --streams
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bench import streams
from bench.machines import answering, missing, running_gateway, wrk

SAMPLES_PER_S = 400
INSTALL_TIMEOUT_S = 300
STREAMS = 200


def py_spy(home: Path) -> str:
    """Install py-spy into an environment of its own; gives its program."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=INSTALL_TIMEOUT_S)
    install = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "py-spy"]
    subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
    return str(home / "bin" / "py-spy")


def record(program: str, pid: int, seconds: int, out: Path) -> None:
    """Look at a process for so long and write what was seen."""
    kind = "flamegraph" if out.suffix == ".svg" else "raw"
    command = [program, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(SAMPLES_PER_S)]
    done = subprocess.run(
        [*command, "--format", kind, "--output", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode or not out.exists():
        raise SystemExit(f"py-spy saw nothing: {done.stderr.strip()[-500:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write; .svg is a picture, anything else folded stacks")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--streams", action="store_true", help=f"{STREAMS} streams at once instead of short calls")
    given = parser.parse_args()
    if not given.streams and (absent := missing()):
        raise SystemExit(f"the load needs {' and '.join(absent)} (Debian packages of that name)")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="costbearer-flame-")))
        program = py_spy(directory / "py-spy")
        # The load begins before py-spy looks and ends after it.
        lasting_s = given.seconds + 4
        if given.streams:
            _, _, gateway = stack.enter_context(streams.machines(streams.chunks_of(STREAMS, lasting_s), 0.0))
            load = threading.Thread(target=streams.watched, args=(gateway.port, gateway.key, STREAMS, lasting_s, {}))
        else:
            upstream = stack.enter_context(answering(directory))
            gateway = stack.enter_context(running_gateway(directory, upstream))
            load = threading.Thread(target=wrk, args=(directory, gateway.port, gateway.key, lasting_s))
        load.start()
        record(program, gateway.worker_pid, given.seconds, given.out.resolve())
        load.join()
    print(f"kept in {given.out}")


if __name__ == "__main__":
    main()
