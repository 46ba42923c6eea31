"""`costbearer prices`: list, show, compare and change prices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from costbearer import money
from costbearer.cli.amortise import amortise
from costbearer.cli.client import Document, Local, Pairs, Remote, operator, with_client
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.errors import NotFound, PricesInvalid

if TYPE_CHECKING:
    from costbearer.price_desk import Desk

PATH = "/api/v1/prices"
CHECK_FAILED = 1
_CONTEXT = ("provider", "model", "context", "hours", "valid_from", "valid_until")
_PRICE = ("meter", "unit", "above_input_tokens", "price_usd", "contract_usd")
_CSV_COLUMNS = (*_CONTEXT, *_PRICE, "source", "card")
_CHANGE_COLUMNS = ("code", "finding", "provider", "model", "context", "day", "old", "new")
_LISTED = ("input", "cache_read_input", "cache_creation_input", "output")
"""The meters that the list has columns for; `prices show` has them all."""
_MILLION = 1_000_000


@click.group()
def prices() -> None:
    """List, show, compare and change prices.

    A public price list, the archive, is what calls are rated by; a contract is what was negotiated on top of it.
    """


def _at(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--at", metavar="T", help="A day, or a time with its offset.  [default: now]")(function)


@prices.command("list")
@with_client
@click.option("--provider", metavar="P", help="Only this provider's.")
@click.option("--model", metavar="PATTERN", default="*", help="Only models like this; * is any text.")
@_at
@json_option
@csv_option
def list_prices(
    client: Local | Remote, provider: str | None, model: str, at: str | None, as_json: bool, as_csv: bool
) -> None:
    """The standard prices of every model, in USD per million tokens; the contracted one stands after a slash."""
    one_of(as_json, as_csv)
    if isinstance(client, Local):
        found = _desk(client).listed(provider=provider, model=model, at=_moment(at))
    else:
        found = client.document("GET", PATH, params=_given(provider=provider, model=model, at=at))
    if as_json:
        print_json(found)
        return
    if as_csv:
        print_csv(_CSV_COLUMNS, [row for model_ in found["prices"] for row in _csv_rows(model_)])
        return
    headings = ["PROVIDER", "MODEL", *(meter.upper().replace("_", " ") for meter in _LISTED), "SINCE"]
    print_table(headings, [_listed(row) for row in found["prices"]])
    if not found["prices"]:
        say("No model is like that.")
    _say_newer(found)


@prices.command()
@with_client
@click.argument("model")
@click.option("--provider", metavar="P", help="At this provider.  [default: the model's maker]")
@_at
@json_option
@csv_option
def show(client: Local | Remote, model: str, provider: str | None, at: str | None, as_json: bool, as_csv: bool) -> None:
    """Every price of one model: each meter, tier and variant, its history, its source, the contract beside the list."""
    one_of(as_json, as_csv)
    if isinstance(client, Local):
        found = _desk(client).shown(model, provider=provider, at=_moment(at))
    else:
        path = f"{PATH}/models/{quote(model, safe='')}"
        found = client.document("GET", path, params=_given(provider=provider, at=at))
    if as_json:
        print_json(found)
        return
    named = {"provider": found["provider"], "model": found["model"]}
    if as_csv:
        cards = {card["card"]: card for card in (*found["cards"], *found["history"])}
        print_csv(_CSV_COLUMNS, [row for card in cards.values() for row in _csv_rows({**named, **card})])
        return
    click.echo(f"{found['provider']}/{found['model']} at {found['at']}, archive {found['archive'][:12]}")
    if found["also_at"]:
        click.echo(f"also at {', '.join(found['also_at'])}")
    for card in found["cards"]:
        _print_card(card)
    if found["history"]:
        click.echo("\nhistory")
        rows = [
            (card["context"], _span(card), _short(card), card["card"].rpartition("#")[2]) for card in found["history"]
        ]
        print_table(("CONTEXT", "DAYS", "PRICES (USD per unit)", "HASH"), rows)
    _say_newer(found)


@prices.command()
@with_client
@json_option
@csv_option
def archives(client: Local | Remote, as_json: bool, as_csv: bool) -> None:
    """Which archives and contracts held when, the newest first."""
    one_of(as_json, as_csv)
    found = _desk(client).archives() if isinstance(client, Local) else client.document("GET", f"{PATH}/archives")
    columns = ("revision", "since", "archive", "contract", "by", "what")
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(columns, [[row[column] for column in columns] for row in found["held"]])
    else:
        rows = [[_cell(row[column]) for column in columns] for row in found["held"]]
        print_table([column.upper() for column in columns], rows)
        say(f"The bundled archive is {found['bundled']}.")


@prices.command()
@with_client
@click.argument("old", metavar="A")
@click.argument("new", metavar="B", default="current")
@json_option
@csv_option
def diff(client: Local | Remote, old: str, new: str, as_json: bool, as_csv: bool) -> None:
    """What archive B says otherwise than archive A, what needs a look first.

    Each is `current`, `bundled`, the first digits of a hash, a day on which it held, or a file.
    """
    from costbearer.price_desk import difference

    one_of(as_json, as_csv)
    found = difference(_archive(client, old), _archive(client, new), datetime.now(UTC).date())
    _print_changes(found, as_json=as_json, as_csv=as_csv)


@prices.command("set")
@with_client
@click.option("--provider", metavar="P", required=True, help="The provider it is agreed with.")
@click.option("--model", metavar="PATTERN", default="*", help="The models it is about; * is any text.")
@click.option("--tier", help="Only this tier; `standard` is none.  [default: every tier]")
@click.option("--geo", help="Only this place of processing.  [default: every one]")
@click.option("--since", metavar="DAY", help="The first day.  [default: today]")
@click.option("--until", metavar="DAY", help="The first day on which it no longer holds.  [default: open]")
@click.option("--discount", metavar="PERCENT", help="Percent off the price list.")
@click.option("--price", "each", metavar="METER=USD", multiple=True, help="A price per unit, such as web_search=0.008.")
@click.option("--per-million", metavar="METER=USD", multiple=True, help="A price per million, such as input=2.10.")
@json_option
def set_term(
    client: Local | Remote, each: tuple[str, ...], per_million: tuple[str, ...], as_json: bool, **given: str | None
) -> None:
    """Agree on a discount or on prices, from a day on. What held of the same before ends with that day."""
    fields: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    for name, pairs in (("prices", each), ("prices_per_million", per_million)):
        if pairs:
            fields[name] = dict(_pairs(pairs))
    if isinstance(client, Local):
        found = _changing(client).set_term(fields, by=operator())
    else:
        found = client.document("POST", f"{PATH}/contract/terms", body=fields)
    _print_contract(found, as_json=as_json)


@prices.command("import")
@with_client
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@csv_option
def import_(client: Local | Remote, file: Path, as_json: bool, as_csv: bool) -> None:
    """Take a contract's file (TOML or CSV), or a price archive. It is taken whole or refused whole."""
    from costbearer.price_desk import is_archive, packed

    one_of(as_json, as_csv)
    data = _read(file)
    if is_archive(data):
        _print_changes(_update(client, data, check=False), as_json=as_json, as_csv=as_csv)
        return
    if isinstance(client, Local):
        found = _changing(client).take_contract(data, by=operator())
    else:
        found = client.document("PUT", f"{PATH}/contract", body={"content": packed(data)})
    _print_contract(found, as_json=as_json)


