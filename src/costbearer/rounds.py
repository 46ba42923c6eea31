"""What a process does again and again beside its own work, each in a thread that no failure ends.

A round that fails is told in the log and in `sound`, from which readiness is said, and is made again: memory, file
descriptors and disks are short for a moment, and whoever stopped for good then would be missed by nobody for days.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from costbearer.errors import CostbearerError

BACK_OFF_S = 5.0
"""The shortest pause after a round that failed."""

log = logging.getLogger("costbearer.rounds")


class Rounds:
    """Several of them, by name. `stop` ends all of them."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._failures: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(
        self, name: str, interval_s: float, what: Callable[[], object], *, at_once: bool = False, daemon: bool = False
    ) -> None:
        """`keep` in a thread of that name. A `daemon` is not waited for when the process ends."""
        thread = threading.Thread(
            target=self.keep, args=(name, interval_s, what), kwargs={"at_once": at_once}, name=name, daemon=daemon
        )
        self._threads[name] = thread
        thread.start()

    def keep(self, name: str, interval_s: float, what: Callable[[], object], *, at_once: bool = False) -> None:
        """Do `what` every so often until `stop` is set: for the first time `at_once`, or when the interval is over."""
        pause_s = 0.0 if at_once else interval_s
        while not self.stop.wait(pause_s):
            pause_s = interval_s
            try:
                what()
            except Exception as error:  # noqa: BLE001
                # Whatever it was, the next round must be made.
                self._failed(name, error)
                pause_s = max(interval_s, BACK_OFF_S)
            else:
                if self._failures.pop(name, None) is not None:
                    log.warning("%s: goes on", name)

    def sound(self) -> dict[str, bool]:
        """By name, whether it is still at it and its last round did not fail."""
        return {name: thread.is_alive() and name not in self._failures for name, thread in self._threads.items()}

    def join(self, name: str, timeout_s: float | None = None) -> None:
        """Wait for the end of one, after `stop`."""
        self._threads[name].join(timeout_s)

    def _failed(self, name: str, error: Exception) -> None:
        told = error.message if isinstance(error, CostbearerError) else f"{type(error).__name__}: {error}"
        if self._failures.get(name) != told:
            # Where a failure lasts it is told once.
            defect = None if isinstance(error, CostbearerError) else error
            log.error("%s: a round failed and is made again: %s", name, told, exc_info=defect)
        self._failures[name] = told
