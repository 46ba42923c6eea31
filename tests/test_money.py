from __future__ import annotations

from decimal import Context, Decimal, Inexact, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import money
from costbearer.errors import AmountInvalid

LARGEST = Decimal("99999999999999999999999999.999999999999")
amounts = st.integers(-(10**38) + 1, 10**38 - 1).map(lambda units: Decimal(f"{units}E-12"))
weights = st.lists(
    st.one_of(st.integers(0, 10**9), st.decimals(0, 10**6, places=6, allow_nan=False)), min_size=1, max_size=12
).filter(lambda values: any(values))


def units(amount: Decimal) -> int:
    return int(amount.scaleb(money.PLACES, context=Context(prec=100)))


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ("0", "0.000000000000"),
        ("-0", "0.000000000000"),
        ("0.0000000000005", "0.000000000000"),
        ("0.0000000000015", "0.000000000002"),
        ("0.00000000000051", "0.000000000001"),
        ("-0.0000000000015", "-0.000000000002"),
        ("2.5E-6", "0.000002500000"),
        (7, "7.000000000000"),
        (Decimal("0.1"), "0.100000000000"),
        ("1e12", "1000000000000.000000000000"),
        ("-1e12", "-1000000000000.000000000000"),
    ],
)
def test_usd_is_exact_with_twelve_places(given_value: str | int | Decimal, expected: str) -> None:
    assert str(money.usd(given_value)) == str(Decimal(expected))
    assert money.text(money.usd(given_value)) == expected


@pytest.mark.parametrize(
    "refused",
    [
        *(0.1, True, "", "abc", "1,5", "$1", "NaN", "sNaN", "Infinity", "1e26", f"{LARGEST}9", 10**5000, None, []),
        *("0x10", "6e25", 10**12 + 1, "1000000000000.000000000001", "-1000000000000.000000000001"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_usd_refuses_what_is_not_an_amount(refused: object) -> None:
    with pytest.raises(AmountInvalid) as caught:
        money.usd(refused)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@given(amounts)
def test_text_is_what_usd_sum_reads(amount: Decimal) -> None:
    assert money.usd_sum(money.text(amount)) == amount


@pytest.mark.parametrize("refused", ["1e26", f"-{LARGEST}9", "99999999999999999999999999.9999999999995", "NaN", 0.5])
def test_a_sum_is_what_the_column_holds(refused: str | float) -> None:
    assert money.usd_sum(str(LARGEST)) == LARGEST
    with pytest.raises(AmountInvalid):
        money.usd_sum(refused)  # type: ignore[arg-type]


def test_what_was_calculated_is_within_the_limit_of_an_amount_or_not() -> None:
    assert money.within(Decimal("-1e12")) and not money.within(Decimal("1000000000000.000000000001"))


@given(st.integers(-(10**12), 10**12), st.integers(0, 10**20))
def test_times_is_exact_in_whole_units(quantity: int, unit_price_units: int) -> None:
    product = money.times(quantity, Decimal(f"{unit_price_units}E-12"))
    assert units(product) == quantity * unit_price_units


def test_times_raises_rather_than_round() -> None:
    with pytest.raises(Inexact):
        money.times(10**12 + 1, Decimal("1." + "1" * 74))


@given(st.lists(amounts, max_size=20))
def test_total_and_minus_are_exact_whatever_the_thread_s_context(values: list[Decimal]) -> None:
    with localcontext(prec=3):
        total = money.total(values)
        rest = money.minus(total, money.total(values[:1]))
    assert int(total.as_tuple().exponent) == -money.PLACES
    assert total == Decimal(f"{sum(map(units, values))}E-12")
    assert rest == Decimal(f"{sum(map(units, values[1:]))}E-12")


@pytest.mark.parametrize(
    ("amount", "factor", "expected"),
    [
        ("0.000005", "1.1", "0.0000055"),
        ("0.000000000005", "0.5", "0.000000000002"),
        ("0.000000000007", "0.5", "0.000000000004"),
    ],
)
def test_scaled_rounds_half_even(amount: str, factor: str, expected: str) -> None:
    assert money.scaled(Decimal(amount), Decimal(factor)) == Decimal(expected)


def test_per_and_share() -> None:
    assert money.per(Decimal("10"), 3) == Decimal("3.333333333333")
    assert money.per(Decimal("-10"), 3) == Decimal("-3.333333333333")
    assert money.per(Decimal("10"), 0) is None
    assert money.share(Decimal("1"), Decimal("4")) == 0.25
    assert money.share(Decimal("1"), money.ZERO) is None


@pytest.mark.parametrize(
    ("amount", "parts", "expected"),
    [
        ("1", [1, 1, 1], ["0.333333333334", "0.333333333333", "0.333333333333"]),
        ("-1", [1, 1, 1], ["-0.333333333334", "-0.333333333333", "-0.333333333333"]),
        ("0.000000000001", [0, 1, 1], ["0", "0.000000000001", "0"]),
        ("0", [5, 7], ["0", "0"]),
        ("10", [Decimal("0.25"), Decimal("0.75")], ["2.5", "7.5"]),
        (str(LARGEST), [1, 1], ["50000000000000000000000000", "49999999999999999999999999.999999999999"]),
    ],
)
def test_allocate_by_table(amount: str, parts: list[int | Decimal], expected: list[str]) -> None:
    assert money.allocate(Decimal(amount), parts) == [Decimal(part) for part in expected]


@given(amounts, weights)
def test_allocate_adds_up_and_each_part_is_within_one_unit(amount: Decimal, parts: list[int | Decimal]) -> None:
    allocated = money.allocate(amount, parts)
    assert money.total(allocated) == amount
    whole = sum(map(Decimal, parts), Decimal(0))
    with localcontext(prec=90):
        for part, weight in zip(allocated, parts, strict=True):
            assert abs(part - amount * Decimal(weight) / whole) < money.QUANTUM
            assert weight or not part


@pytest.mark.parametrize("parts", [[], [0, 0], [1, -1, 1]])
def test_allocate_refuses_weights_that_say_nothing(parts: list[int]) -> None:
    with pytest.raises(AmountInvalid):
        money.allocate(Decimal(1), parts)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (None, "unknown"),
        ("0", "$0.00"),
        ("1234.5", "$1,234.50"),
        ("-1234.5", "-$1,234.50"),
        ("99.999", "$100.00"),
        ("0.012695", "$0.012695"),
        ("0.5", "$0.50"),
        ("0.01", "$0.01"),
        ("0.0099", "$0.0099"),
        ("0.000000000001", "$0.000000000001"),
        ("-0.0000025", "-$0.0000025"),
        ("12345678901234567890123456.119", "$12,345,678,901,234,567,890,123,456.12"),
    ],
)
def test_display(amount: str | None, expected: str) -> None:
    assert money.display(None if amount is None else Decimal(amount)) == expected


@pytest.mark.parametrize(
    ("amount", "plain", "shown"),
    [
        ("0", "0", "$0.00"),
        ("3", "3", "$3.00"),
        ("10", "10", "$10.00"),
        ("3.125", "3.125", "$3.125"),
        ("0.000000000001", "0.000000000001", "$0.000000000001"),
        ("1234.5", "1234.5", "$1234.50"),
    ],
)
def test_a_price_keeps_every_digit(amount: str, plain: str, shown: str) -> None:
    assert money.plain(money.usd(amount)) == plain
    assert money.display_price(money.usd(amount)) == shown
    assert money.usd(plain) == money.usd(amount)