@prices.command()
@with_client
@click.option("--from", "file", type=click.Path(path_type=Path, dir_okay=False), help="A file.  [default: the bundled]")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if something needs a look.")
@json_option
@csv_option
def update(client: Local | Remote, file: Path | None, check: bool, as_json: bool, as_csv: bool) -> None:
    """Take another price archive, and say what it says otherwise. Those before it are kept.

    A past price that changed, data that is older, a model that vanished and a name that means another model are shown
    first.
    """
    one_of(as_json, as_csv)
    found = _update(client, _read(file) if file is not None else None, check=check)
    _print_changes(found, as_json=as_json, as_csv=as_csv)
    if check and found["findings"]:
        raise click.exceptions.Exit(CHECK_FAILED)


# -- asking


def _desk(client: Local) -> Desk:
    from costbearer.price_desk import Desk

    return Desk(client.config.prices_dir)


def _changing(client: Local) -> Desk:
    """The desk of a directory that is there: making one would take a mistyped path for a new installation."""
    if not client.config.data.is_dir():
        raise NotFound(
            f"there is no data directory {client.config.data}; name it with --data, or begin with `costbearer serve`"
        )
    from costbearer.price_desk import Desk

    return Desk(client.config.prices_dir, acts=client.acts())


def _update(client: Local | Remote, data: bytes | None, *, check: bool) -> Document:
    from costbearer.price_desk import packed

    if isinstance(client, Local):
        return _changing(client).update(data, by=operator(), check=check)
    body: dict[str, object] = {"check": check, **({"content": packed(data)} if data is not None else {})}
    return client.document("POST", f"{PATH}/update", body=body)


