from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import money
from costbearer.contract import Contract, effective_cost
from costbearer.contract_rows import Commitment, Term
from costbearer.errors import AmountInvalid, PricesInvalid
from costbearer.prices import Card, Context, Price, PriceBook
from costbearer.rating import bound, rate
from costbearer.stores.archive import bundled
from costbearer.usage import Usage, Work

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STANDARD = Context()

RULES = b"""\
[[terms]]
provider = "openai"
discount = "10"

[[terms]]
provider = "openai"
model = "gpt-5*"
since = 2026-11-01
discount = "12.5"

[[terms]]
provider = "openai"
model = "gpt-5.4"
tier = "batch"
discount = "50"

[[terms]]
provider = "anthropic"
model = "claude-opus-5"
prices_per_million = { input = "4.20", cache_creation_1h_input = "9" }

[[terms]]
provider = "acme"
model = "secret-*"
since = 2026-01-01
prices_per_million = { input = "2", output = "8" }
prices = { generated_image = "0.05" }

[[commitments]]
name = "east"
provider = "azure"
model = "gpt-4.1*"
deployment = "prod-east"
fee = "2"
every = "hour"
since = 2026-01-01
until = 2026-12-01
"""


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.loads(bundled())


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.loads(RULES)


def work(model: str, largest: int | None = None, **counts: int) -> Work:
    return Work(model=model, usage=Usage(**counts), largest_input_tokens=largest)


def card(book: PriceBook, provider: str, model: str, context: Context = STANDARD, when: datetime = NOW) -> Card:
    found = book.at(provider, model, context, when)
    assert isinstance(found, Card)
    return found


@pytest.mark.parametrize(
    ("model", "context", "when", "discount"),
    [
        ("gpt-4o", STANDARD, NOW, "10"),
        ("gpt-5.4", STANDARD, NOW, "12.5"),
        ("gpt-5.4", STANDARD, datetime(2026, 10, 31, 23, 59, tzinfo=UTC), "10"),  # before its term
        ("gpt-5.4", Context(tier="batch"), NOW, "50"),  # the one that names the tier
        ("gpt-5.4", Context(tier="flex"), NOW, "12.5"),
        ("gpt-5", Context(tier="batch"), NOW, "12.5"),
    ],
)
def test_the_most_specific_term_holds(
    book: PriceBook, contract: Contract, model: str, context: Context, when: datetime, discount: str
) -> None:
    found = card(book, "openai", model, context, when)
    term = contract.term_for(found, when)
    assert term is not None
    assert term.discount == Decimal(discount)
    prices = contract.at(found, when)
    assert prices is not None
    keeps = (Decimal(100) - Decimal(discount)) / 100
    assert prices["output"].base == money.scaled(found.prices["output"].base, keeps)


def test_a_discount_covers_every_meter_and_step_and_is_rounded_once(book: PriceBook, contract: Contract) -> None:
    found = card(book, "openai", "gpt-5.4")
    prices = contract.at(found, NOW)
    assert prices is not None
    assert set(prices) == set(found.prices)
    assert found.prices["input"].steps
    for meter, price in found.prices.items():
        assert prices[meter].base == money.scaled(price.base, Decimal("0.875"))
        assert [threshold for threshold, _ in prices[meter].steps] == [threshold for threshold, _ in price.steps]
    odd = Contract.loads(b'[[terms]]\nprovider = "openai"\ndiscount = "33.333333333333"\n')
    prices = odd.at(found, NOW)
    assert prices is not None
    assert prices["input"].base == Decimal("0.000001666667")  # 0.0000025 x 0.66666666666667


def test_a_contract_that_says_nothing_of_a_call(book: PriceBook, contract: Contract) -> None:
    assert contract.at(card(book, "anthropic", "claude-haiku-4-5"), NOW) is None
    assert contract.term_for(card(book, "anthropic", "claude-haiku-4-5"), NOW) is None


def test_a_call_has_its_list_cost_beside_its_contracted_one(book: PriceBook, contract: Contract) -> None:
    part = work("gpt-5", 1200, input_tokens=1200, cache_read_input_tokens=1000, output_tokens=300)
    listed = rate("openai", [part], STANDARD, NOW, book)
    agreed = rate("openai", [part], STANDARD, NOW, book, contract)
    assert listed.cost_usd is not None
    assert agreed.cost_usd == money.scaled(listed.cost_usd, Decimal("0.875"))
    assert [charge.list_cost_usd for charge in agreed.charges] == [charge.cost_usd for charge in listed.charges]
    for charge in agreed.charges:
        assert charge.cost_usd == charge.quantity * charge.unit_price_usd
        assert charge.card == card(book, "openai", "gpt-5").id


