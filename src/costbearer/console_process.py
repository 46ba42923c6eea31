"""The console process: ledger, bookkeeper, API, pages and metrics in one; who is given what."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from costbearer.app import (
    SERVER_FILE,
    SERVER_LOCK,
    check_port,
    contract_of,
    home_zone,
    load_prices,
    locked,
    prepare,
    shown_host,
    things_beside,
    waiting_in,
)
from costbearer.config import Config
from costbearer.errors import StoreFailed
from costbearer.rounds import Rounds

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

    from costbearer.bookkeeper import Bookkeeper
    from costbearer.console.audits import Audits
    from costbearer.console.pages.parts import Parts
    from costbearer.ledger import Entry
    from costbearer.restate import Period
    from costbearer.stores.control import Actor, Control
    from costbearer.stores.duckdb import Ledger
    from costbearer.stores.periods import ClosedMonth, Periods
    from costbearer.stores.sqlite import Database

AMORTISE_INTERVAL_S = 600.0
"""How often the console looks for days whose fees are not amortised; a day is over once in 24 hours."""
POSTING = frozenset(
    f"/api/v1/{name}" for name in ("imports", "restatements", "amortisations", "backfill/labels", "periods")
)
"""What posts entries, or waits for who does, which may take long and must not keep others from changing keys."""
REKEY_INTERVAL_S = 2.0
"""How often keys that were used under an old pepper are moved to the active one; workers then read all keys again."""
JOBS_STOP_S = 5.0
"""What the poller of jobs may take to end; it holds nothing that is not asked for again."""
NICENESS = 10
"""The console's priority beside the workers, as `nice` counts it: it still gets its share of a busy machine."""


def run_console(config: Config, *, parent: int | None = None) -> None:
    """Ledger, bookkeeper, API and metrics in one process, until SIGTERM or SIGINT."""
    import uvicorn

    from costbearer.gateway.server import die_with_parent

    if parent is not None:
        die_with_parent(parent)
    check_port(config, "console")
    _yield_to_calls()
    with locked(config.data / SERVER_LOCK, "a console is running on this data directory"):
        prepare(config)
        with console_parts(config) as application:
            address = f"http://{shown_host(config.text('console.host'))}:{config.integer('console.port')}"
            server_file = config.data / SERVER_FILE
            try:
                server_file.write_text(
                    json.dumps({"pid": os.getpid(), "console_url": address}) + "\n", encoding="utf-8"
                )
            except OSError as error:
                raise StoreFailed(f"{server_file} cannot be written: {error.strerror}") from None
            try:
                uvicorn.run(
                    application,
                    host=config.text("console.host"),
                    port=config.integer("console.port"),
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=5,
                )
            finally:
                server_file.unlink(missing_ok=True)


def _yield_to_calls() -> None:
    """Where a machine has more to do than it can, calls come first and reports later."""
    with contextlib.suppress(OSError):  # not every sandbox lets a process be nice; then it is as it was
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


@contextlib.contextmanager
def console_parts(config: Config) -> Iterator[FastAPI]:
    """The console's application with ledger and bookkeeper behind it; posts what is left at the end."""
    from costbearer.bookkeeper import Bookkeeper
    from costbearer.console.api_audits import PATH as AUDITS
    from costbearer.console.app import create_app
    from costbearer.console.audits import LOG_BYTES_MAX, Audits
    from costbearer.console.pages.finding_pages import AUDIT, BODY_BYTES_MAX
    from costbearer.stores.control import Control
    from costbearer.stores.duckdb import Ledger
    from costbearer.stores.periods import Periods

    with (
        Control.open(config.control_file) as control,
        contextlib.closing(Ledger.open(config.ledger_file, memory_mb=config.integer("ledger.memory_mb"))) as ledger,
    ):
        periods = Periods(control.database)
        bookkeeper = Bookkeeper(config.journal_dir, ledger, closed=periods.is_closed)
        with _background(config, control, ledger, bookkeeper, periods) as rounds:
            parts = _parts(config, control, ledger, bookkeeper, periods)
            audits = Audits(config.data)
            yield create_app(
                config,
                control,
                routers=_api(parts, ledger, bookkeeper, periods, audits),
                pages=_pages(parts, audits),
                bodies={AUDIT: BODY_BYTES_MAX, AUDITS: LOG_BYTES_MAX},
                apart=POSTING,
                ready=lambda: {"ledger": bookkeeper.current, **rounds.sound()},
            )
        bookkeeper.catch_up()


@contextlib.contextmanager
def _background(
    config: Config, control: Control, ledger: Ledger, bookkeeper: Bookkeeper, periods: Periods
) -> Iterator[Rounds]:
    """What the console does beside answering: posting, asking for results of jobs, amortising, moving keys."""
    from costbearer.amortise import Amortiser
    from costbearer.dialects.registry import all_dialects
    from costbearer.jobs import Poller
    from costbearer.stores.peppers import Peppers
    from costbearer.stores.rekeying import Spool

    posting_s, polling_s = config.number("ledger.post_interval_ms") / 1000, config.number("ledger.poll_interval_s")
    poller = Poller(config, bookkeeper, all_dialects(), functools.partial(load_prices, config.prices_dir))
    amortiser = Amortiser(ledger, bookkeeper, functools.partial(contract_of, config), periods.is_closed)
    rekeyed = functools.partial(Peppers(control.database).move, Spool(config.data))
    rounds = Rounds()
    rounds.start("bookkeeper", posting_s, bookkeeper.catch_up, at_once=True)
    rounds.start("jobs", polling_s, poller.look, daemon=True)
    rounds.start("amortise", AMORTISE_INTERVAL_S, amortiser.look)
    rounds.start("rekeying", REKEY_INTERVAL_S, rekeyed)
    try:
        yield rounds
    finally:
        rounds.stop.set()
        for name in ("bookkeeper", "amortise", "rekeying"):
            rounds.join(name)
        rounds.join("jobs", JOBS_STOP_S)


