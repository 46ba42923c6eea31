"""What the pages are made of: handed in by whoever puts the console together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from costbearer.backfill_desk import BackfillDesk
from costbearer.bookkeeper import Progress
from costbearer.config import Config
from costbearer.price_desk import Desk
from costbearer.reports.beside import Beside
from costbearer.reports.periods import ZONE_UTC, Zone
from costbearer.reports.query import Reader
from costbearer.stores.control import Control
from costbearer.stores.directory import Directory
from costbearer.stores.findings import Findings
from costbearer.stores.views import Views


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """`open_reader` is `Ledger.reader`; `beside` gives what reports look at beside the ledger; `home` is the reporting
    time zone."""

    config: Config
    control: Control
    open_reader: Callable[[], AbstractContextManager[Reader]]
    beside: Callable[[], Beside]
    progress: Callable[[], Progress]
    directory: Directory
    backfill: BackfillDesk
    prices: Desk
    views: Views
    findings: Findings
    home: Zone = ZONE_UTC
    now: Callable[[], datetime] = field(default=_now)