def test_a_negotiated_price_stands_for_its_meter_alone(book: PriceBook, contract: Contract) -> None:
    part = work("claude-opus-5", 1000, input_tokens=1000, cache_read_input_tokens=400, output_tokens=10)
    rating = rate("anthropic", [part], STANDARD, NOW, book, contract)
    by_meter = {charge.meter: charge for charge in rating.charges}
    assert by_meter["input"].unit_price_usd == Decimal("0.0000042")
    assert (by_meter["input"].cost_usd, by_meter["input"].list_cost_usd) == (Decimal("0.00252"), Decimal("0.003"))
    for meter in ("cache_read_input", "output"):
        assert by_meter[meter].cost_usd == by_meter[meter].list_cost_usd


def test_a_negotiated_price_for_a_meter_the_list_has_none_for(book: PriceBook) -> None:
    """Its list cost is that of the meter it would fall to, and else its own cost: nobody states another."""
    prices = b'prices = { reasoning_output = "0.000001", code_interpreter_session = "0.03" }\n'
    rules = b'[[terms]]\nprovider = "openai"\n' + prices
    part = work("gpt-5", 1, output_tokens=10, reasoning_output_tokens=4, code_interpreter_sessions=2)
    rating = rate("openai", [part], STANDARD, NOW, book, Contract.loads(rules))
    lines = {charge.meter: (charge.cost_usd, charge.list_cost_usd) for charge in rating.charges}
    assert lines == {
        "output": (Decimal("0.00006"), Decimal("0.00006")),
        "reasoning_output": (Decimal("0.000004"), Decimal("0.00004")),
        "code_interpreter_session": (Decimal("0.06"), Decimal("0.06")),
    }


def test_what_no_list_knows_is_rated_by_the_contract_alone(book: PriceBook, contract: Contract) -> None:
    part = work("Secret-1", 100, input_tokens=100, cache_read_input_tokens=50, output_tokens=10, generated_images=1)
    rating = rate("acme", [part], STANDARD, NOW, book, contract)
    assert [(charge.meter, charge.quantity) for charge in rating.charges] == [
        ("input", 100),
        ("output", 10),
        ("generated_image", 1),
    ]
    assert rating.cost_usd == Decimal("0.05028")
    assert all(charge.cost_usd == charge.list_cost_usd for charge in rating.charges)
    made = contract.find_card(rating.charges[0].card)
    assert made is not None
    assert (made.id, made.model, made.valid_from) == (rating.charges[0].card, "secret-1", date(2026, 1, 1))
    assert contract.find_card(made.id[:-1] + "x") is None
    assert contract.find_card(card(book, "openai", "gpt-5").id) is None
    assert rate("acme", [part], STANDARD, NOW, book).reason == "provider_unpriced"
    too_early = datetime(2025, 12, 31, tzinfo=UTC)
    assert rate("acme", [part], STANDARD, too_early, book, contract).reason == "provider_unpriced"


def test_a_discount_prices_nothing_that_has_no_price(book: PriceBook, contract: Contract) -> None:
    assert rate("openai", [work("gpt-99", 1, input_tokens=1)], STANDARD, NOW, book, contract).reason == "model_unpriced"


def test_committed_capacity_may_have_prices_of_its_own(book: PriceBook) -> None:
    rules = b'[[terms]]\nprovider = "anthropic"\ntier = "priority"\nprices_per_million = { input = "1" }\n'
    part = work("claude-opus-5", 1, input_tokens=1_000_000)
    rating = rate("anthropic", [part], Context(tier="priority"), NOW, book, Contract.loads(rules))
    assert rating.cost_usd == 1
    assert rating.charges[0].card.startswith("anthropic/claude-opus-5/priority/undated#")
    assert Contract.loads(rules).find_card(rating.charges[0].card) is not None
    assert rate("anthropic", [part], STANDARD, NOW, book, Contract.loads(rules)).cost_usd == 5


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 100 * 10**12).map(lambda units: Decimal(units).scaleb(-12)),
)
def test_contracted_charges_sum_to_the_cost_and_never_exceed_the_list(
    book: PriceBook, given_tokens: int, made: int, discount: Decimal
) -> None:
    agreed = Contract([Term(provider="openai", discount=discount)], [], "")
    part = work("gpt-5.4", given_tokens, input_tokens=given_tokens, output_tokens=made)
    rating = rate("openai", [part], STANDARD, NOW, book, agreed)
    assert rating.cost_usd == money.total(charge.cost_usd for charge in rating.charges)
    for charge in rating.charges:
        assert 0 <= charge.cost_usd <= charge.list_cost_usd
        assert charge.cost_usd == charge.quantity * charge.unit_price_usd


# ---- one more term -------------------------------------------------------------------------------------------------


