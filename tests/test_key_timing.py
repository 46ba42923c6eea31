"""How long a key check takes tells nothing: every refusal does the same work, and a long run finds no difference.

What is compared are refusals. Two wrong secrets of one key, of whose digests one agrees with the right one in nothing
and the other in all but its last bit, must not differ: that is what a secret could be guessed by. An unknown lookup id
and a wrong secret may, by what finding something in memory takes: a lookup id is no secret, and may be shown.
"""

from __future__ import annotations

import gc
import hmac
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, median, variance
from typing import Any, Self

import msgspec
import pytest

from costbearer import keys
from costbearer.errors import CallRefused, KeyInvalid
from costbearer.keys import DatedLabels, KeyRecord, KeyRing, ParsedKey, Secret, digest, new_key
from costbearer.labels import Labels
from costbearer.simulator import running_simulator
from tests.harness import gateway, make_config, run

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PEPPERS = {1: b"1" * 32}
LABELS = Labels("ada", "search", "ranker", "rerank")
T_MAX = 4.5
"""The bound that is usual for leaks of time (dudect, TVLA): beyond it a difference is taken for real."""
PAIRS = 1_000_000
PAIRS_WHOLE = 200_000
APART_NS_MAX = 200
"""Nanoseconds between an unknown id and a wrong secret. An HMAC or a comparison that is left out is 800."""
KEYS = 2000


def record(number: int, key: ParsedKey, **changes: Any) -> KeyRecord:
    made = KeyRecord(
        key_id=f"key_{number:012d}",
        labels=LABELS,
        history=(DatedLabels(NOW - timedelta(days=1), LABELS),),
        created_at=NOW - timedelta(days=1),
        expires_at=NOW + timedelta(days=89),
        secrets=(Secret(key.lookup_id, digest(PEPPERS[1], key.text), 1, NOW),),
    )
    return msgspec.structs.replace(made, **changes)


def forged(key: ParsedKey, chance: random.Random) -> str:
    """A key of good form with the lookup id of another, and a secret of its own."""
    whole = 0
    for character in key.lookup_id:
        whole = whole * 62 + keys.ALPHABET.index(character)
    left = [whole, chance.randrange(62**keys.SECRET_CHARS)]
    return new_key(lambda _: left.pop(0)).text


# -- the same work on every path


class CountedMac:
    """An HMAC that counts what is done with it."""

    def __init__(self, done: list[str], mac: hmac.HMAC) -> None:
        self._done, self._mac = done, mac

    def copy(self) -> Self:
        self._done.append("copy")
        return type(self)(self._done, self._mac.copy())

    def update(self, data: bytes) -> None:
        self._done.append("update")
        self._mac.update(data)

    def digest(self) -> bytes:
        self._done.append("digest")
        return self._mac.digest()


class CountedHmac:
    """The part of the module `hmac` that the key check uses."""

    HMAC = hmac.HMAC

    def __init__(self) -> None:
        self.done: list[str] = []

    def new(self, key: bytes, digestmod: str) -> CountedMac:
        return CountedMac(self.done, hmac.new(key, digestmod=digestmod))

    def digest(self, key: bytes, text: bytes, name: str) -> bytes:
        return hmac.digest(key, text, name)

    def compare_digest(self, one: bytes, other: bytes) -> bool:
        self.done.append(f"compare {len(one)} {len(other)}")
        return hmac.compare_digest(one, other)


def test_every_check_is_one_hmac_and_one_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    living, expired, revoked, unknown = (new_key(chance.randrange) for _ in range(4))
    counted = CountedHmac()
    monkeypatch.setattr(keys, "hmac", counted)
    ring = KeyRing(
        [
            record(1, living),
            record(2, expired, expires_at=NOW),
            record(3, revoked, revoked_at=NOW),
        ],
        PEPPERS,
        NOW,
    )
    sent = {
        "right": (living.text, None),
        "unknown": (unknown.text, "key_invalid"),
        "wrong secret": (forged(living, chance), "key_invalid"),
        "wrong checksum": (living.text[:-1] + ("0" if living.text[-1] != "0" else "1"), "key_invalid"),
        "unknown, wrong checksum": (unknown.text[:-1] + ("0" if unknown.text[-1] != "0" else "1"), "key_invalid"),
        "lookup id alone": (living.text[:16], "key_invalid"),
        "another kind": ("sk-0123456789", "key_invalid"),
        "nothing": ("", "key_missing"),
        "expired": (expired.text, "key_expired"),
        "revoked": (revoked.text, "key_revoked"),
    }
    for name, (text, code) in sent.items():
        counted.done.clear()
        refused = None
        try:
            ring.authenticate(text, NOW)
        except CallRefused as error:
            refused = error.code
        assert refused == code, name
        assert counted.done == ["copy", "update", "digest", "compare 32 32"], name


