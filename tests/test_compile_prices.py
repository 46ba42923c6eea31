from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from costbearer import money
from costbearer.price_archive import Model, Row
from costbearer.stores.archive import bundled
from costbearer.usage import METER

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("genai_prices")
    spec = importlib.util.spec_from_file_location("compile_prices", ROOT / "tools" / "compile_prices.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archive() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(bundled())
    return loaded


def test_the_committed_archive_is_what_its_sources_give_twice(tool: ModuleType, archive: dict[str, Any]) -> None:
    compiled_from, installed = archive["sources"]["genai-prices"], importlib.metadata.version("genai-prices")
    if compiled_from != installed:
        pytest.skip(f"the archive was compiled from genai-prices {compiled_from}, installed is {installed}")
    first = tool.compiled()
    assert first == bundled(), "run tools/compile_prices.py"
    assert tool.compiled() == first


def test_the_package_never_imports_its_development_dependency() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    assert not [source for source in sources if "import genai_prices" in source or "from genai_prices" in source]


def test_the_archive_says_that_it_is_generated_and_from_what(archive: dict[str, Any]) -> None:
    assert "do not edit" in archive["generated"]
    assert {"genai-prices", "overlay"} == set(archive["sources"])
    assert all(rule["source"] and rule["looked_up"] for rule in archive["overlay"])


def test_one_model_per_line_in_order() -> None:
    text = bundled().decode()
    rows = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.startswith('{"provider":"')]
    keys = [(row["provider"], row["id"]) for row in rows if "prices" in row]
    assert len(keys) > 2000
    assert keys == sorted(set(keys))
    assert len(text) < 2_500_000


def test_prices_are_plain_decimals_of_at_most_twelve_places(archive: dict[str, Any]) -> None:
    prices = []
    for model in archive["models"]:
        for row in (*model["prices"], *model.get("variants", ())):
            for price in row["prices"].values():
                prices += [price] if isinstance(price, str) else [price[0], *(step[1] for step in price[1:])]
                if not isinstance(price, str):
                    thresholds = [step[0] for step in price[1:]]
                    assert thresholds == sorted(set(thresholds))
    assert len(prices) > 6_600
    assert [price for price in prices if "E" in price.upper() or Decimal(price) < 0] == []
    assert [price for price in prices if money.usd(price) != Decimal(price)] == []


def test_units_without_a_meter_keep_their_source_s_name(archive: dict[str, Any]) -> None:
    units = archive["units"]
    assert set(METER) <= set(units)
    assert {"input_annotated_document_pages": "each", "output_video_tokens": "token"}.items() <= units.items()
    assert {"input_audio_second": "second", "input_page": "page", "image_input": "token"}.items() <= units.items()
    rows = [row for model in archive["models"] for row in (*model["prices"], *model.get("variants", ()))]
    assert {unit for row in rows for unit in row["prices"]} == set(units)


def test_every_rule_of_the_overlay_says_something(archive: dict[str, Any]) -> None:
    """A rule without effect is a mistake: a model that was renamed, a price that its source has now."""
    rows = [row for model in archive["models"] for row in (*model["prices"], *model.get("variants", ()))]
    named = {row.get("source") for row in rows} | {name for row in rows for name in row.get("added", ())}
    named |= {factor["source"] for provider in archive["providers"] for factor in provider.get("factors", ())}
    assert {rule["name"] for rule in archive["overlay"]} == named - {None}


def test_what_no_source_states_is_said(archive: dict[str, Any]) -> None:
    assert all(row["provider"] and row["what"] and row["why"] for row in archive["unstated"])
    assert {"priority, and flex of other models than gpt-oss"} <= {row["what"] for row in archive["unstated"]}


def test_repairs_are_listed(archive: dict[str, Any]) -> None:
    repaired = {(row["model"], row["unit"], row["stated"]): row for row in archive["repaired"]}
    noise = repaired["Qwen/Qwen3-VL-8B-Instruct", "input", "0.18000000000000002"]
    assert (noise["kept"], noise["kind"]) == ("0.00000018", "float noise")
    fine = repaired["google/gemini-2.5-flash", "cache_creation_input", "0.0833333333333333"]
    assert (fine["kept"], fine["kind"]) == ("0.000000083333", "more than 12 places")
    hourly = repaired["whisper-large-v3", "input_audio_second", "0.111"]
    assert (hourly["per"], hourly["kept"], hourly["kind"]) == ("3600", "0.000030833333", "more than 12 places")
    for row in archive["repaired"]:
        exact = Decimal(row["stated"]) / Decimal(row["per"])
        assert abs(Decimal(row["kept"]) - exact) <= Decimal("5E-13")


