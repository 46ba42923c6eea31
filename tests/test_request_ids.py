from __future__ import annotations

import os
import re

import pytest

from costbearer.gateway.calls import CHANCE_IDS, RequestIds


def test_ids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1_790_000_000_000_000_000, 2_000_000_000_000_000_000, 1_000_000))
    monkeypatch.setattr("costbearer.gateway.calls.time.time_ns", lambda: next(now))
    new_id = RequestIds()
    made = [new_id() for _ in range(3 * CHANCE_IDS + 1)]
    assert all(re.fullmatch(r"req_[0-9a-f]{11}[0-9a-f]{16}", each) for each in made)
    assert made == sorted(made)
    assert len({each[-16:] for each in made}) == len(made)


def test_two_workers_draw_their_own_chance() -> None:
    one, other = RequestIds(), RequestIds()
    assert {one()[-16:] for _ in range(CHANCE_IDS)}.isdisjoint(other()[-16:] for _ in range(CHANCE_IDS))


def test_the_system_is_asked_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    monkeypatch.setattr("costbearer.gateway.calls.secrets.token_hex", lambda size: urandom(size).hex())
    new_id = RequestIds()
    for _ in range(CHANCE_IDS):
        new_id()
    assert asked == [8 * CHANCE_IDS]
