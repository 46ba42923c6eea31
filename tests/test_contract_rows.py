from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import money
from costbearer.contract_rows import BYTES_MAX, Commitment, Every, Period, Term, matches, read, term, written
from costbearer.errors import PricesInvalid
from costbearer.usage import METER

NUMBER = "is not a decimal number such as 0.0125"
DAY = "is not a day such as 2026-12-31"
ABOUT = "which is about the same"
COMMITMENT = "[[commitments]]\nname = 'a'\nprovider = 'x'\n"

TOML = b"""\
# agreed in spring
[[terms]]
provider = "OpenAI"
model = "gpt-5*"
tier = "batch"
since = 2026-01-01
until = 2027-01-01
discount = "12.5"

[[terms]]
provider = "anthropic"
model = "claude-opus-5"
prices_per_million = { input = "4.20", output = 21 }
prices = { web_search = "0.008" }

[[terms]]
provider = "openai"
model = "gpt-5*"
tier = "batch"
since = 2027-01-01
discount = 15.25

[[commitments]]
name = "PTU East"
provider = "azure"
model = "gpt-4.1*"
deployment = "Prod-East"
fee = "730.5"
every = "month"
since = 2026-01-01
"""

CSV = b"""\
provider,model,tier,geo,since,until,discount,meter,price,per,name,deployment,fee,every
OpenAI,gpt-5*,batch,,2026-01-01,2027-01-01,12.5,,,,,,,
anthropic,claude-opus-5,,,,,,input,4.20,1000000,,,,
anthropic,claude-opus-5,,,,,,output,21,1000000,,,,
anthropic,claude-opus-5,,,,,,web_search,0.008,,,,,
openai,gpt-5*,batch,,2027-01-01,,15.25,,,,,,,
azure,gpt-4.1*,,,2026-01-01,,,,,,PTU East,Prod-East,730.5,month
"""


def bare(rows: list[Term] | list[Commitment]) -> list[Term | Commitment]:
    return [msgspec.structs.replace(row, line=0) for row in rows]


def test_a_contract_in_toml() -> None:
    terms, commitments = read(TOML)
    assert terms[0] == Term(
        provider="openai",
        model="gpt-5*",
        tier="batch",
        since=date(2026, 1, 1),
        until=date(2027, 1, 1),
        discount=Decimal("12.5"),
        line=2,
    )
    assert terms[1].prices == {
        "web_search": Decimal("0.008"),
        "input": Decimal("0.0000042"),
        "output": Decimal("0.000021"),
    }
    assert (terms[1].tier, terms[1].since, terms[1].discount, terms[1].line) == (None, None, None, 10)
    assert commitments == [
        Commitment(
            name="PTU East",
            provider="azure",
            model="gpt-4.1*",
            deployment="Prod-East",
            fee_usd=Decimal("730.5"),
            every="month",
            since=date(2026, 1, 1),
            line=23,
        )
    ]


def test_the_same_in_csv() -> None:
    for ours, theirs in zip(read(CSV), read(TOML), strict=True):
        assert bare(ours) == bare(theirs)  # type: ignore[arg-type]


def test_what_is_written_reads_back_to_the_same() -> None:
    terms, commitments = read(TOML)
    again = read(written(terms, commitments))
    assert [bare(again[0]), bare(again[1])] == [bare(terms), bare(commitments)]


def test_an_empty_file_is_a_contract_about_nothing() -> None:
    assert read(b"") == read(b"# nothing yet\n") == ([], [])
    assert written([], []) == b""