def _archive(client: Local | Remote, reference: str) -> bytes:
    path = Path(reference)
    if "/" in reference or path.suffix == ".json":
        return _read(path)
    if isinstance(client, Local):
        return _desk(client).find(reference)
    return client.text(f"{PATH}/archives/{quote(reference, safe='')}").encode()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from None


def _moment(at: str | None) -> datetime | None:
    from costbearer.price_desk import moment

    return None if at is None else moment(at)


def _given(**params: str | None) -> Pairs:
    return [(name, value) for name, value in params.items() if value is not None]


def _pairs(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        meter, equals, price = text.partition("=")
        if not equals:
            raise PricesInvalid(f"{text!r} is not a meter and its price, such as input=2.10")
        yield meter.strip(), price.strip()


# -- showing


def _print_card(card: Document) -> None:
    click.echo(f"\n{card['context']}, {_span(card)}{', ' + card['hours'] + ' UTC' if card['hours'] else ''}")
    click.echo(f"  {card['source']}; card {card['card']}")
    for price in card["prices"]:
        steps = "".join(
            f", {_amount(step['price_usd'], price['unit'])} above {step['above_input_tokens']:,} input tokens"
            for step in price["steps"]
        )
        stated = _amount(price["price_usd"], price["unit"]) if price["price_usd"] else "no public price"
        contract = f"  contract {_amount(price['contract_usd'], price['unit'])}" if price["contract_usd"] else ""
        click.echo(f"  {price['meter']:<24} {stated}{steps}{contract}")
    for price in card["unmetered"]:
        click.echo(f"  {price['meter']:<24} {money.display_price(Decimal(price['price_usd']))} each, not metered")


def _amount(text: str, unit: str) -> str:
    if unit in ("token", "character"):
        return f"{money.display_price(money.times(_MILLION, Decimal(text)))} per million {unit}s"
    return f"{money.display_price(Decimal(text))} per {unit}"


def _span(card: Document) -> str:
    begins, ends = card["valid_from"], card["valid_until"]
    return f"from {begins or 'the first day'}" + (f" until {ends}" if ends else "")


def _short(card: Document) -> str:
    return " ".join(
        f"{price['meter']}={money.plain(Decimal(price['price_usd']))}" for price in card["prices"] if price["price_usd"]
    )


def _listed(row: Document) -> list[str]:
    by_meter = {price["meter"]: price for price in row["prices"]}
    cells = [_pair(by_meter[meter]) if meter in by_meter else "-" for meter in _LISTED]
    return [row["provider"], row["model"], *cells, row["valid_from"] or "-"]


def _pair(price: Document) -> str:
    amounts = [price["price_usd"], price["contract_usd"]]
    return " / ".join(
        money.display_price(money.times(_MILLION, Decimal(amount))) if amount else "-"
        for amount in amounts[: 1 + bool(amounts[1])]
    )


def _csv_rows(card: Document) -> Iterator[list[object]]:
    from costbearer.price_desk import price_rows

    for row in price_rows(card):
        whole = {**card, **row}
        yield [whole[column] for column in _CSV_COLUMNS]


prices.add_command(amortise)


def _print_changes(found: Document, *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(_CHANGE_COLUMNS, [[change[column] for column in _CHANGE_COLUMNS] for change in found["changes"]])
    elif found["changes"]:
        columns = [column for column in _CHANGE_COLUMNS if column != "finding"]
        rows = [[_cell(change[column]) for column in columns] for change in found["changes"]]
        print_table([column.upper() for column in columns], rows)
    said = (
        f"{found['from'][:12]} to {found['to'][:12]}: {len(found['changes'])} changes, {found['findings']} to look at"
    )
    say(said + (", taken" if found.get("taken") else ""))


def _print_contract(found: Document, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for row in found["terms"]:
        about = "/".join(row[name] for name in ("provider", "model", "tier", "geo") if row[name])
        agreed = f"{row['discount']} % off" if row["discount"] is not None else ""
        agreed += ", ".join(f"{meter} {money.plain(Decimal(price))}" for meter, price in row["prices"].items())
        click.echo(f"{about}: {agreed}, {_from(row)}")
    for row in found["commitments"]:
        fee = money.display_price(Decimal(row["fee_usd"]))
        click.echo(f"{row['name']} ({row['provider']}/{row['model']}): {fee} per {row['every']}, {_from(row)}")
    say(f"Contract {found['contract'][:12]} holds.")


def _from(row: Document) -> str:
    return f"from {row['since'] or 'the first day'}" + (f" until {row['until']}" if row["until"] else "")


def _say_newer(found: Document) -> None:
    if found["newer_bundled"]:
        say("Another archive came with this version; take it with `costbearer prices update`.")


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