# -- the same time, as far as a long run can tell


def welch_t(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's t of two samples: their difference in units of what chance makes it."""
    spread = variance(one) / len(one) + variance(other) / len(other)
    return (fmean(one) - fmean(other)) / math.sqrt(spread)


def test_the_measure_finds_a_difference_that_is_there() -> None:
    chance = random.Random(3)
    base = [chance.gauss(1000, 100) for _ in range(20_000)]
    assert abs(welch_t(base, [chance.gauss(1000, 100) for _ in range(20_000)])) < T_MAX
    assert abs(welch_t(base, [chance.gauss(1010, 100) for _ in range(20_000)])) > T_MAX


def cropped(one: list[int], other: list[int]) -> tuple[list[int], list[int]]:
    """Without the slowest tenth of both together: interrupts and the collector are no property of a key."""
    limit = sorted(itertools.chain(one, other))[(len(one) + len(other)) * 9 // 10]
    return [value for value in one if value <= limit], [value for value in other if value <= limit]


def said(name: str, one: list[int], other: list[int]) -> tuple[float, float]:
    """|t|, and nanoseconds between the medians."""
    t = abs(welch_t(*cropped(one, other)))
    apart = median(one) - median(other)
    print(f"{name}: {len(one):,} pairs, |t| {t:.2f}, median {median(one):,.0f} ns, apart by {apart:+.0f} ns")
    return t, abs(apart)


def timed_pairs(check: Callable[[str], None], pairs: Sequence[tuple[str, str]], count: int) -> tuple[list[int], ...]:
    """Nanoseconds of each text of each pair, in an order that chance makes."""
    chance, clock = random.Random(5), time.perf_counter_ns
    found: tuple[list[int], ...] = ([], [])
    order = [(number % len(pairs), chance.getrandbits(1)) for number in range(count)]
    gc.disable()
    try:
        for number, first in order:
            for which in (first, 1 - first):
                text = pairs[number][which]
                began = clock()
                check(text)
                found[which].append(clock() - began)
    finally:
        gc.enable()
    return found


def almost(own: bytes) -> bytes:
    """A digest of which all but the last bit is that of another text."""
    return own[:-1] + bytes([own[-1] ^ 1])


def refuses(ring: KeyRing) -> Callable[[str], None]:
    def check(text: str) -> None:
        try:
            ring.authenticate(text, NOW)
        except KeyInvalid:
            return
        raise AssertionError("all of these are refused")

    return check


@pytest.mark.soak
def test_no_difference_in_a_million_pairs() -> None:
    chance = random.Random(7)
    living = [new_key(chance.randrange) for _ in range(KEYS)]
    guesses = [(forged(key, chance), forged(key, chance)) for key in living]
    found: tuple[list[int], list[int]] = ([], [])
    for near in (1, 0):
        # Two wrong secrets for each key, of which one has nearly the digest that is kept; then the other has, so that
        # where a text lies in memory counts for both sides alike.
        kept = [
            Secret(key.lookup_id, almost(digest(PEPPERS[1], pair[near])), 1, NOW)
            for key, pair in zip(living, guesses, strict=True)
        ]
        planted = [record(number, key, secrets=(kept[number],)) for number, key in enumerate(living)]
        pairs = [(pair[1 - near], pair[near]) for pair in guesses]
        half = timed_pairs(refuses(KeyRing(planted, PEPPERS, NOW)), pairs, PAIRS // 2)
        found[0].extend(half[0])
        found[1].extend(half[1])
    t, _ = said("wrong secrets, of which none and 31 of 32 bytes are right", *found)
    ring = KeyRing([record(number, key) for number, key in enumerate(living)], PEPPERS, NOW)
    strange = [(new_key(chance.randrange).text, forged(key, chance)) for key in living]
    _, apart = said("unknown id and wrong secret", *timed_pairs(refuses(ring), strange, PAIRS))
    assert t < T_MAX
    assert apart < APART_NS_MAX


@pytest.mark.soak
def test_no_difference_through_the_whole_gateway(tmp_path: Path) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            chance = random.Random(11)
            known = keys.parse_key(running.key)
            pairs = [(new_key(chance.randrange).text, forged(known, chance)) for _ in range(KEYS)]
            found: tuple[list[int], list[int]] = ([], [])
            for number in range(PAIRS_WHOLE):
                first = chance.getrandbits(1)
                for which in (first, 1 - first):
                    began = time.perf_counter_ns()
                    wire = await running.ask(b"{}", key=pairs[number % KEYS][which])
                    found[which].append(time.perf_counter_ns() - began)
                    assert wire.status == 401
            _, apart = said("the whole refusal, unknown id and wrong secret", *found)
            assert apart < APART_NS_MAX

    with running_simulator() as simulator:
        config = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
        run(body)