# ---- overlay rules on a model made up for it -------------------------------------------------------------------------

MODEL = Model(
    provider="p",
    id="m",
    match={"equals": "m"},
    prices=(
        Row({"input": ["0.000004", [100, "0.000006"]], "output": "0.000008", "web_search": "0.01"}),
        Row({"input": "0.000002", "output": "0.000005", "web_search": "0.02"}, since=date(2026, 2, 1)),
    ),
    variants=(Row({"input": "0.0000015"}, when={"tier": "batch"}, since=date(2026, 9, 1)),),
)
RULE: dict[str, Any] = {
    "name": "half",
    "provider": "p",
    "context": {"tier": "batch"},
    "over": [{}],
    "factor": "0.5",
    "until": date(2026, 9, 1),
    "units": "tokens",
    "models": "all",
}
TOKENS = {"input", "output"}


def test_a_multiple_covers_each_span_of_its_base(tool: ModuleType) -> None:
    assert tool.multiplied(RULE, MODEL, TOKENS) == (
        Row(
            {"input": ["0.000002", [100, "0.000003"]], "output": "0.000004"},
            when={"tier": "batch"},
            until=date(2026, 2, 1),
            source="half",
        ),
        Row(
            {"input": "0.000001", "output": "0.0000025"},
            when={"tier": "batch"},
            since=date(2026, 2, 1),
            until=date(2026, 9, 1),
            source="half",
        ),
    )


def test_the_source_s_own_rows_win_over_a_rule_without_an_end(tool: ModuleType) -> None:
    rows = tool.multiplied({**RULE, "until": date.max}, MODEL, TOKENS)
    assert rows == tool.multiplied(RULE, MODEL, TOKENS)


def test_a_rule_may_follow_the_units_of_a_later_variant(tool: ModuleType) -> None:
    rows = tool.multiplied({**RULE, "units": "as_variant", "models": "with_variant"}, MODEL, TOKENS)
    assert [sorted(row.prices) for row in rows] == [["input"], ["input"]]
    bare = Model(provider="p", id="m", match={"equals": "m"}, prices=MODEL.prices)
    assert tool.multiplied({**RULE, "units": "as_variant", "models": "with_variant"}, bare, TOKENS) == ()


def test_a_rule_may_multiply_what_another_rule_added(tool: ModuleType) -> None:
    raised = {**RULE, "name": "raised", "context": {"geo": "us"}, "over": [{}, {"tier": "batch"}], "factor": "1.1"}
    raised.pop("until")
    (model,) = tool.overlaid([MODEL], [RULE, raised], TOKENS)
    both = {"tier": "batch", "geo": "us"}
    (early,) = model.special(both, date(2026, 1, 31), time(0))
    assert early.prices == {"input": ["0.0000022", [100, "0.0000033"]], "output": "0.0000044"}
    (late,) = model.special(both, date(2026, 9, 1), time(0))
    assert late.prices == {"input": "0.00000165", "output": "0.0000055"}  # its output falls to the standard price
    (alone,) = model.special({"geo": "us"}, date(2026, 9, 1), time(0))
    assert alone.prices == {"input": "0.0000022", "output": "0.0000055"}


def test_neighbouring_spans_of_equal_prices_are_one_row(tool: ModuleType) -> None:
    rows = (MODEL.prices[0], Row(MODEL.prices[0].prices, since=date(2026, 2, 1)))
    steady = Model(provider="p", id="m", match={"equals": "m"}, prices=rows)
    (row,) = tool.multiplied(RULE, steady, TOKENS)
    assert (row.since, row.until) == (None, date(2026, 9, 1))


def test_a_rule_with_a_list_must_decide_about_every_model(tool: ModuleType) -> None:
    rule = {**RULE, "models": ["a"], "not_models": ["b"]}
    named = {name: Model(provider="p", id=name, match={"equals": name}, prices=MODEL.prices) for name in "abc"}
    assert tool.applies(rule, named["a"])
    assert not tool.applies(rule, named["b"])
    with pytest.raises(SystemExit, match="decides nothing about p/c"):
        tool.applies(rule, named["c"])
    assert not tool.applies({**RULE, "except": ["a"]}, named["a"])
    assert not tool.applies({**RULE, "provider": "q"}, named["a"])


