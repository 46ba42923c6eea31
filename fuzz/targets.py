"""The table of targets: what is read, what must hold beyond that nothing undeclared is raised, and where to begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from fuzz import calls, logs, papers, records, seeds, wire

Check = Callable[[bytes], None]


class Target(NamedTuple):
    """`check` raises where something does not hold. `rounds` is how many mutations `make test` replays, `begun` of how
    many of the seeds."""

    name: str
    check: Check
    seeds: Callable[[], Sequence[bytes]]
    rounds: int = 60
    begun: int = 30

    @property
    def tells(self) -> str:
        return (self.check.__doc__ or "").strip().partition("\n")[0]


def _calls() -> list[Target]:
    made = []
    for family in calls.FAMILIES:
        made.append(Target(f"requests-{family}", calls.requests(family), partial(seeds.requests, family), 60))
        made.append(Target(f"replies-{family}", calls.replies(family), partial(seeds.replies, family), 30))
    return made


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("sse", wire.events, lambda: seeds.EVENTS, 60),
        Target("eventstream", wire.frames, lambda: seeds.FRAMES, 150),
        Target("jsonarray", wire.elements, lambda: seeds.ELEMENTS, 150),
        Target("jsonedit", wire.members, lambda: seeds.MEMBERS, 300),
        Target("form", wire.parts, lambda: seeds.FORMS, 300),
        *_calls(),
        Target("keys", records.key, lambda: seeds.KEYS, 200),
        Target("tags", records.tags, lambda: seeds.SAID, 200),
        Target("journal", records.journal, lambda: seeds.SEGMENTS, 60),
        Target("recovery", records.recovery, lambda: seeds.SEGMENTS, 30),
        Target("log-files", logs.files, seeds.logs, 120),
        Target("log-records", logs.records, seeds.logs, 2, 5),
        Target("bills", logs.bills, lambda: seeds.BILLS, 150),
        Target("contract", papers.contract, lambda: seeds.CONTRACTS, 100),
        Target("owners", papers.owners, lambda: seeds.OWNERS, 60),
        Target("settings", papers.settings, lambda: seeds.SETTINGS, 60),
        Target("views", papers.views, lambda: seeds.VIEWS, 100),
        Target("archive", papers.archive, lambda: seeds.ARCHIVES, 100),
    )
}