def test_a_provider_s_words_for_a_tier_mean_one_tier() -> None:
    rows = b'[[terms]]\nprovider = "%s"\ntier = "%s"\ndiscount = "1"\n'
    for provider, stated, tier in (
        (b"openai", b"fast", "priority"),
        (b"openai", b"default", "standard"),
        (b"google", b"ON_DEMAND_FLEX", "flex"),
        (b"aws", b"reserved", "provisioned"),
        (b"anthropic", b"priority", "priority"),
    ):
        assert read(rows % (provider, stated))[0][0].tier == tier


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[terms]]\ndiscount = '5'\n", "line 1: provider: missing"),
        ("[[terms]]\nprovider = ' '\ndiscount = '5'\n", "line 2: provider: text of 1 to 256 characters"),
        ("\n[[terms]]\nprovider = 'x'\n", "line 2: a term has either a discount or prices"),
        (
            "[[terms]]\nprovider = 'x'\ndiscount = '5'\nprices = { input = '1' }\n",
            "line 1: a term has either a discount or prices",
        ),
        ("[[terms]]\nprovider = 'x'\n\ndiscount = '-5'\n", "line 4: discount: -5 is negative"),
        ("[[terms]]\nprovider = 'x'\ndiscount = 100.1\n", "line 3: discount: 100.1 is more than 100 percent"),
        ("[[terms]]\nprovider = 'x'\ndiscount = 'a lot'\n", f"line 3: discount: 'a lot' {NUMBER}"),
        ("[[terms]]\nprovider = 'x'\ndiscount = nan\n", f"line 3: discount: 'nan' {NUMBER}"),
        ("[[terms]]\nprovider = 'x'\ndiscount = 1e1\n", f"line 3: discount: '1e1' {NUMBER}"),
        ("[[terms]]\nprovider = 'x'\ndiscount = true\n", f"line 3: discount: 'True' {NUMBER}"),
        (
            "[[terms]]\nprovider = 'x'\ndiscount = '0.0000000000001'\n",
            "line 3: discount: 0.0000000000001 has more than 12 places",
        ),
        (
            "[[terms]]\nprovider = 'x'\n[terms.prices]\ninput = '-1'\n",
            "line 4: input: -1 is negative",
        ),
        (
            "[[terms]]\nprovider = 'x'\nprices_per_million = { output = '1', input = '0.0000001' }\n",
            "line 3: input: 0.0000001 has more than 12 places per unit",
        ),
        (
            "[[terms]]\nprovider = 'x'\nprices = { inputs = '1' }\n",
            f"line 3: inputs: no such meter; known are {', '.join(METER)}",
        ),
        (
            "[[terms]]\nprovider = 'x'\nprices_per_million = { web_search = '1' }\n",
            "line 3: web_search: priced per request, not per million",
        ),
        (
            "[[terms]]\nprovider = 'x'\nprices = { input = '1' }\nprices_per_million = { input = '1' }\n",
            "line 3: input: priced twice",
        ),
        ("[[terms]]\nprovider = 'x'\nprices = '1'\n", "line 3: prices: a table of meter and price"),
        ("[[terms]]\nprovider = 'x'\nsince = 'May'\ndiscount = '5'\n", f"line 3: since: 'May' {DAY}"),
        (
            "[[terms]]\nprovider = 'x'\nsince = 2026-01-01T00:00:00Z\ndiscount = '5'\n",
            "line 3: since: '2026-01-01 00:00:00+00:00' is not a day such as 2026-12-31",
        ),
        (
            "[[terms]]\nprovider = 'x'\nsince = 2026-02-01\nuntil = 2026-02-01\ndiscount = '5'\n",
            "line 4: until: 2026-02-01 is not after 2026-02-01",
        ),
        ("[[terms]]\nprovider = 'x'\nmodels = 'y'\ndiscount = '5'\n", None),
        ("[terms]\nprovider = 'x'\n", "line 1: terms are written as [[terms]] tables"),
        ("x = 1\n[[terms]]\n", "line 1: 'x' is neither terms nor commitments"),
        ("[[terms]]\nprovider = \n", "not TOML: Invalid value (at line 2, column 12)"),
        (COMMITMENT + "fee = '1'\nevery = 'week'\n", "line 5: every: 'week' is neither hour nor month"),
        (COMMITMENT + "every = 'hour'\n", f"line 1: fee: 'None' {NUMBER}"),
        ("[[commitments]]\nprovider = 'x'\nfee = '1'\nevery = 'hour'\n", "line 1: name: missing"),
        (COMMITMENT + "fee = '-1'\nevery = 'hour'\n", "line 4: fee: -1 is negative"),
    ],
)
def test_a_fault_in_toml_names_its_line(text: str, message: str | None) -> None:
    with pytest.raises(PricesInvalid) as caught:
        read(text.encode())
    if message is None:
        assert caught.value.message.startswith("line 3: models: not known here; known are discount, geo, model,")
    else:
        assert caught.value.message == message