def test_check_mode_tells_a_stale_archive(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = bundled()
    new = old.replace(b'"input":"0.00015"', b'"input":"0.00016"')
    assert new != old
    monkeypatch.setattr(tool, "compiled", lambda: new)
    monkeypatch.setattr(tool, "ARCHIVE", tmp_path / "prices.json")
    (tmp_path / "prices.json").write_bytes(old)
    assert tool.main(["--check"]) == 1
    assert (tmp_path / "prices.json").read_bytes() == old
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    said = capsys.readouterr().out
    assert "up to date" in said
    assert "FINDING past_price_changed openai/o1-pro standard : input=0.00015 -> input=0.00016" in said


# ---- the other rules -------------------------------------------------------------------------------------------------

DRAWER = Model(provider="p", id="draw", match={"equals": "draw"}, prices=(Row({"output": "0.00004"}),))
PRICE: dict[str, Any] = {"name": "sizes", "provider": "p", "models": ["draw"]}


def test_prices_by_variant_are_rows_of_their_own(tool: ModuleType) -> None:
    variants = {"small": {"generated_image": "0.02"}, "large": {"generated_image": "0.04"}}
    rule = {**PRICE, "variants": variants, "since": date(2026, 1, 1)}
    model = tool.priced(rule, DRAWER)
    assert model.prices == DRAWER.prices
    assert model.variants == (
        Row({"generated_image": "0.02"}, when={"variant": "small"}, since=date(2026, 1, 1), source="sizes"),
        Row({"generated_image": "0.04"}, when={"variant": "large"}, since=date(2026, 1, 1), source="sizes"),
    )
    assert tool.priced({**rule, "models": ["other"]}, DRAWER) == DRAWER
    assert tool.priced({**rule, "provider": "q"}, DRAWER) == DRAWER


def test_a_price_without_variant_is_added_to_every_standard_row_that_lacks_it(tool: ModuleType) -> None:
    rule = {**PRICE, "models": "with_unit:web_search", "prices": {"file_search": "0.0025", "web_search": "9"}}
    model = tool.priced(rule, MODEL)
    assert [row.prices["file_search"] for row in model.prices] == ["0.0025", "0.0025"]
    assert [row.prices["web_search"] for row in model.prices] == ["0.01", "0.02"]  # the source's own wins
    assert {row.added for row in model.prices} == {("sizes",)}
    assert tool.priced(rule, DRAWER) == DRAWER


def test_a_request_fee_by_variant_unsettles_the_single_one(tool: ModuleType) -> None:
    asked = Model(
        provider="p", id="ask", match={"equals": "ask"}, prices=(Row({"input": "0.000001", "request": "0.012"}),)
    )
    rule = {**PRICE, "models": ["ask"], "variants": {"low": {"request": "0.005"}}}
    (row,) = tool.priced(rule, asked).prices
    assert row.prices == {"input": "0.000001", "requests": "0.012"}


def test_a_meter_may_cost_what_another_does(tool: ModuleType) -> None:
    rule = {**PRICE, "meter": "image_output", "as": "output"}
    (row,) = tool.equalled(rule, DRAWER).prices
    assert row == Row({"image_output": "0.00004", "output": "0.00004"}, added=("sizes",))
    (without,) = tool.equalled({**rule, "as": "audio_output"}, DRAWER).prices
    assert without == DRAWER.prices[0]


def test_a_new_model_must_not_take_a_name_that_means_something(tool: ModuleType) -> None:
    new = {"provider": "p", "id": "a", "match": {"equals": "a"}}
    assert [model.id for model in tool.with_new_models([DRAWER], [new])] == ["a", "draw"]
    with pytest.raises(SystemExit, match="has draw already"):
        tool.with_new_models([DRAWER], [{**new, "match": {"or": [{"equals": "a"}, {"equals": "draw"}]}}])


def test_factors_are_a_provider_s(tool: ModuleType) -> None:
    rule = {"name": "half", "provider": "p", "context": {"tier": "batch"}, "factor": "0.5"}
    (factor,) = tool.factors([rule], "p")
    assert (factor.when, factor.factor, factor.over, factor.match) == ({"tier": "batch"}, "0.5", {}, None)
    assert tool.factors([rule], "q") == ()