def _parts(config: Config, control: Control, ledger: Ledger, bookkeeper: Bookkeeper, periods: Periods) -> Parts:
    """What pages are made of, and the API with them."""
    from costbearer.backfill_desk import BackfillDesk
    from costbearer.console.pages.parts import Parts
    from costbearer.price_desk import Desk
    from costbearer.stores.directory import Directory
    from costbearer.stores.findings import Findings
    from costbearer.stores.views import Views

    directory = Directory(control.database)
    return Parts(
        config=config,
        control=control,
        open_reader=ledger.reader,
        beside=lambda: things_beside(config, bookkeeper, directory),
        progress=bookkeeper.progress,
        directory=directory,
        backfill=BackfillDesk(
            directory, control, ledger, bookkeeper, closed=periods.as_of_now, gateway_url=config.gateway_url
        ),
        prices=Desk(config.prices_dir, acts=control.database),
        views=Views(control.database),
        findings=Findings(control.database),
        home=home_zone(config),
    )


def _api(parts: Parts, ledger: Ledger, bookkeeper: Bookkeeper, periods: Periods, audits: Audits) -> list[APIRouter]:
    from costbearer.amortise import amortise
    from costbearer.console.api_amortisations import amortisation_router
    from costbearer.console.api_audits import audits_router
    from costbearer.console.api_directory import directory_router
    from costbearer.console.api_doctor import doctor_router, full_examination
    from costbearer.console.api_entries import entries_router
    from costbearer.console.api_hash_keys import hash_keys_router
    from costbearer.console.api_imports import imports_router
    from costbearer.console.api_periods import periods_router
    from costbearer.console.api_prices import prices_router
    from costbearer.console.api_reports import report_router
    from costbearer.console.api_restatements import restatement_router
    from costbearer.console.api_views import views_router
    from costbearer.console.metrics import metrics_router
    from costbearer.imports import post
    from costbearer.restate import restate
    from costbearer.stores.acts import before_posting
    from costbearer.stores.hash_keys import HashKeys

    config, acts = parts.config, parts.control.database

    # Each in one block: which months are closed is asked where none can be closed before it ends.
    def imported(batch: Sequence[Entry], actor: Actor) -> dict[str, Any]:
        with bookkeeper.posting():
            before_posting(acts, actor, "entries.import", {"entries": len(batch)})
            return post(ledger, bookkeeper, batch, periods.as_of_now()).document()

    def amortised(span: Period, actor: Actor | None) -> dict[str, Any]:
        with bookkeeper.posting() if actor is not None else contextlib.nullcontext():
            apply = _noted(acts, actor, "amortisation.post", span)
            contract, closed, now = contract_of(config), periods.as_of_now(), datetime.now(UTC)
            return amortise(ledger, bookkeeper, contract, **span._asdict(), now=now, apply=apply, closed=closed)

    def restated(span: Period, actor: Actor | None) -> dict[str, Any]:
        with bookkeeper.posting() if actor is not None else contextlib.nullcontext():
            apply = _noted(acts, actor, "restatement.post", span)
            prices, closed = load_prices(config.prices_dir), periods.as_of_now()
            return restate(ledger, bookkeeper, prices, span, apply=apply, closed=closed)

    def month_closed(month: str, actor: Actor) -> ClosedMonth:
        # Nor while a pass runs: what it posts to correct a call asks too.
        with bookkeeper.posting(), bookkeeper.paused():
            return periods.close(month, actor)

    return [
        report_router(ledger.reader, parts.beside, home=parts.home),
        entries_router(ledger.reader),
        imports_router(imported),
        metrics_router(ledger.reader, bookkeeper.progress),
        doctor_router(lambda: full_examination(bookkeeper, config.prices_dir)),
        prices_router(parts.prices),
        periods_router(periods.closed, month_closed),
        directory_router(parts.directory, parts.backfill),
        amortisation_router(amortised),
        restatement_router(restated),
        audits_router(audits, parts.findings),
        views_router(parts),
        hash_keys_router(HashKeys(acts, waiting_in(ledger, bookkeeper))),
    ]


def _noted(acts: Database, actor: Actor | None, action: str, span: Period) -> bool:
    """Whether a period's entries are to be posted, which somebody is then written down for."""
    from costbearer.stores.acts import before_posting

    if actor is not None:
        before_posting(acts, actor, action, span.document())
    return actor is not None


def _pages(parts: Parts, audits: Audits) -> list[APIRouter]:
    from costbearer.console.pages.backfill_pages import backfill_router
    from costbearer.console.pages.find import find_router
    from costbearer.console.pages.finding_pages import findings_router
    from costbearer.console.pages.key_pages import keys_router
    from costbearer.console.pages.overview import overview_router
    from costbearer.console.pages.price_pages import prices_router
    from costbearer.console.pages.report_pages import reports_router
    from costbearer.console.pages.view_pages import view_pages_router

    return [
        overview_router(parts),
        reports_router(parts),
        keys_router(parts),
        backfill_router(parts),
        findings_router(parts, audits),
        prices_router(parts),
        view_pages_router(parts),
        find_router(parts),
    ]