HEAD = "provider,model,since,until,discount,meter,price,per,name,fee,every\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("provider,modell\nx,y\n", None),
        (HEAD + "x,,,,5\n", "line 2: it has not as many cells as the header"),
        (HEAD + "x,,,,5,,,,,,,,\n", "line 2: it has not as many cells as the header"),
        (HEAD + "x,,,,,input,,,,,\n", "line 2: a price needs both meter and price"),
        (HEAD + "x,,,,,,1,,,,\n", "line 2: a price needs both meter and price"),
        (HEAD + "x,,,,,input,1,1000,,,\n", "line 2: per: '1000' is neither 1 nor 1000000"),
        (HEAD + "x,,,,,input,1.5e3,,,,\n", "line 2: input: '1.5e3' is not a decimal number such as 0.0125"),
        (HEAD + "x,,,,,input,\u0663,,,,\n", "line 2: input: '\u0663' is not a decimal number such as 0.0125"),
        (HEAD + "x,,,,5,,,,,,\n\ny,,,,-5,,,,,,\n", "line 4: discount: -5 is negative"),
        (
            HEAD + "x,,,,,input,1,,,,\nx,,,,,output,1,,,,\nx,,,,,input,2,,,,\n",
            "line 4: input: overlaps line 2, which prices the same on the same days",
        ),
        (HEAD + "x,,,,5,,,,,,\nx,,,,,input,1,,,,\n", f"line 3: overlaps the term of line 2, {ABOUT}"),
        (HEAD + 'x,"a\n', "line 2: not CSV: unexpected end of data"),
    ],
)
def test_a_fault_in_csv_names_its_line(text: str, message: str | None) -> None:
    with pytest.raises(PricesInvalid) as caught:
        read(text.encode())
    if message is None:
        assert caught.value.message.startswith("line 1: unknown column 'modell'; known are deployment,")
    else:
        assert caught.value.message == message


def test_a_file_that_is_no_text_or_too_large() -> None:
    with pytest.raises(PricesInvalid, match=r"^line 3: not UTF-8$"):
        read(b"\n\n\xff")
    with pytest.raises(PricesInvalid, match="at most 1,048,576 bytes"):
        read(b"#" * (BYTES_MAX + 1))


def terms_of(*spans: tuple[str, str], more: str = "") -> bytes:
    """Terms of one scope with these first and last days; each takes four lines and its days."""
    rows = []
    for since, until in spans:
        days = "".join(f"{key} = {day}\n" for key, day in (("since", since), ("until", until)) if day)
        rows.append(f"[[terms]]\nprovider = 'x'\ndiscount = '5'\n{days}{more}\n")
    return "".join(rows).encode()


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([("", "2026-02-01"), ("2026-02-01", "")], None),
        ([("2026-02-01", ""), ("", "2026-02-01")], None),
        ([("", ""), ("", "")], f"line 5: overlaps the term of line 1, {ABOUT}"),
        ([("", "2026-02-02"), ("2026-02-01", "")], f"line 6: overlaps the term of line 1, {ABOUT}"),
        ([("2026-02-01", ""), ("2026-01-01", "2026-02-02")], f"line 6: overlaps the term of line 1, {ABOUT}"),
        (
            [("", "2026-02-01"), ("2026-02-02", "")],
            "line 6: a gap from 2026-02-01 to 2026-02-02 after the term of line 1; a discount of 0 says that the price "
            "list holds",
        ),
    ],
)
def test_terms_about_the_same_follow_each_other(spans: list[tuple[str, str]], message: str | None) -> None:
    if message is None:
        assert len(read(terms_of(*spans))[0]) == 2
        return
    with pytest.raises(PricesInvalid) as caught:
        read(terms_of(*spans))
    assert caught.value.message == message


def test_terms_about_something_else_may_hold_on_the_same_days() -> None:
    other = terms_of(("", ""), more="model = 'a'") + terms_of(("", ""), more="tier = 'batch'")
    other += terms_of(("", ""), more="geo = 'us'") + terms_of(("", ""))
    assert len(read(other)[0]) == 4


def test_commitments_of_one_name_do_not_overlap() -> None:
    row = "[[commitments]]\nname = 'a'\nprovider = 'x'\nfee = '1'\nevery = 'hour'\n%s\n"
    assert len(read((row % "until = 2026-02-01" + row % "since = 2026-02-01").encode())[1]) == 2
    assert len(read((row % "" + row % "deployment = 'east'").encode())[1]) == 2
    with pytest.raises(PricesInvalid, match=r"^line 7: overlaps the commitment of line 1, which has its name$"):
        read((row % "until = 2026-02-02" + row % "since = 2026-02-01").encode())


