"""What reports look at beside the ledger: prices, business figures, seals. Whoever has them hands them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from costbearer.contract import Prices
from costbearer.figures import Figure
from costbearer.rate_card import Card


class Sealed(NamedTuple):
    """Where the frame that closed an entry stands, and what proves that it has not been changed since: the hash of the
    segment's seal, which is chained to those before it, and of its file."""

    segment: int
    seal_sha256: str
    file_sha256: str


@dataclass(frozen=True, slots=True)
class Beside:
    """`card` finds a rate card by its id in every price archive that was ever kept. `figures` gives the lines of a
    business figure by its name, None where there is none. `seal` says how the frame that closed an entry (journal,
    sequence) is sealed, None while it is not."""

    complete_to: datetime | None = None
    prices: Callable[[], Prices] | None = None
    figures: Callable[[str], Sequence[Figure] | None] = lambda _: None
    figure_names: Callable[[], Sequence[str]] = tuple
    card: Callable[[str], Card | None] = lambda _: None
    seal: Callable[[str, int], Sealed | None] = lambda _journal, _sequence: None


NOTHING = Beside()