def test_a_new_term_ends_the_open_one_before_it(contract: Contract) -> None:
    new = Term(provider="openai", model="gpt-5*", since=date(2026, 12, 1), discount=Decimal(20))
    changed = contract.with_term(new)
    same = [term for term in changed.terms if term.scope == new.scope]
    assert [(term.since, term.until, term.discount) for term in same] == [
        (date(2026, 11, 1), date(2026, 12, 1), Decimal("12.5")),
        (date(2026, 12, 1), None, Decimal(20)),
    ]
    assert len(changed.terms) == len(contract.terms) + 1
    assert len(changed.commitments) == 1
    assert Contract.loads(changed.dumps()).hash == changed.hash


@pytest.mark.parametrize("since", [date(2026, 11, 1), date(2026, 10, 1), None])
def test_a_new_term_that_begins_no_later_is_refused(contract: Contract, since: date | None) -> None:
    with pytest.raises(PricesInvalid, match="overlaps the term of line"):
        contract.with_term(Term(provider="openai", model="gpt-5*", since=since, discount=Decimal(20)))


# ---- bounds --------------------------------------------------------------------------------------------------------


def test_a_price_above_the_list_raises_the_card_bounds_are_taken_from(book: PriceBook) -> None:
    dear = Contract.loads(
        b'[[terms]]\nprovider = "openai"\nmodel = "gpt-4o"\ntier = "batch"\nprices = { input = "1" }\n'
    )
    found = card(book, "openai", "gpt-4o")
    raised = dear.ceiling(found, NOW)
    assert raised.prices["input"] == Price(money.usd(1))
    assert raised.prices["output"] == found.prices["output"]
    most = bound(raised, input_tokens_max=10, output_tokens_max=0)
    assert most == 10
    cheap = Contract.loads(b'[[terms]]\nprovider = "openai"\nprices = { input = "0" }\n')
    assert cheap.ceiling(found, NOW) is found


# ---- capacity ------------------------------------------------------------------------------------------------------

HOURLY = Commitment(name="h", provider="azure", fee_usd=money.usd("10"), every="hour")


@pytest.mark.parametrize(
    ("tokens", "shares", "unused"),
    [
        ([], [], "10"),
        ([0, 0], ["0", "0"], "10"),
        ([5], ["10"], "0"),
        ([1, 3], ["2.5", "7.5"], "0"),
        ([1, 1, 1], ["3.333333333334", "3.333333333333", "3.333333333333"], "0"),
        ([0, 2], ["0", "10"], "0"),
    ],
)
def test_a_fee_is_spread_by_tokens(tokens: list[int], shares: list[str], unused: str) -> None:
    spread = effective_cost(HOURLY, NOW, "hour", tokens)
    assert spread.shares_usd == tuple(map(Decimal, shares))
    assert (spread.fee_usd, spread.unused_usd) == (Decimal(10), Decimal(unused))


@given(st.lists(st.integers(0, 10**9), max_size=20), st.integers(0, 10**12), st.sampled_from(["hour", "month"]))
def test_shares_and_what_is_unused_are_the_fee(tokens: list[int], units: int, every: str) -> None:
    made = Commitment(name="c", provider="p", fee_usd=money.usd(Decimal(units).scaleb(-6)), every=every)  # type: ignore[arg-type]
    spread = effective_cost(made, NOW, "day", tokens)
    assert money.total((*spread.shares_usd, spread.unused_usd)) == spread.fee_usd == made.fee_of(NOW, "day")
    assert all(share >= 0 for share in spread.shares_usd)
    assert [share for share, used in zip(spread.shares_usd, tokens, strict=True) if not used and share] == []


def test_negative_use_is_no_use() -> None:
    with pytest.raises(AmountInvalid):
        effective_cost(HOURLY, NOW, "hour", [5, -1])


@pytest.mark.parametrize(
    ("provider", "model", "deployment", "when", "covered"),
    [
        ("azure", "gpt-4.1-mini", "prod-east", NOW, True),
        ("azure", "gpt-4.1-mini", "prod-west", NOW, False),
        ("azure", "gpt-4o", "prod-east", NOW, False),
        ("openai", "gpt-4.1-mini", "prod-east", NOW, False),
        ("azure", "gpt-4.1", "prod-east", NOW + timedelta(days=9), False),
    ],
)
def test_the_commitment_a_call_ran_on(
    contract: Contract, provider: str, model: str, deployment: str, when: datetime, covered: bool
) -> None:
    found = contract.commitment_for(provider, model, deployment, when)
    assert (found.name if found else None) == ("east" if covered else None)


def test_the_cache_has_an_end(book: PriceBook, contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("costbearer.prices.CACHE_ENTRIES_MAX", 4)
    fresh = Contract.loads(RULES)
    for day in range(20):
        fresh.at(card(book, "openai", "gpt-4o"), NOW + timedelta(days=day))
    assert len(fresh._prices) == 4
    assert contract.sellers("secret-9") == ("acme",)