def test_one_term_from_its_fields() -> None:
    made = term({"provider": "openai", "model": "gpt-5", "prices_per_million": {"input": "2.5"}, "since": "2026-01-01"})
    assert (made.prices, made.since) == ({"input": Decimal("0.0000025")}, date(2026, 1, 1))
    with pytest.raises(PricesInvalid, match=r"^discount: -1 is negative$"):
        term({"provider": "openai", "discount": "-1"})


@pytest.mark.parametrize(
    ("pattern", "model", "expected"),
    [
        ("*", "anything", True),
        ("gpt-5*", "GPT-5-mini", True),
        ("gpt-5*", "xgpt-5", False),
        ("*-mini", "gpt-5-mini", True),
        ("gpt-*-mini", "gpt-5.4-mini", True),
        ("gpt-5", "gpt-5-mini", False),
        ("gpt.5", "gpt-5", False),
        ("a(b", "a(b", True),
    ],
)
def test_patterns(pattern: str, model: str, expected: bool) -> None:
    assert matches(pattern, model) == expected


# ---- fees ----------------------------------------------------------------------------------------------------------

MONTHLY = Commitment(name="m", provider="azure", fee_usd=money.usd("1000"), every="month", since=date(2026, 2, 10))
HOURLY = Commitment(name="h", provider="azure", fee_usd=money.usd("1.25"), every="hour", until=date(2026, 2, 10))


@pytest.mark.parametrize(
    ("commitment", "start", "period", "fee"),
    [
        (HOURLY, datetime(2026, 2, 9, 23, tzinfo=UTC), "hour", "1.25"),
        (HOURLY, datetime(2026, 2, 10, tzinfo=UTC), "hour", "0"),
        (HOURLY, datetime(2026, 2, 9, tzinfo=UTC), "day", "30"),
        (HOURLY, datetime(2026, 2, 1, tzinfo=UTC), "month", "270"),
        (HOURLY, datetime(2026, 1, 1, tzinfo=UTC), "month", "930"),
        (MONTHLY, datetime(2026, 3, 1, tzinfo=UTC), "month", "1000"),
        (MONTHLY, datetime(2026, 2, 9, tzinfo=UTC), "day", "0"),
        (MONTHLY, datetime(2026, 2, 10, tzinfo=UTC), "day", "35.714285714286"),
        (MONTHLY, datetime(2026, 1, 1, tzinfo=UTC), "month", "0"),
        (MONTHLY, datetime(2026, 2, 10, tzinfo=UTC), "hour", "1.488095238096"),
    ],
)
def test_the_fee_of_a_period(commitment: Commitment, start: datetime, period: Period, fee: str) -> None:
    assert commitment.fee_of(start, period) == Decimal(fee)


@given(
    st.integers(0, 10**15).map(lambda units: Decimal(units).scaleb(-6)),
    st.sampled_from(["hour", "month"]),
    st.dates(date(2025, 12, 1), date(2026, 4, 1)),
    st.integers(1, 90),
)
def test_hours_add_up_to_their_day_and_days_to_their_month(fee: Decimal, every: Every, since: date, days: int) -> None:
    until = date.fromordinal(since.toordinal() + days)
    made = Commitment(name="c", provider="p", fee_usd=money.usd(fee), every=every, since=since, until=until)
    for month in (1, 2):
        first = datetime(2026, month, 1, tzinfo=UTC)
        length = 31 if month == 1 else 28
        by_day = [made.fee_of(first.replace(day=day), "day") for day in range(1, length + 1)]
        assert money.total(by_day) == made.fee_of(first, "month")
        for day in (1, length):
            hours = [made.fee_of(first.replace(day=day, hour=hour), "hour") for hour in range(24)]
            assert money.total(hours) == by_day[day - 1]


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20).filter(str.strip)
amounts = st.integers(0, 10**14).map(lambda units: money.plain(Decimal(units).scaleb(-12)))
whole_terms = st.builds(
    lambda provider, model, prices, days: {
        "provider": provider,
        "model": model,
        "prices": prices,
        "since": days and days.isoformat(),
    },
    texts,
    texts,
    st.dictionaries(st.sampled_from(list(METER)), amounts, min_size=1),
    st.none() | st.dates(),
)


@given(st.lists(whole_terms, max_size=4, unique_by=lambda row: str(row["model"]).strip().lower()))
def test_whatever_is_written_reads_back(rows: list[dict[str, object]]) -> None:
    terms = [term(row) for row in rows]
    again, _ = read(written(terms, []))
    assert bare(again) == bare(terms)
